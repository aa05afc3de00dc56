"""The result of a nearest-neighbour search."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Neighbors(NamedTuple):
    """The K nearest keys of each of B queries, nearest first."""

    sq_distances: Tensor
    """[B, K] squared Euclidean distances, float32 (float64 for float64 inputs)."""
    indices: Tensor
    """[B, K] int64 rows of the keys."""
