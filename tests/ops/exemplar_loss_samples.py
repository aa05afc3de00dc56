"""Samples of the losses and heads of learners with exemplars; see :mod:`op_samples`."""

from __future__ import annotations

from typing import Any

import torch
from sizes import Sizes, randn
from torch import Tensor


def distillation_loss(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    student = 2 * randn(rng, s.batch, s.classes, dtype=dtype)
    teacher = 2 * randn(rng, s.batch, (s.classes + 1) // 2, dtype=dtype)
    return (student, teacher, 2.0), {}


def distillation_sum(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    student, teacher = (2 * randn(rng, s.batch, s.classes, dtype=dtype) for _ in range(2))
    return (student, teacher, 3.0), {"reduction": "sum", "scale_t2": True}


def new_classes(s: Sizes) -> Tensor:
    """Every third class."""
    return torch.arange(0, s.classes, 3)


def margin_ranking_loss(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    cosines = randn(rng, s.batch, s.classes, dtype=dtype).clamp(-1, 1)
    labels = torch.randint(0, s.classes, (s.batch,), generator=rng)
    return (cosines, labels, new_classes(s)), {"margin": 0.4, "k": 3}


def cosine_logits(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    features = 3 * randn(rng, s.batch, s.dim, dtype=dtype)
    weight = randn(rng, s.classes, s.dim, dtype=dtype)
    return (features, weight, torch.tensor(1.5, dtype=dtype)), {}


def cosine_logits_of_number(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    (features, weight, _), _ = cosine_logits(s, dtype, rng)
    return (features, weight, -2.5), {}


def bias_correct(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    logits = 2 * randn(rng, s.batch, s.classes, dtype=dtype)
    scale, shift = (torch.tensor(x, dtype=dtype) for x in (0.75, -1.25))
    return (logits, new_classes(s), scale, shift), {}


def bias_correct_by_numbers(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    (logits, new, *_), _ = bias_correct(s, dtype, rng)
    return (logits, new, 0.75, -1.25), {}
