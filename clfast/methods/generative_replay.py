"""`DGR` and `MeRGAN`: a generator that is trained again on its own images of past classes."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .._arguments import one_of, real
from ..nn.conditional_generator import ConditionalGenerator
from ..nn.critic import Critic
from .adversarial import add_wasserstein_gradients
from .conditional_gan import ConditionalGan, GanOptions, Past
from .images import Samples
from .task_run import Run


@dataclass(frozen=True)
class MerganOptions(GanOptions):
    """See `GanOptions`."""

    replay: Literal["joint", "alignment"] = "joint"
    """Train on the old generator's images, or align new images with old ones of the same noise."""
    alignment_weight: float = 1e-3
    """Of half the squared distance of two images, summed; 1e-2 for the authors' SVHN."""

    def check(self, where: str) -> None:
        super().check(where)
        one_of(self.replay, ("joint", "alignment"), "replay", where)
        real(self.alignment_weight, "alignment_weight", where, least=0)


class GenerativeReplay(ConditionalGan):
    """What `DGR` and `MeRGAN` share: images of the generator before the task are learnt again.

    x' are such images, and both networks are trained on them as if they were real:
    K_critic = v (mean score(G(z, c)) - mean score(x')), without a gradient penalty, and
    K_generator = v (CE(G(z, c), c) - mean score(G(z, c))) for the classes c that x' were made of.
    """

    _old: ConditionalGenerator | None = None

    @abstractmethod
    def _past_weight(self, past: int) -> float:
        """v."""

    def _labels(self, images: Tensor, positions: Tensor) -> Tensor:
        """y'."""
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
        return self._remembered(0)

    def _past(self, run: Run, count: int) -> Past | None:
        if self._old is None:
            return None
        past = len(run.replay)
        y = torch.randint(past, (count,), generator=self._random, device=self.device)
        with torch.no_grad():
            images = self._old(self._noise(y, self._random), y)
        return Past(images, y, self._labels(images, y), self._past_weight(past))

    def _add_critic_keeps(self, past: Past | None) -> Tensor | float:
        if past is None:
            return 0.0
        fake, critic = self._fake(past.positions), self._the_critic("fit_task")
        return add_wasserstein_gradients(critic, past.images, fake, past.weight)

    def _generator_keeps(self, past: Past | None) -> Tensor | float:
        return 0.0 if past is None else past.weight * self._adversarial(past.positions)

    def _finish(self, samples: Samples) -> dict[str, Any]:
        self._old = None
        return super()._finish(samples)

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
    1 - 1 / t on images of the generator before, which are of whatever class the classifier before
    says.

    Args:
        channels, seed, device, dtype: as of `DGMw`.
        options: the fields of :class:`GanOptions`, by keyword.

    Raises:
        TypeError, ValueError: options out of range.
    """

    _teacher: Critic | None = None

    def _begin(self, samples: Samples) -> Run:
        self._teacher = None
        if self.classifier is not None:
            self._teacher = copy.deepcopy(self.classifier).requires_grad_(False).eval()
        return super()._begin(samples)

    def _new_weight(self) -> float:
        return 1 / (self.tasks + 1)

    def _past_weight(self, past: int) -> float:
        del past
        return 1 - 1 / (self.tasks + 1)

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

    def _past_weight(self, past: int) -> float:
        return float(past)

    def _add_critic_keeps(self, past: Past | None) -> Tensor | float:
        if self.options.replay == "alignment":
            return 0.0
        return super()._add_critic_keeps(past)

    def _generator_keeps(self, past: Past | None) -> Tensor | float:
        if self._old is None or self.options.replay == "joint":
            return super()._generator_keeps(past)
        return self._apart(self._old, sum(task < self.tasks for task in self._task_of))

    def _apart(self, old: ConditionalGenerator, past: int) -> Tensor:
        """How far images of the past classes have come from the old ones, weighted."""
        each = max(1, self.options.batch // past)
        y = torch.arange(past, device=self.device).repeat_interleave(each)
        z = self._noise(y, self._random)
        with torch.no_grad():
            before = old(z, y)
        distance: Tensor = (self.generator(z, y) - before).square().sum() / 2
        return self.options.alignment_weight / past * distance
