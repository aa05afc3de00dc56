"""Samples of the recall ops; see :mod:`op_samples`."""

from __future__ import annotations

from typing import Any

import torch
from sizes import Sizes, randn
from torch import Tensor


def _logits(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (s.batch, s.classes)
    return 2 * randn(rng, *shape, dtype=dtype), 2 * randn(rng, *shape, dtype=dtype)


def _multiplicity(s: Sizes, rng: torch.Generator) -> Tensor:
    return torch.randint(1, 5, (s.batch,), generator=rng)


def recall_loss(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    present = torch.arange(0, s.classes, 3)
    return (*_logits(s, dtype, rng), present), {"multiplicity": _multiplicity(s, rng)}


def recall_loss_js(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    present = torch.arange(s.classes)
    return (*_logits(s, dtype, rng), present), {"divergence": "js", "not_local_new": 0.7}


def divergence(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    return _logits(s, dtype, rng), {}


def soft_cross_entropy(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    return _logits(s, dtype, rng), {"temperature": 2.0, "multiplicity": _multiplicity(s, rng)}


def _images(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Tensor:
    return randn(rng, s.batch, 3, s.dim, s.k, dtype=dtype)


def image_prior(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    weights = {"tv_weight": 1.5, "l2_weight": 0.5}
    return (_images(s, dtype, rng),), {**weights, "multiplicity": _multiplicity(s, rng)}


def total_variation(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    return (_images(s, dtype, rng),), {"norm": "abs"}


def recall_step_(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    weights = {"lr": 2.0, "tv_weight": 1.5, "l2_weight": 0.5}
    arguments = (_images(s, dtype, rng), _images(s, dtype, rng))
    return arguments, {**weights, "multiplicity": _multiplicity(s, rng), "per_copy": True}
