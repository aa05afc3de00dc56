"""Networks as lists of tensors, and masks of them: inputs of `masks` and `optimizers`."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Generator

from ..opponents.masks import Tensors

Shapes = tuple[tuple[int, ...], ...]

# Transposed convolutions of DGMw on MNIST (ngf 6) after some tasks, and of a generator as wide as
# DCGAN's.
GENERATORS: dict[str, Shapes] = {
    "two layers": ((3, 2, 2, 2), (2, 3, 2, 2)),
    "DGMw, grown": ((128, 30, 4, 4), (30, 21, 4, 4), (21, 6, 4, 4)),
    "DGMw, ngf 64": ((128, 256, 4, 4), (256, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4)),
}
NETWORKS: dict[str, Shapes] = {
    "two layers": GENERATORS["two layers"],
    # 40 tensors, 7.4 M parameters.
    "wide": ((256, 256, 3, 3), (256,), (512, 288), (512,)) * 10,
}


class Embeddings(NamedTuple):
    embeddings: Tensors
    reserved: Tensors


def random_tensors(shapes: Shapes, generator: Generator) -> Tensors:
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def random_masks(shapes: Shapes, generator: Generator) -> Tensors:
    """Half of it is reserved."""
    return tuple(torch.rand(shape, generator=generator) < 0.5 for shape in shapes)


def elements_of(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes)
