"""Fake kernels of the losses and heads in :mod:`clfast.ops.exemplars`: all checks, then outputs
without values.

The reference backend checks by them too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._backend import uses_reference
from . import _check


def scalar(op: str, name: str, value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a tensor without dimensions; a tensor as it is."""
    if isinstance(value, Tensor):
        return value
    number = _check.number(op, name, value)
    dtype = _check.compute_dtype(like)
    # Here, where torch.compile traces, which follows neither _check.finite nor a message that is
    # made of a number that changes from call to call.
    if not abs(number) <= torch.finfo(dtype).max:
        raise RuntimeError(f"clfast::{op}: {name} must be finite, got {number:g}")
    return like.new_full((), number, dtype=dtype)


def _check_scalar(op: str, name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    _check.dim(op, name, value, 0)
    _check.same_precision(op, name, value, other_name, other)
    _check.same_device(op, name, value, other_name, other)
    if uses_reference() and _check.values_known(value):
        _check.finite(op, name, value.item(), True, "finite", _check.compute_dtype(other))


def _check_new_classes(op: str, new_classes: Tensor, name: str, other: Tensor) -> None:
    _check.dim(op, "new_classes", new_classes, 1)
    _check.dtype(op, "new_classes", new_classes, torch.int64)
    _check.same_device(op, "new_classes", new_classes, name, other)
    if uses_reference():
        _check.in_range(op, "new_classes", new_classes, other.shape[1], "the classes")


def _check_rows_of_classes(op: str, name: str, tensor: Tensor) -> None:
    _check.dim(op, name, tensor, 2)
    _check.floating(op, name, tensor)
    _check.require(tensor.shape[1] >= 1, f"{op}: {name} must have at least one class")
    if uses_reference():
        _check.no_nan(op, **{name: tensor})


def _like(tensor: Tensor, *shape: int) -> Tensor:
    return tensor.new_empty(shape, dtype=_check.compute_dtype(tensor))


@torch.library.register_fake("clfast::distillation_loss")
def distillation_loss(
    student: Tensor, teacher: Tensor, temperature: float, reduction: str, scale_t2: bool
) -> tuple[Tensor, Tensor]:
    op = "distillation_loss"
    _check.dim(op, "student", student, 2)
    _check.floating(op, "student", student)
    _check.dim(op, "teacher", teacher, 2)
    rows, width = student.shape
    classes = teacher.shape[1]
    _check.require(
        teacher.shape[0] == rows,
        f"{op}: teacher must have {rows} rows, as student has, got {teacher.shape[0]}",
    )
    _check.require(
        1 <= classes <= width,
        f"{op}: teacher must have between 1 and {width} classes, which student has, got {classes}",
    )
    _check.same_precision(op, "teacher", teacher, "student", student)
    _check.same_device(op, "teacher", teacher, "student", student)
    dtype = _check.compute_dtype(student)

    def sound(x: float) -> bool:
        held = _check.held(x, dtype)
        return 0 < held < math.inf and math.isfinite(_check.held(1 / held, dtype))

    wanted = "positive and finite"
    _check.finite(op, "temperature", temperature, sound(temperature), wanted, dtype)
    if scale_t2:
        wanted += ", and so its square for scale_t2"
        fits = sound(temperature * temperature)
        _check.finite(op, "temperature", temperature, fits, wanted, dtype)
    _check.require(
        reduction in ("batchmean", "mean", "sum"),
        f"{op}: reduction must be batchmean, mean or sum, got {reduction}",
    )
    if uses_reference():
        _check.no_nan(op, student=student, teacher=teacher)
    return _like(student), _like(student, rows, width)


@torch.library.register_fake("clfast::margin_ranking_loss")
def margin_ranking_loss(
    cosines: Tensor, labels: Tensor, new_classes: Tensor, margin: float, k: int
) -> tuple[Tensor, Tensor]:
    op = "margin_ranking_loss"
    _check_rows_of_classes(op, "cosines", cosines)
    _check.dtype(op, "labels", labels, torch.int64)
    _check.shape(op, "labels", labels, (cosines.shape[0],))
    _check.same_device(op, "labels", labels, "cosines", cosines)
    _check_new_classes(op, new_classes, "cosines", cosines)
    _check.finite(op, "margin", margin, True, "finite", _check.compute_dtype(cosines))
    _check.require(k >= 1, f"{op}: k must be at least 1, got {k}")
    if uses_reference():
        _check.in_range(op, "labels", labels, cosines.shape[1], "the classes")
    return _like(cosines), _like(cosines, *cosines.shape)


@torch.library.register_fake("clfast::cosine_logits")
def cosine_logits(
    features: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    op = "cosine_logits"
    _check.dim(op, "features", features, 2)
    _check.floating(op, "features", features)
    _check.dim(op, "weight", weight, 2)
    rows, dim = features.shape
    _check.require(
        weight.shape[1] == dim,
        f"{op}: features have {dim} columns but weight has {weight.shape[1]}",
    )
    _check.same_precision(op, "weight", weight, "features", features)
    _check.same_device(op, "weight", weight, "features", features)
    _check_scalar(op, "scale", scale, "features", features)
    if uses_reference():
        _check.no_nan(op, features=features, weight=weight)
    classes = weight.shape[0]
    return (
        _like(features, rows, classes),
        *(_like(features, rows, dim), _like(weight, classes, dim)),
        _like(features, rows + classes),
    )


@torch.library.register_fake("clfast::cosine_logits_backward")
def _cosine_logits_backward(
    grad: Tensor, features: Tensor, weight: Tensor, scale: Tensor, *_: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(features, *features.shape), _like(weight, *weight.shape), _like(features)


@torch.library.register_fake("clfast::bias_correct")
def bias_correct(logits: Tensor, new_classes: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    op = "bias_correct"
    _check_rows_of_classes(op, "logits", logits)
    _check_new_classes(op, new_classes, "logits", logits)
    _check_scalar(op, "scale", scale, "logits", logits)
    _check_scalar(op, "shift", shift, "logits", logits)
    return _like(logits, *logits.shape)


@torch.library.register_fake("clfast::bias_correct_backward")
def _bias_correct_backward(
    grad: Tensor, logits: Tensor, new_classes: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(logits, *logits.shape), _like(logits), _like(logits)
