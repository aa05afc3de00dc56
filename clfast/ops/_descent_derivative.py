"""Differentiation of a descent on softmax regression: the sweep back is an op of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from . import _call, _derivative

Layer = tuple[Tensor, Tensor | None]


def softmax_descent(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    steps: int,
    lr: float,
) -> Layer:
    """The transforms of torch.func, which look into what they transform, get plain PyTorch."""
    given = (features, labels, weight, bias)
    if _call.in_transform():
        return reference.exemplars.softmax_descent(*given, steps=steps, lr=lr)
    if _derivative.wanted(features, weight, bias):
        new_weight, new_bias = _Descent.apply(*given, steps, lr)
    else:
        new_weight, new_bias, _ = _call.compiled("softmax_descent", *given, steps, lr)
    return new_weight, None if bias is None else new_bias


class _Descent(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        labels: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        steps: int,
        lr: float,
    ) -> Any:
        given = (features, labels, weight, bias)
        *layer, predictions = _call.compiled("softmax_descent", *given, steps, lr)
        ctx.lr = lr
        ctx.save_for_backward(*given, predictions)
        return tuple(layer)

    @staticmethod
    def backward(ctx: Any, weight_grad: Tensor, bias_grad: Tensor) -> Any:
        features, labels, weight, bias, predictions = ctx.saved_tensors

        def found(
            weight_grad: Tensor, bias_grad: Tensor, features: Tensor, weight: Tensor, *_: Tensor
        ) -> Sequence[Tensor]:
            gradients: Sequence[Tensor] = _call.compiled(
                "softmax_descent_backward",
                *(weight_grad, None if bias is None else bias_grad),
                *(features, labels, weight, bias, predictions, ctx.lr),
            )
            return gradients

        biases = () if bias is None else (bias,)
        slopes = _derivative.once(
            "softmax_descent", found, weight_grad, bias_grad, features, weight, *biases
        )
        given = (features, weight, bias)
        # A gradient is of the dtype of what it is the gradient by.
        of_features, of_weight, of_bias = (
            None if t is None else slope.to(t.dtype) for slope, t in zip(slopes, given, strict=True)
        )
        return of_features, None, of_weight, of_bias, None, None
