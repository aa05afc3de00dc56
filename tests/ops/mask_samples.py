"""Samples of the masks ops; see :mod:`op_samples`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sizes import Sizes, randn
from torch import Tensor

from clfast import reference

Maker = Callable[[Sizes, torch.dtype, torch.Generator], Any]
SCALE = 3.0


def _shapes(s: Sizes) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Of weights, and of embeddings for each weight and for each unit; one number, none."""
    weights = [(s.batch, s.dim), (s.rows, s.k, 2, 2), (s.classes, s.k), (), (0, 3)]
    embeddings = [(s.batch, s.dim), (1, s.k, 1, 1), (s.classes, 1), (), (0, 3)]
    return weights, embeddings


def _tensors(
    shapes: list[tuple[int, ...]], dtype: torch.dtype, rng: torch.Generator
) -> list[Tensor]:
    return [randn(rng, *shape, dtype=dtype) for shape in shapes]


def _masks(shapes: list[tuple[int, ...]], rng: torch.Generator) -> list[Tensor]:
    return [torch.rand(shape, generator=rng) < 0.4 for shape in shapes]


def masked_weight(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    shape = (s.batch, s.classes, s.dim)
    return (*_tensors([shape, shape], dtype, rng), SCALE), {}


def masked_by_units(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    shapes = [(s.batch, s.k, s.dim), (1, s.k, 1)]
    return (*_tensors(shapes, dtype, rng), SCALE), {"max_scale": 5.0}


def mask_sparsity(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    _, shapes = _shapes(s)
    return (_tensors(shapes, dtype, rng), _masks(shapes, rng), SCALE), {}


def masked_weights(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    weights, embeddings = _shapes(s)
    tensors = (_tensors(weights, dtype, rng), _tensors(embeddings, dtype, rng))
    return (*tensors, _masks(embeddings, rng), SCALE), {}


def masked_weights_gradients(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    (weights, *others), _ = masked_weights(s, dtype, rng)
    grads = [randn(rng, *w.shape, dtype=dtype) for w in weights]
    return (grads, 0.7, weights, *others), {"max_scale": 5.0}


def block_gradients(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    shapes, _ = _shapes(s)
    return (_tensors(shapes, dtype, rng), _masks(shapes, rng)), {}


def compensate(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    shapes, _ = _shapes(s)
    return (*(_tensors(shapes, dtype, rng) for _ in range(2)), SCALE, 40.0), {}


def reserve(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    _, shapes = _shapes(s)
    return (_masks(shapes, rng), _tensors(shapes, dtype, rng), SCALE), {}


def reserve_packed(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    (reserved, *others), _ = reserve(s, dtype, rng)
    return (_packed(reserved), *others), {}


def pack_mask(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    return (torch.rand(s.batch, s.dim, generator=rng) < 0.4,), {}


def unpack_mask(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    (mask,), _ = pack_mask(s, dtype, rng)
    return (reference.masks.pack_mask(mask), mask.shape), {}


def _packed(masks: list[Tensor]) -> list[Tensor]:
    return [reference.masks.pack_mask(mask) for mask in masks]


def packed(make: Maker) -> Maker:
    """The same with packed masks, which are the second argument."""

    def made(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
        (first, reserved, *others), options = make(s, dtype, rng)
        return (first, _packed(reserved), *others), options

    return made
