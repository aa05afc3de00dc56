"""Problems for the raw consolidation kernels, and what the reference makes of them in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from guarded_arrays import Array, Shapes
from kernel_problems import tensor
from torch import Tensor

from clfast import reference


@dataclass(frozen=True)
class Projection:
    """Lists of gradients, behind one another; ``ends[i]`` is where tensor i ends."""

    kernel: ClassVar[str] = "project_gradients"
    scale: ClassVar[float] = 1.0  # of what the gradients are differences of
    units: ClassVar[float] = 16

    grads: Array  # [P]
    reference: Array  # [P]
    ends: Array  # [tensors]

    def outputs(self) -> Shapes:
        return [(self.grads.shape, self.grads.dtype)]

    def oracle(self) -> list[Array]:
        grads = tensor(self.grads).clone()
        reference.consolidation.project_gradients_([grads], [tensor(self.reference)])
        return [grads.numpy()]


def opposed(sizes: Sequence[int], dtype: str, rng: np.random.Generator) -> Projection:
    grads, noise = (rng.standard_normal(sum(sizes)).astype(dtype) for _ in range(2))
    return Projection(grads, noise / 2 - grads, np.cumsum(sizes))


@dataclass(frozen=True)
class Gem:
    kernel: ClassVar[str] = "gem_project"
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 32

    grad: Array  # [P]
    memory_grads: Array  # [T, P]
    margin: float

    def outputs(self) -> Shapes:
        return [(self.grad.shape, self.grad.dtype)]

    def oracle(self) -> list[Array]:
        grad, memory = tensor(self.grad), tensor(self.memory_grads)
        return [reference.consolidation.gem_project(grad, memory, self.margin).numpy()]


def conflicting(
    tasks: int, columns: int, dtype: str, rng: np.random.Generator, margin: float = 0.5
) -> Gem:
    """Memories of which about half, and one for certain, point away from the gradient."""
    grad = rng.standard_normal(columns)
    memory = 0.3 * rng.standard_normal((tasks, columns))
    memory += 0.1 * rng.standard_normal((tasks, 1)) * grad
    memory[-1] -= 0.2 * grad * abs(memory[-1] @ grad) / (0.1 * grad @ grad)
    return Gem(grad.astype(dtype), memory.astype(dtype), margin)


@dataclass(frozen=True)
class Penalty:
    """Lists behind one another; the value with gradients and without, and the gradients."""

    kernel: ClassVar[str] = "quadratic_penalty"
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 8

    params: Array  # [P]
    anchors: Array  # [P]
    importances: Array  # [P]
    ends: Array  # [tensors]

    def outputs(self) -> Shapes:
        return [(shape, self.params.dtype) for shape in ((2,), self.params.shape)]

    def lists(self) -> list[list[Tensor]]:
        return [[tensor(row)] for row in (self.params, self.anchors, self.importances)]

    def oracle(self) -> list[Array]:
        value = reference.consolidation.quadratic_penalty(*self.lists())
        grad = torch.zeros(len(self.params), dtype=torch.float64)
        reference.consolidation.add_penalty_gradients_([grad], *self.lists(), 1.0)
        return [value.repeat(2).numpy(), grad.numpy()]


@dataclass(frozen=True)
class AddedPenalty(Penalty):
    kernel: ClassVar[str] = "add_penalty_gradients"

    grads: Array  # [P]
    strength: float = 0.75

    def outputs(self) -> Shapes:
        return [(self.grads.shape, self.grads.dtype)]

    def oracle(self) -> list[Array]:
        grad = tensor(self.grads).clone()
        reference.consolidation.add_penalty_gradients_([grad], *self.lists(), self.strength)
        return [grad.numpy()]


@dataclass(frozen=True)
class PathIntegral:
    kernel: ClassVar[str] = "path_integral"
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 4

    omegas: Array  # [P]
    grads: Array  # [P]
    after: Array  # [P]
    before: Array | None  # [P]; None: zeros
    ends: Array  # [tensors]

    def outputs(self) -> Shapes:
        return [(self.omegas.shape, self.omegas.dtype)]

    def oracle(self) -> list[Array]:
        omega = tensor(self.omegas).clone()
        deltas = self.after if self.before is None else self.after - self.before
        reference.consolidation.path_integral_([omega], [tensor(self.grads)], [tensor(deltas)])
        return [omega.numpy()]


def path_integrals(
    sizes: Sequence[int], dtype: str, rng: np.random.Generator
) -> list[PathIntegral]:
    """Of deltas, and of parameters before and after a step; with gradients of inf and NaN, some of
    them where nothing moves."""
    omegas, grads, after, before = rng.standard_normal((4, sum(sizes))).astype(dtype)
    grads[::7] = np.inf
    grads[3::11] = np.nan
    made = []
    for start in (None, before):
        end = after.copy()
        end[::7] = 0 if start is None else start[::7]
        made.append(PathIntegral(omegas, grads, end, start, np.cumsum(sizes)))
    return made


def penalties(sizes: Sequence[int], dtype: str, rng: np.random.Generator) -> list[Penalty]:
    rows = rng.standard_normal((4, sum(sizes))).astype(dtype)
    lists = (rows[0], rows[1], rows[2] ** 2, np.cumsum(sizes))
    return [Penalty(*lists), AddedPenalty(*lists, rows[3])]
