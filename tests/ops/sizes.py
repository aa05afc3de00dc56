"""Sizes that samples of all ops are made in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """B queries, rows or images, M memory rows, K neighbours, d features, C classes."""

    batch: int = 5
    rows: int = 37
    k: int = 9
    dim: int = 17
    classes: int = 7


# Around every vector width: 16, 8, 4 lanes and their multiples, and one below and above.
TAILS = (1, 15, 16, 17, 31, 32, 33)


def randn(rng: torch.Generator, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)
