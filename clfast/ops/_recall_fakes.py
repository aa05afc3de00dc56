"""Fake kernels of :mod:`clfast.ops.recall`: all checks, then outputs without values.

The reference backend checks by them too.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from .._backend import uses_reference
from . import _check


def _check_weights(op: str, dtype: torch.dtype, **weights: float) -> None:
    for name, value in weights.items():
        _check.finite(op, name, value, True, "finite", dtype)


def _check_multiplicity(op: str, multiplicity: Tensor | None, name: str, other: Tensor) -> None:
    if multiplicity is None:
        return
    _check.dtype(op, "multiplicity", multiplicity, torch.int64)
    _check.shape(op, "multiplicity", multiplicity, (other.shape[0],))
    _check.same_device(op, "multiplicity", multiplicity, name, other)
    if uses_reference() and _check.values_known(multiplicity):
        small = multiplicity[multiplicity < 1]
        _check.require(
            small.numel() == 0,
            f"{op}: multiplicity holds {small[:1].tolist()}; a row stands for at least one copy",
        )


def _check_logits(op: str, name: str, first: Tensor, other_name: str, second: Tensor) -> None:
    _check.dim(op, name, first, 2)
    _check.floating(op, name, first)
    _check.require(first.shape[1] >= 1, f"{op}: {name} must have at least one class")
    _check.shape(op, other_name, second, (first.shape[0], first.shape[1]))
    _check.same_precision(op, other_name, second, name, first)
    _check.same_device(op, other_name, second, name, first)
    if uses_reference():
        _check.no_nan(op, **{name: first, other_name: second})


def _like(tensor: Tensor, *shape: int) -> Tensor:
    return tensor.new_empty(shape, dtype=_check.compute_dtype(tensor))


def _recall(
    op: str,
    old_logits: Tensor,
    new_logits: Tensor,
    present_classes: Tensor,
    divergence_weight: float,
    not_local_old: float,
    not_local_new: float,
    diversity: float,
    sharpness: float,
    divergence: str,
    multiplicity: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    _check_logits(op, "old_logits", old_logits, "new_logits", new_logits)
    _check.dim(op, "present_classes", present_classes, 1)
    _check.dtype(op, "present_classes", present_classes, torch.int64)
    _check.require(
        present_classes.shape[0] >= 1, f"{op}: present_classes must hold at least one class"
    )
    _check.same_device(op, "present_classes", present_classes, "old_logits", old_logits)
    _check_weights(
        op,
        _check.compute_dtype(old_logits),
        divergence_weight=divergence_weight,
        not_local_old=not_local_old,
        not_local_new=not_local_new,
        diversity=diversity,
        sharpness=sharpness,
    )
    _check.require(
        divergence in ("ag", "js", "ce"),
        f"{op}: divergence must be ag, js or ce, got {divergence}",
    )
    _check_multiplicity(op, multiplicity, "old_logits", old_logits)
    if uses_reference():
        classes = old_logits.shape[1]
        _check.in_range(op, "present_classes", present_classes, classes, "the classes")
    slopes = [_like(old_logits, *old_logits.shape) for _ in range(2)]
    return _like(old_logits), slopes[0], slopes[1]


recall_loss = partial(_recall, "recall_loss")
recall_gradients = partial(_recall, "recall_gradients")
torch.library.register_fake("clfast::recall_loss", recall_loss)
torch.library.register_fake("clfast::recall_gradients", recall_gradients)


@torch.library.register_fake("clfast::divergence")
def divergence(p_logits: Tensor, q_logits: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    op = "divergence"
    _check_logits(op, "p_logits", p_logits, "q_logits", q_logits)
    _check.require(kind in ("ag", "js"), f"{op}: kind must be ag or js, got {kind}")
    slopes = [_like(p_logits, *p_logits.shape) for _ in range(2)]
    return _like(p_logits, p_logits.shape[0]), slopes[0], slopes[1]


@torch.library.register_fake("clfast::soft_cross_entropy")
def soft_cross_entropy(
    logits: Tensor, target_logits: Tensor, temperature: float, multiplicity: Tensor | None
) -> tuple[Tensor, Tensor]:
    op = "soft_cross_entropy"
    _check_logits(op, "logits", logits, "target_logits", target_logits)
    dtype = _check.compute_dtype(logits)
    held = _check.held(temperature, dtype)
    ok = held > 0 and math.isfinite(_check.held(1 / held, dtype))
    _check.finite(op, "temperature", temperature, ok, "positive and finite", dtype)
    _check_multiplicity(op, multiplicity, "logits", logits)
    return _like(logits), _like(logits, *logits.shape)


def _check_images(op: str, images: Tensor, multiplicity: Tensor | None) -> None:
    _check.dim(op, "images", images, 4)
    _check.floating(op, "images", images)
    _check_multiplicity(op, multiplicity, "images", images)
    if uses_reference():
        _check.no_nan(op, images=images)


def _value_and_gradient(images: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """The gradient lies in memory as the images do, channels first or last."""
    value = _like(images)
    if not with_gradient:
        return value, _like(images, 0)
    behind = images.permute(0, 2, 3, 1)
    if images.is_contiguous() or not behind.is_contiguous():
        return value, _like(images, *images.shape)
    return value, _like(images, *behind.shape).permute(0, 3, 1, 2)


@torch.library.register_fake("clfast::image_prior")
def image_prior(
    images: Tensor,
    tv_weight: float,
    l2_weight: float,
    multiplicity: Tensor | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor]:
    op = "image_prior"
    _check_images(op, images, multiplicity)
    dtype = _check.compute_dtype(images)
    _check_weights(op, dtype, tv_weight=tv_weight, l2_weight=l2_weight)
    return _value_and_gradient(images, with_gradient)


@torch.library.register_fake("clfast::total_variation")
def total_variation(images: Tensor, norm: str, with_gradient: bool) -> tuple[Tensor, Tensor]:
    op = "total_variation"
    _check_images(op, images, None)
    _check.require(norm in ("squared", "abs"), f"{op}: norm must be squared or abs, got {norm}")
    return _value_and_gradient(images, with_gradient)


@torch.library.register_fake("clfast::recall_step_")
def recall_step_(
    images: Tensor,
    grad: Tensor,
    lr: float,
    tv_weight: float,
    l2_weight: float,
    multiplicity: Tensor | None,
    per_copy: bool,
) -> None:
    op = "recall_step_"
    _check.dim(op, "images", images, 4)
    _check.floating(op, "images", images)
    _check_multiplicity(op, multiplicity, "images", images)
    _check.require(
        images.dtype in (torch.float32, torch.float64),
        f"{op}: images must be float32 or float64, got {images.dtype}",
    )
    _check.not_expanded(op, "images", images)
    _check.shape(op, "grad", grad, tuple(images.shape))
    _check.same_precision(op, "grad", grad, "images", images)
    _check.same_device(op, "grad", grad, "images", images)
    _check_weights(op, images.dtype, lr=lr, tv_weight=tv_weight, l2_weight=l2_weight)
