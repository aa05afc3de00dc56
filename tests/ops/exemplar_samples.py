"""Samples of the exemplar ops; see :mod:`op_samples`."""

from __future__ import annotations

from typing import Any

import torch
from sizes import Sizes, randn


def herding(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    """Classes of different sizes, with labels that are neither sorted nor 0, 1, ..."""
    rows = s.rows if s.batch else 0
    labels = 3 * torch.randint(0, s.classes, (rows,), generator=rng) - 5
    return (randn(rng, rows, s.dim, dtype=dtype) + 1, labels, s.k), {}


def duplicates(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    """Every feature more than once, and features of zeros."""
    (features, labels, m), _ = herding(s, dtype, rng)
    some = features[: max(1, len(features) // 4)] if len(features) else features
    features = some.repeat(5, 1)[: len(features)]
    features[::7] = 0
    return (features, labels, m), {}
