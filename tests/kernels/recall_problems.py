"""Problems for the raw recall kernels, and what the reference makes of them in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from guarded_arrays import Array, Shapes
from kernel_problems import Sizes, tensor, tensor_or_none

from clfast import reference

RECALL = (
    *("recall_gradients", "divergence", "soft_cross_entropy", "distillation"),
    *("image_prior", "recall_step"),
)


@dataclass(frozen=True)
class RecallGradients:
    kernel: ClassVar[str] = "recall_gradients"
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 64

    old_logits: Array  # [M, C]
    new_logits: Array  # [M, C]
    present: Array  # [P]
    multiplicity: Array | None  # [M]
    divergence: Literal["ag", "js", "ce"] = "ag"
    divergence_weight: float = 1.0
    not_local_old: float = 1.0
    not_local_new: float = 0.1
    diversity: float = 16.0
    sharpness: float = 0.1

    def outputs(self) -> Shapes:
        shape, dtype = self.old_logits.shape, self.old_logits.dtype
        return [((1,), dtype), (shape, dtype), (shape, dtype)]

    def oracle(self) -> list[Array]:
        loss, *slopes = reference.recall.recall_gradients(
            *(tensor(self.old_logits), tensor(self.new_logits), tensor(self.present)),
            divergence_weight=self.divergence_weight,
            not_local_old=self.not_local_old,
            not_local_new=self.not_local_new,
            diversity=self.diversity,
            sharpness=self.sharpness,
            divergence=self.divergence,
            multiplicity=tensor_or_none(self.multiplicity),
        )
        return [loss[None].numpy(), *(slope.numpy() for slope in slopes)]

    def variants(self) -> list[dict[str, Any]]:
        one = np.array([1])
        return [
            *({"divergence": kind} for kind in ("ag", "js", "ce")),
            {"present": np.arange(self.old_logits.shape[1])},
            {"present": one, "multiplicity": None},
            {"new_logits": self.old_logits},
            *({"divergence_weight": 0.0, name: 0.0} for name in ("diversity", "sharpness")),
            {"not_local_old": -2.0, "not_local_new": 3.0},
        ]


@dataclass(frozen=True)
class Divergence:
    kernel: ClassVar[str] = "divergence"
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 64

    p_logits: Array  # [M, C]
    q_logits: Array  # [M, C]
    divergence: Literal["ag", "js"] = "ag"

    def outputs(self) -> Shapes:
        shape, dtype = self.p_logits.shape, self.p_logits.dtype
        return [(shape[:1], dtype), (shape, dtype), (shape, dtype)]

    def oracle(self) -> list[Array]:
        p, q = (tensor(z).requires_grad_() for z in (self.p_logits, self.q_logits))
        values = reference.recall.divergence(p, q, self.divergence)
        slopes = torch.autograd.grad(values.sum(), (p, q))
        return [t.detach().numpy() for t in (values, *slopes)]

    def variants(self) -> list[dict[str, Any]]:
        return [{"divergence": "js"}, {"q_logits": self.p_logits}]


@dataclass(frozen=True)
class SoftCrossEntropy:
    kernel: ClassVar[str] = "soft_cross_entropy"
    less_entropy: ClassVar[bool] = False
    factor: ClassVar[float] = 1.0
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 64

    logits: Array  # [M, C]
    target_logits: Array  # [M, C]
    multiplicity: Array | None  # [M]
    temperature: float = 1.0

    def outputs(self) -> Shapes:
        return [((1,), self.logits.dtype), (self.logits.shape, self.logits.dtype)]

    def oracle(self) -> list[Array]:
        logits = tensor(self.logits).requires_grad_()
        loss = reference.recall.soft_cross_entropy(
            logits,
            tensor(self.target_logits),
            temperature=self.temperature,
            multiplicity=tensor_or_none(self.multiplicity),
        )
        (slope,) = torch.autograd.grad(loss, logits)
        return [loss.detach()[None].numpy(), slope.numpy()]

    def variants(self) -> list[dict[str, Any]]:
        return [{"temperature": 4.0}, {"multiplicity": None}]


@dataclass(frozen=True)
class Distillation(SoftCrossEntropy):
    """Of as many logits as there are targets, and with the targets' entropy taken off."""

    less_entropy: ClassVar[bool] = True

    def oracle(self) -> list[Array]:
        logits, targets = tensor(self.logits).requires_grad_(), tensor(self.target_logits)
        copies = tensor_or_none(self.multiplicity)
        counts = torch.ones(len(logits)) if copies is None else copies
        weights = counts.double() / counts.sum()
        loss = torch.zeros((), dtype=torch.float64)
        for row, target, weight in zip(logits, targets, weights, strict=True):
            loss = loss + weight * reference.exemplars.distillation_loss(
                row[None], target[None], self.temperature
            )
        (slope,) = torch.autograd.grad(loss, logits)
        return [loss.detach()[None].numpy(), slope.numpy()]

    def variants(self) -> list[dict[str, Any]]:
        few = self.target_logits[:, :1].copy()
        return [*super().variants(), {"target_logits": self.logits}, {"target_logits": few}]


@dataclass(frozen=True)
class Prior:
    """Images [M, size] as they lie in memory, of ``channels`` x ``height`` x ``width``."""

    kernel: ClassVar[str] = "image_prior"
    scale: ClassVar[float] = 0.0
    units: ClassVar[float] = 64

    images: Array
    channels: int
    height: int
    width: int
    multiplicity: Array | None  # [M]
    channels_last: bool = False
    absolute: bool = False
    tv_weight: float = 1.5
    l2_weight: float = 0.5

    @property
    def planes(self) -> int:
        return 1 if self.channels_last else self.channels

    @property
    def lag(self) -> int:
        return self.channels if self.channels_last else 1

    @property
    def row(self) -> int:
        return self.width * self.lag

    @property
    def down(self) -> float:
        return self._share(self.channels * (self.height - 1) * self.width)

    @property
    def right(self) -> float:
        return self._share(self.channels * self.height * (self.width - 1))

    def _share(self, neighbours: int) -> float:
        return 2 * self.tv_weight / neighbours if neighbours else 0.0

    @property
    def norm(self) -> float:
        return self.l2_weight / (self.channels * self.height * self.width)

    def outputs(self) -> Shapes:
        return [((1,), self.images.dtype), (self.images.shape, self.images.dtype)]

    def in_front(self, array: Array) -> torch.Tensor:
        """The images with their channels first, differentiably."""
        given = tensor(array)
        if not self.channels_last:
            return given.view(-1, self.channels, self.height, self.width)
        behind = given.view(-1, self.height, self.width, self.channels)
        return behind.permute(0, 3, 1, 2)

    def as_stored(self, images: torch.Tensor) -> Array:
        if self.channels_last:
            images = images.permute(0, 2, 3, 1)
        stored: Array = images.detach().flatten(1).contiguous().numpy()
        return stored

    def oracle(self) -> list[Array]:
        images = self.in_front(self.images).requires_grad_()
        if self.absolute:
            value = self.tv_weight * reference.recall.total_variation(images, norm="abs")
            value = value + reference.recall.image_prior(
                images, tv_weight=0.0, l2_weight=self.l2_weight
            )
        else:
            value = reference.recall.image_prior(
                images,
                tv_weight=self.tv_weight,
                l2_weight=self.l2_weight,
                multiplicity=tensor_or_none(self.multiplicity),
            )
        (slope,) = torch.autograd.grad(value, images)
        return [value.detach()[None].numpy(), self.as_stored(slope)]

    def variants(self) -> list[dict[str, Any]]:
        return [
            {"channels_last": True},
            {"absolute": True, "multiplicity": None},
            {"absolute": True, "multiplicity": None, "channels_last": True},
            {"l2_weight": 0.0},
            {"tv_weight": 0.0},
        ]


@dataclass(frozen=True)
class Step(Prior):
    kernel: ClassVar[str] = "recall_step"
    scale: ClassVar[float] = 1.0

    grad: Array | None = None  # [M, size]
    lr: float = 2.0
    per_copy: bool = False

    def outputs(self) -> Shapes:
        return [(self.images.shape, self.images.dtype)]

    def oracle(self) -> list[Array]:
        assert self.grad is not None
        images = self.in_front(self.images).contiguous()
        reference.recall.recall_step_(
            *(images, self.in_front(self.grad)),
            lr=self.lr,
            tv_weight=self.tv_weight,
            l2_weight=self.l2_weight,
            multiplicity=tensor_or_none(self.multiplicity),
            per_copy=self.per_copy,
        )
        return [self.as_stored(images)]

    def variants(self) -> list[dict[str, Any]]:
        return [{"channels_last": True}, {"per_copy": True}, {"multiplicity": None}]


def make(kernel: str, s: Sizes, dtype: str, rng: np.random.Generator) -> Any:
    """``batch`` rows of ``classes`` logits, or images of 2 x ``dim`` x ``k``."""
    logits = [2 * rng.standard_normal((s.batch, s.classes)).astype(dtype) for _ in range(2)]
    copies = rng.integers(1, 5, s.batch)
    if kernel == "recall_gradients":
        return RecallGradients(*logits, np.arange(0, s.classes, 3), copies)
    if kernel == "divergence":
        return Divergence(*logits)
    if kernel == "soft_cross_entropy":
        return SoftCrossEntropy(*logits, copies)
    if kernel == "distillation":
        return Distillation(logits[0], logits[1][:, : (s.classes + 1) // 2].copy(), copies)
    images = [rng.standard_normal((s.batch, 2 * s.dim * s.k)).astype(dtype) for _ in range(2)]
    prior = Prior(images[0], 2, s.dim, s.k, copies)
    if kernel == "image_prior":
        return prior
    return Step(**prior.__dict__, grad=images[1])


def all_variants(problem: Any) -> list[Any]:
    return [problem, *(replace(problem, **changes) for changes in problem.variants())]
