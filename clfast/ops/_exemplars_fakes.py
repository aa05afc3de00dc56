"""Fake kernels of :mod:`clfast.ops.exemplars`: all checks, then outputs without values.

The reference backend checks by them too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._backend import uses_reference
from . import _check


@torch.library.register_fake("clfast::herding")
def herding(features: Tensor, labels: Tensor, m: int) -> tuple[Tensor, Tensor]:
    op = "herding"
    _check.dim(op, "features", features, 2)
    _check.floating(op, "features", features)
    _check.dtype(op, "labels", labels, torch.int64)
    _check.shape(op, "labels", labels, (features.shape[0],))
    _check.same_device(op, "labels", labels, "features", features)
    _check.require(m >= 1, f"{op}: m must be >= 1, got {m}")
    if uses_reference() and _check.values_known(features):
        finite = features.double().square().sum(1) < 2.0**960
        row = int(finite.logical_not().nonzero()[0]) if not bool(finite.all()) else None
        _check.require(
            row is None,
            f"{op}: features[{row}] holds NaN, Inf, or numbers whose squares overflow",
        )
    return labels.new_empty(labels.shape), labels.new_empty(labels.shape)
