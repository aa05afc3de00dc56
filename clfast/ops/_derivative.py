"""Differentiation of ops that compute their gradients together with their value.

Such an op returns its value first, a scalar or one number a row, and behind it the gradients of
the value by its first tensors. Its backward pass is one product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _call

Slope = Callable[..., Tensor]


def value(op: str, inputs: int, *arguments: Any, slope: Slope | None = None) -> Tensor:
    """The value of ``torch.ops.clfast.<op>(*arguments)``, differentiable in its first ``inputs``.

    ``slope`` is the gradient by the one input in plain PyTorch: it makes second derivatives, which
    otherwise raise.
    """
    if wanted(*arguments[:inputs]):
        result: Tensor = _Value.apply(op, slope, inputs, *arguments)[0]
        return result
    result = _call.compiled(op, *arguments)[0]
    return result


def wanted(*tensors: Any) -> bool:
    """Whether a gradient by one of these will be asked for."""
    return torch.is_grad_enabled() and any(
        isinstance(t, Tensor) and t.requires_grad for t in tensors
    )


def _times(grad: Tensor, slope: Tensor) -> Tensor:
    return grad.reshape(grad.shape + (1,) * (slope.dim() - grad.dim())) * slope


class _Value(torch.autograd.Function):
    @staticmethod
    def forward(op: str, _slope: Slope | None, _inputs: int, *arguments: Any) -> Any:
        return tuple(_call.compiled(op, *arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.op, ctx.slope, ctx.count, *arguments = inputs
        ctx.mark_non_differentiable(*output[1:])
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        ctx.save_for_backward(*output[1:], *tensors)
        ctx.others = [None if isinstance(a, Tensor) else (a,) for a in arguments]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        slopes = ctx.saved_tensors[: ctx.count]
        tensors = iter(ctx.saved_tensors[ctx.count :])
        arguments = [next(tensors) if other is None else other[0] for other in ctx.others]
        if not torch.is_grad_enabled():
            given = [_times(grad, slope) for slope in slopes]
        elif ctx.slope is not None:
            given = [_times(grad, ctx.slope(*arguments))]
        else:
            given = [
                _FirstDerivative.apply(ctx.op, grad, slope, argument)
                for slope, argument in zip(slopes, arguments, strict=False)
            ]
        return None, None, None, *given, *(None for _ in ctx.others[ctx.count :])


class _FirstDerivative(torch.autograd.Function):
    """``grad * slope``, where ``slope`` hangs on ``argument`` in a way that is not known."""

    @staticmethod
    def forward(_op: str, grad: Tensor, slope: Tensor, _argument: Tensor) -> Tensor:
        return _times(grad, slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.op = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(f"clfast::{ctx.op}: has no second derivative")
