"""Samples of the masked optimiser steps; see :mod:`op_samples`."""

from __future__ import annotations

from typing import Any

import torch
from sizes import Sizes, randn
from torch import Tensor

from clfast import reference

Masks = list[Tensor | None]


def _shapes(s: Sizes) -> list[tuple[int, ...]]:
    """As of a network: matrices and vectors, one entry, none."""
    return [(s.batch, s.dim), (s.k,), (0, 3), (), (1,), (s.classes, s.rows), (s.classes, 3, 2, 2)]


def _lists(s: Sizes, dtype: torch.dtype, rng: torch.Generator, count: int) -> list[list[Tensor]]:
    return [[randn(rng, *shape, dtype=dtype) for shape in _shapes(s)] for _ in range(count)]


def _masks(s: Sizes, rng: torch.Generator) -> Masks:
    """Bool, packed, none, in turn."""
    masks: Masks = []
    for i, shape in enumerate(_shapes(s)):
        mask = torch.rand(shape, generator=rng) < 0.4
        masks.append([mask, reference.masks.pack_mask(mask), None][i % 3])
    return masks


def sgd(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    params, grads, buffers = _lists(s, dtype, rng, 3)
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.05}
    clip = torch.tensor(0.5, dtype=dtype)
    return (params, grads, buffers, _masks(s, rng)), {**options, "clip": clip}


def sgd_nesterov(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    params, grads, buffers = _lists(s, dtype, rng, 3)
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}
    return (params, grads, buffers, _masks(s, rng)), options


def sgd_plain(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    params, grads = _lists(s, dtype, rng, 2)
    return (params, grads, [], _masks(s, rng)), {"lr": 0.1}


def _steps(s: Sizes) -> list[int]:
    return [1, 2, 7, 100, 10_000, 3, 4][: len(_shapes(s))]


def adam(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    params, grads, first, second = _lists(s, dtype, rng, 4)
    lists = (params, grads, first, [t.square() for t in second], [], _masks(s, rng))
    clip = torch.tensor(0.5, dtype=dtype)
    return lists, {"steps": _steps(s), "lr": 0.1, "weight_decay": 0.05, "clip": clip}


def adam_amsgrad(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    params, grads, first, second, largest = _lists(s, dtype, rng, 5)
    squares = [[t.square() for t in each] for each in (second, largest)]
    options = {"lr": 0.1, "betas": (0.5, 0.9), "eps": 0.01, "weight_decay": 0.1}
    switches = {"decoupled_weight_decay": True, "maximize": True}
    lists = (params, grads, first, *squares, _masks(s, rng))
    return lists, {"steps": _steps(s), **options, **switches}


def grad_norm(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    (grads,) = _lists(s, dtype, rng, 1)
    return (grads, _masks(s, rng)), {}
