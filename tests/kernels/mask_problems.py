"""Problems for the raw masks kernels, and what the reference makes of them in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from guarded_arrays import Array, Shapes
from kernel_problems import tensor
from torch import Tensor

from clfast import reference

Shape = tuple[int, int, int]  # outer, channels, inner


def _split(flat: Array, sizes: Sequence[int]) -> list[Tensor]:
    return list(tensor(flat).split(list(sizes)))


def _joined(tensors: Sequence[Tensor]) -> Array:
    joined: Array = torch.cat([t.flatten() for t in tensors]).numpy()
    return joined


def _masks(marks: Array, sizes: Sequence[int], packed: bool) -> list[Tensor]:
    held = [(size + 7) // 8 if packed else size for size in sizes]
    parts = torch.from_numpy(marks).split(held)
    if packed:
        return [
            reference.masks.unpack_mask(p, (size,)) for p, size in zip(parts, sizes, strict=True)
        ]
    return [p.bool() for p in parts]


@dataclass(frozen=True)
class Layers:
    """Layers behind one another, in every array."""

    kernel: ClassVar[str] = "mask_layers"
    scale_of_error: ClassVar[float] = 0.0
    units: ClassVar[float] = 32

    shapes: list[Shape]
    weights: Array
    embeddings: Array
    grads: Array
    marks: Array  # uint8
    packed: bool
    scale: float
    max_scale: float | None
    sparsity_grad: float = 0.7

    def outputs(self) -> Shapes:
        dtype = self.weights.dtype
        of_weights, of_embeddings = (self.weights.shape, dtype), (self.embeddings.shape, dtype)
        return [of_weights, ((1,), dtype), ((1,), np.int64), of_weights, of_embeddings]

    def oracle(self) -> list[Array]:
        channels = [c for _, c, _ in self.shapes]
        elements = [math.prod(shape) for shape in self.shapes]
        weights, grads = (
            [t.view(shape) for t, shape in zip(_split(flat, elements), self.shapes, strict=True)]
            for flat in (self.weights, self.grads)
        )
        embeddings = [t[:, None] for t in _split(self.embeddings, channels)]
        reserved = [m[:, None] for m in _masks(self.marks, channels, self.packed)]
        layers = (weights, embeddings, reserved, self.scale)
        masked, sparsity = reference.masks.masked_weights(*layers, max_scale=self.max_scale)
        d_weights, d_embeddings = reference.masks.masked_weights_gradients(
            grads, self.sparsity_grad, *layers, max_scale=self.max_scale
        )
        free = sum(int((~r).sum()) for r in reserved)
        return [
            _joined(masked),
            sparsity.numpy().reshape(1),
            np.array([free]),
            _joined(d_weights),
            _joined(d_embeddings),
        ]


def _marks(sizes: Sequence[int], packed: bool, rng: np.random.Generator, share: float) -> Array:
    masks = [torch.from_numpy(rng.random(size) < share) for size in sizes]
    held = [reference.masks.pack_mask(m) if packed else m.byte() for m in masks]
    return _joined(held)


def layers(
    shapes: Sequence[Shape],
    dtype: str,
    packed: bool,
    rng: np.random.Generator,
    max_scale: float | None = None,
    scale: float = 3.0,
) -> Layers:
    elements = sum(math.prod(shape) for shape in shapes)
    channels = [c for _, c, _ in shapes]
    weights, grads = (rng.standard_normal(elements).astype(dtype) for _ in range(2))
    embeddings = rng.standard_normal(sum(channels)).astype(dtype)
    marks = _marks(channels, packed, rng, 0.4)
    return Layers(list(shapes), weights, embeddings, grads, marks, packed, scale, max_scale)


@dataclass(frozen=True)
class Blocked:
    kernel: ClassVar[str] = "block_gradients"

    sizes: list[int]
    grads: Array
    marks: Array
    packed: bool

    def outputs(self) -> Shapes:
        return [(self.grads.shape, self.grads.dtype)]

    def oracle(self) -> list[Array]:
        mask = _joined(_masks(self.marks, self.sizes, self.packed))
        return [np.where(mask, np.zeros_like(self.grads), self.grads)]


def blocked(
    sizes: Sequence[int], dtype: str, packed: bool, rng: np.random.Generator, share: float = 0.4
) -> Blocked:
    grads = rng.standard_normal(sum(sizes)).astype(dtype)
    return Blocked(list(sizes), grads, _marks(sizes, packed, rng, share), packed)


@dataclass(frozen=True)
class Compensated:
    kernel: ClassVar[str] = "compensate_gradients"

    sizes: list[int]
    grads: Array
    embeddings: Array
    scale: float
    factor: float
    clamp: float
    largest: float

    def outputs(self) -> Shapes:
        return [(self.grads.shape, self.grads.dtype)]

    def oracle(self) -> list[Array]:
        grads = tensor(self.grads).clone()
        mode = "analytic" if math.isinf(self.clamp) else "reference"
        reference.masks.compensate_embedding_gradients_(
            *([grads], [tensor(self.embeddings)], self.scale, self.scale * self.factor),
            mode=mode,  # type: ignore[arg-type]
            clamp=self.clamp,
        )
        return [grads.clamp(-self.largest, self.largest).numpy()]


def compensated(
    sizes: Sequence[int], dtype: str, rng: np.random.Generator, clamp: float = math.inf
) -> Compensated:
    """Of gradients of 16 bits, whose largest number a part of them reaches."""
    grads, embeddings = (rng.standard_normal(sum(sizes)).astype(dtype) for _ in range(2))
    return Compensated(list(sizes), grads, embeddings, 20.0, 30.0, clamp, 65504.0)


@dataclass(frozen=True)
class Reserved:
    kernel: ClassVar[str] = "reserve"

    mask: Array  # uint8
    embedding: Array
    packed: bool

    def outputs(self) -> Shapes:
        size, bytes_ = len(self.mask), (len(self.mask) + 7) // 8
        held = bytes_ if self.packed else size
        # A byte may be the sentinel by chance, so the module widens them.
        return [((count,), np.int64) for count in (bytes_, size, held, 1)]

    def oracle(self) -> list[Array]:
        marked = (self.mask != 0).astype(np.uint8)
        bits = np.packbits(marked, bitorder="little")
        joined = (self.mask != 0) | (self.embedding >= 0)
        marks = np.packbits(joined, bitorder="little") if self.packed else joined.astype(np.uint8)
        return [bits, marked, marks, np.array([int(joined.sum()) - int(marked.sum())])]


def reserved(size: int, dtype: str, packed: bool, rng: np.random.Generator) -> Reserved:
    mask = (rng.random(size) < 0.4).astype(np.uint8)
    return Reserved(mask, rng.standard_normal(size).astype(dtype), packed)
