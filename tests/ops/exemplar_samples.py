"""Samples of the exemplar ops; see :mod:`op_samples`."""

from __future__ import annotations

from dataclasses import replace
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


def softmax_descent(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    """Few samples, as a rule: no more than twice as many as features."""
    features = randn(rng, s.batch, s.dim, dtype=dtype) / s.dim**0.5
    labels = torch.randint(0, s.classes, (s.batch,), generator=rng)
    weight = randn(rng, s.classes, s.dim, dtype=dtype)
    bias = randn(rng, s.classes, dtype=dtype)
    return (features, labels, weight, bias), {"steps": 5, "lr": 0.8}


def without_bias(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    """Of as many samples as a memory has rows."""
    sizes = replace(s, batch=s.rows if s.batch else 0)
    (features, labels, weight, _), _ = softmax_descent(sizes, dtype, rng)
    return (features, labels, weight), {"steps": s.k, "lr": 0.4}
