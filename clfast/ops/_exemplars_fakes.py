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


def _check_descent(
    op: str, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, lr: float
) -> None:
    _check.dim(op, "features", features, 2)
    _check.floating(op, "features", features)
    samples, dim = features.shape
    _check.dtype(op, "labels", labels, torch.int64)
    _check.shape(op, "labels", labels, (samples,))
    _check.same_device(op, "labels", labels, "features", features)
    _check.dim(op, "weight", weight, 2)
    classes = weight.shape[0]
    _check.require(classes >= 1, f"{op}: weight must have at least one class")
    _check_like(op, "weight", weight, (classes, dim), features)
    if bias is not None:
        _check_like(op, "bias", bias, (classes,), features)
    _check.finite(op, "lr", lr, lr >= 0, "finite and >= 0", _check.compute_dtype(features))


def _check_like(
    op: str, name: str, tensor: Tensor, shape: tuple[int, ...], features: Tensor
) -> None:
    _check.shape(op, name, tensor, shape)
    _check.same_precision(op, name, tensor, "features", features)
    _check.same_device(op, name, tensor, "features", features)


@torch.library.register_fake("clfast::softmax_descent")
def softmax_descent(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, steps: int, lr: float
) -> tuple[Tensor, Tensor, Tensor]:
    op = "softmax_descent"
    _check_descent(op, features, labels, weight, bias, lr)
    _check.require(steps >= 0, f"{op}: steps must be >= 0, got {steps}")
    if uses_reference():
        _check.in_range(op, "labels", labels, weight.shape[0], "the classes")
        _check.no_nan(op, features=features, weight=weight, bias=bias)
    samples, classes = features.shape[0], weight.shape[0]
    dtype = _check.compute_dtype(features)
    return (
        weight.new_empty(weight.shape, dtype=dtype),
        weight.new_empty(classes if bias is not None else 0, dtype=dtype),
        weight.new_empty((steps, classes, samples), dtype=dtype),
    )


@torch.library.register_fake("clfast::softmax_descent_backward")
def softmax_descent_backward(
    weight_grad: Tensor,
    bias_grad: Tensor | None,
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    predictions: Tensor,
    lr: float,
) -> tuple[Tensor, Tensor, Tensor]:
    op = "softmax_descent_backward"
    _check_descent(op, features, labels, weight, bias, lr)
    _check.require((bias_grad is None) == (bias is None), f"{op}: bias and bias_grad go together")
    _check_like(op, "weight_grad", weight_grad, tuple(weight.shape), features)
    _check.dim(op, "predictions", predictions, 3)
    shape = (predictions.shape[0], weight.shape[0], features.shape[0])
    _check_like(op, "predictions", predictions, shape, features)
    if bias_grad is not None:
        _check_like(op, "bias_grad", bias_grad, (weight.shape[0],), features)
    dtype = _check.compute_dtype(features)
    return (
        features.new_empty(features.shape, dtype=dtype),
        weight.new_empty(weight.shape, dtype=dtype),
        weight.new_empty(weight.shape[0] if bias is not None else 0, dtype=dtype),
    )
