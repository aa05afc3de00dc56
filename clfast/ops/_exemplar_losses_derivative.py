"""Differentiation of the losses and heads of :mod:`clfast.ops.exemplars`.

The first gradient is a kernel's, or came with the value. Where it will be differentiated again it
is formed in plain PyTorch. The transforms of torch.func get plain PyTorch of the heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference as in_torch
from . import _call, _check, _derivative
from .recall import _cross_entropy_slope

SHORTEST = 1e-12  # the length that a shorter row counts as


def distillation_slope(
    student: Tensor, teacher: Tensor, temperature: float, reduction: str, scale_t2: bool
) -> Tensor:
    classes = teacher.shape[1]
    slope = _cross_entropy_slope(student[:, :classes], teacher, temperature, None)
    factor = {"batchmean": 1.0, "mean": 1 / classes, "sum": float(len(student))}[reduction]
    if scale_t2:
        factor *= temperature**2
    return torch.nn.functional.pad(factor * slope, (0, student.shape[1] - classes))


def ranking_slope(*given: Any) -> Tensor:
    """The same for all scores nearby: it is a constant."""
    with torch.no_grad():
        slope: Tensor = _call.compiled("margin_ranking_loss", *given)[1]
    return slope


def cosine_logits(features: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    if _call.in_transform():
        return in_torch.exemplars.cosine_logits(features, weight, scale)
    given = (features, weight, scale)
    if _derivative.wanted(*given):
        result: Tensor = _CosineLogits.apply(*given)
    else:
        result = _call.compiled("cosine_logits", *given)[0]
    return result


class _CosineLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Any:
        logits, *state = _call.compiled("cosine_logits", *given)
        ctx.save_for_backward(*given, *state)
        return logits

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if torch.is_grad_enabled():
            return _cosine_gradients(grad, *ctx.saved_tensors[:3])
        return _call.compiled("cosine_logits_backward", grad, *ctx.saved_tensors)


def _cosine_gradients(
    grad: Tensor, features: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = _check.compute_dtype(features)
    grad, scale = grad.to(dtype), scale.to(dtype)
    x, w = features.to(dtype), weight.to(dtype)
    x_length, w_length = (torch.linalg.vector_norm(t, dim=1, keepdim=True) for t in (x, w))
    x_unit, w_unit = x / x_length.clamp_min(SHORTEST), w / w_length.clamp_min(SHORTEST)
    x_slope, w_slope = grad @ w_unit, grad.t() @ x_unit
    d_features = scale * _through_length(x_slope, x_unit, x_length)
    d_weight = scale * _through_length(w_slope, w_unit, w_length)
    return d_features, d_weight, (x_slope * x_unit).sum()


def _through_length(slope: Tensor, unit: Tensor, length: Tensor) -> Tensor:
    """The gradient by rows of one by those rows at unit length."""
    along = (slope * unit).sum(1, keepdim=True) * unit
    # What counts as the shortest length does not hang on the row.
    along = along.masked_fill(length <= SHORTEST, 0.0)
    return (slope - along) / length.clamp_min(SHORTEST)


def bias_correct(logits: Tensor, new_classes: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    if _call.in_transform():
        return in_torch.exemplars.bias_correct(logits, new_classes, scale, shift)
    given = (logits, new_classes, scale, shift)
    if _derivative.wanted(logits, scale, shift):
        result: Tensor = _BiasCorrect.apply(*given)
    else:
        result = _call.compiled("bias_correct", *given)
    return result


class _BiasCorrect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, new_classes: Tensor, scale: Tensor, shift: Tensor) -> Any:
        ctx.save_for_backward(logits, new_classes, scale)
        return _call.compiled("bias_correct", logits, new_classes, scale, shift)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        given = (grad, *ctx.saved_tensors)
        if torch.is_grad_enabled():
            found = _correction_gradients(*given)
        else:
            found = _call.compiled("bias_correct_backward", *given)
        d_logits, d_scale, d_shift = found
        return d_logits, None, d_scale, d_shift


def _correction_gradients(
    grad: Tensor, logits: Tensor, new_classes: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    is_new = in_torch.exemplars.marked(new_classes, logits.shape[1])
    counted = grad.where(is_new, grad.new_zeros(()))
    slopes = (scale * grad).where(is_new, grad)
    return slopes, (counted * logits).sum(), counted.sum()
