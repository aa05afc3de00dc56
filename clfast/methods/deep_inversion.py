"""`DeepInversion`: rehearsal on images that are made from noise, by the recipe of Yin et al.

"Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020, with adaptive
inversion, as their code runs it. :mod:`.adi` is what the ARM paper compares to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import integer, real
from .._modes import evaluating
from .adi import PastClassImages, statistics_distances
from .image_recall import Drawn, Objective, RecallOptions
from .image_replay import ImageReplay

_BETAS = (0.5, 0.9)  # of Adam
_COMPETITION = 3.0  # temperature of the divergence between the networks
_FIRST_LAYER = 10.0  # weight of its statistics among those of all layers


@dataclass(frozen=True)
class DeepInversionOptions(RecallOptions):
    steps: int = 2000
    lr: float = 0.25
    divergence_weight: float = 0.2
    tv_weight: float = 1e-4
    l2_weight: float = 1e-5
    start: Literal["batch", "noise"] = field(default="noise", init=False)
    dedup: bool = field(default=False, init=False)  # no two images begin alike
    cuda_graph: bool = field(default=False, init=False)  # jitter is drawn on the host
    l1_variation_weight: float = 0.0
    statistics_weight: float = 0.05
    jitter: int = 2
    warm_up: int = 100
    values: tuple[float, float] = (0.0, 1.0)

    def check(self, where: str) -> None:
        super().check(where)
        integer(self.jitter, "jitter", where, least=0)
        integer(self.warm_up, "warm_up", where, least=1)
        if not isinstance(self.values, tuple | list) or len(self.values) != 2:
            raise ValueError(f"{where}: values must be (lowest, highest), got {self.values!r}")
        low, high = (real(value, "values", where) for value in self.values)
        if low >= high:
            raise ValueError(f"{where}: values must be (lowest, highest), got {self.values}")


class ImagesFromNoise(PastClassImages):
    """Adam on images that begin as Gaussian noise, both networks in eval mode."""

    options: DeepInversionOptions

    def begin(self, x: Tensor, drawn: Drawn) -> Tensor:
        shape = (len(drawn.rows), *x.shape[1:])
        return torch.randn(shape, generator=self.generator, dtype=x.dtype, device="cpu").to(
            x.device
        )

    def refine(
        self, old: nn.Module, new: nn.Module, images: Tensor, drawn: Drawn
    ) -> tuple[Tensor, Tensor]:
        o = self.options
        images = images.clone()
        optimizer = torch.optim.Adam([images], lr=o.lr, betas=_BETAS)
        loss = images.new_zeros(())
        objective = self.objective(old, new, drawn)
        with evaluating(old, new):
            for step in range(o.steps):
                loss, images.grad = objective(images)
                optimizer.param_groups[0]["lr"] = o.lr * _schedule(step, o.steps, o.warm_up)
                optimizer.step()
                images.clamp_(*o.values)
        return images, loss

    def objective(self, old: nn.Module, new: nn.Module, drawn: Drawn) -> Objective:
        o = self.options

        def value_and_gradient(images: Tensor) -> tuple[Tensor, Tensor]:
            images = images.detach().requires_grad_()
            moved = self._moved(images.view(len(images), *(o.image_shape or images.shape[1:])))
            inputs = moved.reshape(images.shape)
            with statistics_distances(old, None, unbiased=False) as distances:
                before = self.logits(old, inputs)
            loss = F.cross_entropy(before, drawn.classes)
            if o.divergence_weight:
                after = self.logits(new, inputs)
                loss = loss + o.divergence_weight * (1 - _competition(before, after))
            for i, distance in enumerate(distances):
                loss = loss + o.statistics_weight * (1.0 if i else _FIRST_LAYER) * distance
            differences = four_directions(moved)
            loss = loss + o.tv_weight * sum(each.norm() for each in differences)
            loss = loss + o.l1_variation_weight * sum(each.abs().mean() for each in differences)
            loss = loss + o.l2_weight * moved.flatten(1).norm(dim=1).mean()
            return loss.detach(), torch.autograd.grad(loss, images)[0]

        return value_and_gradient

    def _moved(self, images: Tensor) -> Tensor:
        """Rolled by up to `jitter` pixels along both axes, and every other time mirrored."""
        jitter = self.options.jitter
        shift = torch.randint(
            -jitter, jitter + 1, (2,), generator=self.generator, device="cpu"
        ).tolist()
        rolled = images.roll(shift, (2, 3))
        mirror = torch.rand((), generator=self.generator, device="cpu") < 0.5
        return rolled.flip(3) if mirror else rolled


def four_directions(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Differences of neighbouring pixels: to the right, down, and along both diagonals."""
    return (
        images[:, :, :, :-1] - images[:, :, :, 1:],
        images[:, :, :-1, :] - images[:, :, 1:, :],
        images[:, :, :-1, :-1] - images[:, :, 1:, 1:],
        images[:, :, 1:, :-1] - images[:, :, :-1, 1:],
    )


def _competition(old_logits: Tensor, new_logits: Tensor) -> Tensor:
    """min(1, ½ KL(m‖p) + ½ KL(m‖q)) of the softened predictions, which are kept from 0 and 1."""
    p, q = ((z / _COMPETITION).softmax(1) for z in (old_logits, new_logits))
    mean = ((p + q) / 2).clamp(0.01, 0.99)
    p, q = (z.clamp(0.01, 0.99).log() for z in (p, q))
    both = F.kl_div(p, mean, reduction="batchmean") + F.kl_div(q, mean, reduction="batchmean")
    return (both / 2).clamp(0, 1)


def _schedule(step: int, steps: int, warm_up: int) -> float:
    """The learning rate's factor: a linear rise, then half a cosine over what is left."""
    if step < warm_up:
        return (step + 1) / warm_up
    return (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2


class DeepInversion(ImageReplay):
    """Replay of images by DeepInversion with adaptive competition.

    As :class:`ADI`, whose loss on images it shares but for the prior, with images from noise, Adam,
    jitter and mirroring, both networks in eval mode, and many steps. Recipe and defaults are those
    of the authors' code for ImageNet, at one resolution and with the jitter of their code for
    CIFAR-10; a call of ``observe`` takes 2,000 passes through both networks.

    minimised: CE(a, class) + w_D (1 - min(1, D_3)) + w_S sum over layers of (‖μ - μ_run‖ +
    ‖σ² - σ²_run‖), the first layer ten times, + w_TV sum over four directions ‖difference‖ + w_1
    sum of mean |difference| + w_2 mean norm of an image; D_3 at temperature 3, its probabilities
    kept in [0.01, 0.99], variances biased.

    Args:
        model, optimizer, snapshot, teach_from, images, replay_weight, distill_weight, replay_mean,
            repeats, refine_from_scratch, image_shape, autocast, generator: see :class:`ARM`.
        steps, lr: of Adam with betas (0.5, 0.9); the rate rises over ``warm_up`` steps and then
            falls by half a cosine.
        divergence_weight, statistics_weight: w_D and w_S, 0.2 and 0.05 by default.
        tv_weight, l1_variation_weight, l2_weight: w_TV, w_1 and w_2, 1e-4, 0 and 1e-5 by default.
        jitter: pixels by which images are rolled at most, 2 by default.
        values: lowest and highest value of a pixel, (0, 1) by default.

    Raises:
        TypeError, ValueError: as :class:`ARM`.
    """

    _OPTIONS = DeepInversionOptions
    _RECALL = ImagesFromNoise
