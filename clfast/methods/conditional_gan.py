"""`ConditionalGan`: a critic that classifies, and a conditional generator trained against it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import integer
from ..nn.conditional_generator import ConditionalGenerator
from .adversarial import add_critic_gradients
from .adversarial_classifier import AdversarialClassifier
from .generative_options import GenerativeOptions
from .images import Samples
from .task_run import Run


@dataclass(frozen=True)
class GanOptions(GenerativeOptions):
    """The defaults are those of MeRGAN's authors, but for epochs: they take 4,000 steps a class."""

    epochs: int = 40
    lr: float = 1e-4
    betas: tuple[float, float] = (0.0, 0.9)
    width: int = 32
    penalty_weight: float = 10.0
    critic_steps: int = 5
    """Of the critic, for each of the generator."""

    def check(self, where: str) -> None:
        super().check(where)
        integer(self.critic_steps, "critic_steps", where, least=1)


class Past(NamedTuple):
    """Images of past classes that a batch is learnt with."""

    images: Tensor  # [B, channels, size, size] in [-1, 1]
    positions: Tensor  # [B] of the classes that they were made of
    labels: Tensor  # [B] what the critic is taught that they are
    weight: float  # of their losses


class ConditionalGan(AdversarialClassifier):
    """An AC-GAN with the Wasserstein loss and a gradient penalty, that learns task after task.

    For each batch x, y of a task the critic takes a step on its classifier's loss,
    w CE(x, y) + v CE(x', y') with images x' of the past, then ``critic_steps`` on
    w (mean score(G(z, y)) - mean score(x) + penalty_weight GP) + K_critic, and the generator takes
    one on w (CE(G(z, y), y) - mean score(G(z, y))) + K_generator. Subclasses say what x', y' and v
    are, and by which terms K the networks are kept from forgetting.
    """

    generator: ConditionalGenerator
    options: GanOptions

    _OPTIONS = GanOptions
    _LOSSES = ("classifier", "critic", "generator")

    @torch.inference_mode(False)
    def __init__(self, channels: int = 1, **arguments: Any) -> None:
        super().__init__(channels, **arguments)
        given = self.options
        sizes = self.channels, given.noise, given.width, given.max_classes
        with torch.device("cpu"):
            made = ConditionalGenerator(*sizes, size=given.size, generator=self._initial)
        self.generator = made.to(self.device, self.dtype)

    @abstractmethod
    def _past(self, run: Run, count: int) -> Past | None:
        """So many images of the past, x' and y' with v; None where there are none."""

    def _new_weight(self) -> float:
        """w."""
        return 1.0

    def _add_critic_keeps(self, past: Past | None) -> Tensor | float:
        """K of the critic, whose gradients are added to those of its parameters."""
        del past
        return 0.0

    def _generator_keeps(self, past: Past | None) -> Tensor | float:
        """K of the generator."""
        del past
        return 0.0

    def _learnt(self) -> list[nn.Parameter]:
        return list(self.generator.parameters())

    def _learn_batch(self, run: Run, x: Tensor, y: Tensor, batch: int, batches: int) -> Tensor:
        o, critic = self.options, self._the_critic("fit_task")
        new, past = self._new_weight(), self._past(run, len(x))
        critic.train()
        self.generator.train()
        loss = new * F.cross_entropy(critic(x)[1], y)
        if past is not None:
            loss = loss + past.weight * F.cross_entropy(critic(past.images)[1], past.labels)
        classifier = self._step(run, "critic", loss)

        for _ in range(o.critic_steps):
            fake = self._fake(y)
            mix = torch.rand(len(x), generator=self._random, dtype=self.dtype, device=self.device)
            run.optimizers["critic"].zero_grad()
            of_critic = add_critic_gradients(critic, x, fake, mix, o.penalty_weight, new)
            of_critic = of_critic + self._add_critic_keeps(past)
            run.optimizers["critic"].step()

        loss = new * self._adversarial(y) + self._generator_keeps(past)
        return torch.stack([classifier, of_critic, self._step(run, "generator", loss)])

    @torch.no_grad()
    def _fake(self, y: Tensor) -> Tensor:
        images: Tensor = self.generator(self._noise(y, self._random), y)
        return images

    def _adversarial(self, y: Tensor) -> Tensor:
        """The generator's loss on new images of classes: Wasserstein and auxiliary classifier."""
        scores, logits = self._judged(self.generator(self._noise(y, self._random), y))
        loss: Tensor = F.cross_entropy(logits, y) - scores.mean()
        return loss

    def _step(self, run: Run, name: str, loss: Tensor) -> Tensor:
        optimizer = run.optimizers[name]
        parameters = optimizer.param_groups[0]["params"]
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    def _finish(self, samples: Samples) -> dict[str, Any]:
        del samples
        return {
            "widths": [len(shift[0]) for shift in self.generator.shifts],
            "bytes": {"weights": sum(p.nbytes for p in self.generator.parameters())},
        }

    def _noise(self, positions: Tensor, generator: torch.Generator | None) -> Tensor:
        size = len(positions), self.options.noise
        return torch.randn(*size, generator=generator, dtype=self.dtype, device=self.device)

    def _sampler(self, task: int) -> Callable[[Tensor, Tensor], Tensor]:
        del task
        return self.generator
