"""`DGR` and `MeRGAN`: a generator that is trained again on its own images of past classes."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import integer, one_of, real
from ..nn.conditional_generator import ConditionalGenerator
from ..nn.critic import Critic
from .adversarial import critic_loss
from .generative import GenerativeClassifier
from .generative_options import GenerativeOptions
from .images import Samples
from .task_run import Run


@dataclass(frozen=True)
class ReplayOptions(GenerativeOptions):
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


@dataclass(frozen=True)
class MerganOptions(ReplayOptions):
    """See `ReplayOptions`."""

    replay: Literal["joint", "alignment"] = "joint"
    """Train on the old generator's images, or align new images with old ones of the same noise."""
    alignment_weight: float = 1e-3
    """Of half the squared distance of two images, summed; 1e-2 for the authors' SVHN."""

    def check(self, where: str) -> None:
        super().check(where)
        one_of(self.replay, ("joint", "alignment"), "replay", where)
        real(self.alignment_weight, "alignment_weight", where, least=0)


class GenerativeReplay(GenerativeClassifier):
    """What `DGR` and `MeRGAN` share: a conditional generator, and the one before the task."""

    generator: ConditionalGenerator
    options: ReplayOptions

    _LOSSES = ("classifier", "critic", "generator")

    def __init__(self, channels: int = 1, **arguments: Any) -> None:
        super().__init__(channels, **arguments)
        given = self.options
        sizes = self.channels, given.noise, given.width, given.max_classes
        made = ConditionalGenerator(*sizes, size=given.size, generator=self._initial)
        self.generator = made.to(self.device, self.dtype)
        self._old: ConditionalGenerator | None = None

    _joint = True
    """Whether the generator is trained on its own images of past classes."""

    def _drift(self, old: ConditionalGenerator, past: int) -> Tensor:
        """Else: how far its images have come from the old ones."""
        raise NotImplementedError

    @abstractmethod
    def _shares(self, past: int) -> tuple[float, float]:
        """Weights of the losses on new images and on those of the old generator."""

    def _labels(self, images: Tensor, positions: Tensor) -> Tensor:
        """What the old generator's images are taught as."""
        del images
        return positions

    def _begin(self, samples: Samples) -> Run:
        self._old = self._copy() if self.classes else None
        return super()._begin(samples)

    def _copy(self) -> ConditionalGenerator:
        return copy.deepcopy(self.generator).requires_grad_(False).eval()

    def _replayed(self, count: int) -> Tensor:
        """Nothing is kept of a task: images of the old generator are made for each batch."""
        del count
        return super()._replayed(0)

    def _learnt(self) -> list[nn.Parameter]:
        return list(self.generator.parameters())

    def _learn_batch(self, run: Run, x: Tensor, y: Tensor, batch: int, batches: int) -> Tensor:
        o, critic = self.options, self._the_critic("fit_task")
        past = len(run.replay)
        new, old = self._shares(past)
        critic.train()
        self.generator.train()
        loss = new * F.cross_entropy(critic(x)[1], y)
        if self._old is not None:
            old_x, old_y = self._of_the_past(self._old, past, len(x))
            loss = loss + old * F.cross_entropy(critic(old_x)[1], self._labels(old_x, old_y))
        classifier = self._step(run, "critic", loss)

        for _ in range(o.critic_steps):
            fake = self._fake(y)
            mix = torch.rand(len(x), generator=self._random, dtype=self.dtype, device=self.device)
            loss = new * critic_loss(critic, x, fake, mix, o.penalty_weight)
            if self._old is not None and self._joint:
                loss = loss + old * critic_loss(critic, old_x, self._fake(old_y), mix, 0.0)
            of_critic = self._step(run, "critic", loss)

        loss = new * self._adversarial(y)
        if self._old is not None:
            kept = self._adversarial(old_y) if self._joint else self._drift(self._old, past)
            loss = loss + old * kept
        return torch.stack([classifier, of_critic, self._step(run, "generator", loss)])

    @torch.no_grad()
    def _fake(self, y: Tensor) -> Tensor:
        images: Tensor = self.generator(self._noise(y, self._random), y)
        return images

    def _adversarial(self, y: Tensor) -> Tensor:
        """The generator's loss on new images of classes: Wasserstein and auxiliary classifier."""
        scores, logits = self._the_critic("fit_task")(
            self.generator(self._noise(y, self._random), y)
        )
        loss: Tensor = F.cross_entropy(logits, y) - scores.mean()
        return loss

    def _of_the_past(
        self, old: ConditionalGenerator, past: int, count: int
    ) -> tuple[Tensor, Tensor]:
        """So many images of the old generator, and positions of their classes."""
        y = torch.randint(past, (count,), generator=self._random, device=self.device)
        with torch.no_grad():
            return old(self._noise(y, self._random), y), y

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
        self._old = None
        weights = sum(p.numel() * p.element_size() for p in self.generator.parameters())
        return {"bytes": {"weights": weights, "masks": 0}}

    def _sampler(self, task: int) -> Callable[[Tensor, Tensor], Tensor]:
        del task
        return self.generator

    def _own_state(self) -> dict[str, Any]:
        return {"old": None if self._old is None else self._old.state_dict()}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self._old = None
        if state["old"] is not None:
            self._old = self._copy()
            self._old.load_state_dict(state["old"])


class DGR(GenerativeReplay):
    """Deep generative replay (Shin et al.), with a conditional GAN.

    Each task t trains critic and generator on new images with weight 1 / t, and with weight
    1 - 1 / t on images of the generator before, which are of whatever class the critic before says.

    Args:
        channels, seed, device, dtype: as of `DGMw`.
        options: the fields of :class:`ReplayOptions`, by keyword.

    Raises:
        TypeError, ValueError: options out of range.
    """

    _OPTIONS = ReplayOptions
    _teacher: Critic | None = None

    def _begin(self, samples: Samples) -> Run:
        self._teacher = None
        if self.critic is not None:
            self._teacher = copy.deepcopy(self.critic).requires_grad_(False).eval()
        return super()._begin(samples)

    def _shares(self, past: int) -> tuple[float, float]:
        tasks = self.tasks + 1
        return 1 / tasks, 1 - 1 / tasks

    def _labels(self, images: Tensor, positions: Tensor) -> Tensor:
        assert self._teacher is not None  # there are images of the past
        with torch.no_grad():
            labels: Tensor = self._teacher(images)[1].argmax(1)
        return labels

    def _finish(self, samples: Samples) -> dict[str, Any]:
        self._teacher = None
        return super()._finish(samples)

    def _own_state(self) -> dict[str, Any]:
        teacher = None if self._teacher is None else self._teacher.state_dict()
        return {**super()._own_state(), "teacher": teacher}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        super()._load_own_state(state)
        self._teacher = None
        if state["teacher"] is not None:
            known = sum(task < self.tasks for task in self._task_of)
            self._teacher = self._critic(known).requires_grad_(False).eval()
            self._teacher.load_state_dict(state["teacher"])


class MeRGAN(GenerativeReplay):
    """Memory replay GAN (Wu et al.): a conditional GAN that replays itself.

    With ``replay="joint"`` critic and generator are trained on images of the generator before as if
    they were real, of each past class as much as of the new ones; with ``"alignment"`` the images
    of the new generator are drawn to those of the old one of the same noise and class,
    alignment_weight / past classes times sum_c 1/2 sum ||G_old(z, c) - G(z, c)||^2. One critic is
    the classifier, too, and is taught past classes by images of the generator before.

    Args:
        channels, seed, device, dtype: as of `DGMw`.
        options: the fields of :class:`MerganOptions`, by keyword.

    Raises:
        TypeError, ValueError: options out of range.
    """

    options: MerganOptions
    _OPTIONS = MerganOptions

    def __init__(self, channels: int = 1, **arguments: Any) -> None:
        super().__init__(channels, **arguments)
        self._joint = self.options.replay == "joint"

    def _shares(self, past: int) -> tuple[float, float]:
        return 1.0, float(past)

    def _drift(self, old: ConditionalGenerator, past: int) -> Tensor:
        each = max(1, self.options.batch // past)
        y = torch.arange(past, device=self.device).repeat_interleave(each)
        z = self._noise(y, self._random)
        with torch.no_grad():
            before = old(z, y)
        distance: Tensor = (self.generator(z, y) - before).square().sum() / 2
        # The caller multiplies by the number of past classes.
        return self.options.alignment_weight / past**2 * distance
