"""Samples of the consolidation ops; see :mod:`op_samples`."""

from __future__ import annotations

from typing import Any

import torch
from sizes import Sizes, randn
from torch import Tensor


def _gradients(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> list[Tensor]:
    """As of a network: matrices and vectors, one entry, none."""
    shapes = [(s.batch, s.dim), (s.k,), (0, 3), (), (1,), (s.classes, s.rows), (s.classes, 3, 2, 2)]
    return [randn(rng, *shape, dtype=dtype) for shape in shapes]


def _lists(s: Sizes, dtype: torch.dtype, rng: torch.Generator, toward: float) -> Any:
    grads = _gradients(s, dtype, rng)
    reference = [
        (toward * g + 0.5 * noise).to(dtype)
        for g, noise in zip(grads, _gradients(s, dtype, rng), strict=True)
    ]
    return (grads, reference), {}


def opposed_gradients(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    return _lists(s, dtype, rng, -1.0)


def agreeing_gradients(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    return _lists(s, dtype, rng, 1.0)


def _memories(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A gradient, and those of ``batch`` tasks; all of them agree with it."""
    grad = randn(rng, s.dim, dtype=dtype)
    memory = randn(rng, s.batch, s.dim, dtype=dtype) / s.dim**0.5
    signs = (memory.double() @ grad.double()).sign().to(dtype)
    return grad, signs[:, None] * memory


def gem_project(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    """Every other task disagrees, the first included."""
    grad, memory = _memories(s, dtype, rng)
    memory[::2] *= -1
    return (grad, memory), {"margin": 0.5}


def gem_project_agreeing(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    return _memories(s, dtype, rng), {"margin": 0.5}


def _penalty(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> tuple[list[Tensor], ...]:
    """Parameters, where they were, and their importances."""
    params, moves, roots = (_gradients(s, dtype, rng) for _ in range(3))
    anchors = [(p + 0.5 * move).to(dtype) for p, move in zip(params, moves, strict=True)]
    return params, anchors, [root**2 for root in roots]


def quadratic_penalty(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    return _penalty(s, dtype, rng), {}


def add_penalty_gradients(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    return (_gradients(s, dtype, rng), *_penalty(s, dtype, rng), 0.7), {}


def path_integral(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    return tuple(_gradients(s, dtype, rng) for _ in range(3)), {}


def path_integral_of_a_step(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    """Some of what there is has not moved."""
    lists, _ = path_integral(s, dtype, rng)
    before = _gradients(s, dtype, rng)
    before[0] = lists[2][0].clone()
    return lists, {"before": before}
