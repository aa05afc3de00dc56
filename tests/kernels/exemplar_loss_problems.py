"""Problems for the raw kernels of losses and heads of learners with exemplars, and what the
reference makes of them in float64. Distillation is among the problems of recall."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from guarded_arrays import Array, Shapes
from kernel_problems import Sizes, tensor

from clfast import reference

KERNELS = ("margin_ranking", "cosine_rows", "bias_correct")


@dataclass(frozen=True)
class MarginRanking:
    kernel: ClassVar[str] = "margin_ranking"
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 64

    cosines: Array  # [N, C]
    labels: Array  # [N]
    new_classes: Array  # [P]
    margin: float = 0.5
    k: int = 3

    @property
    def ranked(self) -> int:
        return min(self.k, len(self.new_classes))

    def outputs(self) -> Shapes:
        return [((1,), self.cosines.dtype), (self.cosines.shape, self.cosines.dtype)]

    def oracle(self) -> list[Array]:
        cosines = tensor(self.cosines).requires_grad_()
        loss = reference.exemplars.margin_ranking_loss(
            *(cosines, tensor(self.labels), tensor(self.new_classes)), margin=self.margin, k=self.k
        )
        (slope,) = torch.autograd.grad(loss, cosines)
        return [loss.detach()[None].numpy(), slope.numpy()]

    def variants(self) -> list[dict[str, Any]]:
        classes = self.cosines.shape[1]
        return [
            {"k": 1},
            {"k": 100},
            {"margin": -0.25},
            {"margin": 3.0},
            {"cosines": np.round(4 * self.cosines) / 4},  # with ties
            {"new_classes": np.arange(classes)[::-1].copy()},  # nobody is old
            {"new_classes": np.arange(0)},
            {"new_classes": np.array([classes - 1, 0, classes - 1])},
        ]


@dataclass(frozen=True)
class CosineRows:
    """Rows at unit length, times a factor, and the gradient by the rows of slopes by those."""

    kernel: ClassVar[str] = "cosine_rows"
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 64

    rows: Array  # [N, d]
    slopes: Array  # [N, d]
    factor: float | None = 1.5

    def outputs(self) -> Shapes:
        shape, dtype = self.rows.shape, self.rows.dtype
        return [(shape, dtype), (shape[:1], dtype), (shape, dtype), (shape[:1], dtype)]

    def oracle(self) -> list[Array]:
        rows, slopes = tensor(self.rows).requires_grad_(), tensor(self.slopes)
        factor = 1.0 if self.factor is None else self.factor
        unit = torch.nn.functional.normalize(rows, dim=1)
        inverse = 1 / rows.detach().norm(dim=1).clamp_min(1e-12)
        (gradient,) = torch.autograd.grad(factor * unit, rows, slopes)
        dots = (unit.detach() * slopes).sum(1)
        return [t.numpy() for t in ((factor * unit).detach(), inverse, gradient, dots)]

    def variants(self) -> list[dict[str, Any]]:
        return [{"factor": None}, {"factor": -2.0}, {"factor": 0.0}]


@dataclass(frozen=True)
class BiasCorrect:
    kernel: ClassVar[str] = "bias_correct"
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 64

    logits: Array  # [N, C]
    grad: Array  # [N, C]
    new_classes: Array  # [P]
    factor: float = 0.75
    shift: float = -1.25

    def outputs(self) -> Shapes:
        shape, dtype = self.logits.shape, self.logits.dtype
        return [(shape, dtype), (shape, dtype), ((1,), dtype), ((1,), dtype)]

    def oracle(self) -> list[Array]:
        inputs = [
            tensor(self.logits).requires_grad_(),
            *(
                torch.tensor(x, dtype=torch.float64, requires_grad=True)
                for x in (self.factor, self.shift)
            ),
        ]
        out = reference.exemplars.bias_correct(inputs[0], tensor(self.new_classes), *inputs[1:])
        slopes = torch.autograd.grad(out, inputs, tensor(self.grad))
        return [t.detach().reshape(t.shape or (1,)).numpy() for t in (out, *slopes)]

    def variants(self) -> list[dict[str, Any]]:
        classes = np.arange(self.logits.shape[1])
        return [{"new_classes": classes}, {"new_classes": classes[:0]}, {"factor": 0.0}]


def make(kernel: str, s: Sizes, dtype: str, rng: np.random.Generator) -> Any:
    def values(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    new_classes = np.arange(0, s.classes, 3)
    if kernel == "margin_ranking":
        cosines = np.clip(values(s.batch, s.classes), -1, 1)
        return MarginRanking(cosines, rng.integers(0, s.classes, s.batch), new_classes)
    if kernel == "cosine_rows":
        return CosineRows(values(s.batch, s.dim), values(s.batch, s.dim))
    return BiasCorrect(values(s.batch, s.classes), values(s.batch, s.classes), new_classes)


def all_variants(problem: Any) -> list[Any]:
    return [problem, *(replace(problem, **changes) for changes in problem.variants())]
