"""Differentiation of ops that compute their gradients together with their value.

Such an op returns its value first, a scalar or one number a row, and behind it the gradients of
the value by its first tensors, or by the tensors of its first list. Its backward pass is one
product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import _call

Slope = Callable[..., Tensor]
Slopes = Callable[..., list[Tensor]]
Lists = Sequence[Sequence[Tensor]]


def value(op: str, inputs: int, *arguments: Any, slope: Slope | None = None) -> Tensor:
    """The value of ``torch.ops.clfast.<op>(*arguments)``, differentiable in its first ``inputs``.

    ``slope`` is the gradient by the one input in plain PyTorch: it makes second derivatives, which
    otherwise raise.
    """
    result: Tensor
    if not wanted(*arguments[:inputs]):
        result = _call.compiled(op, *arguments)[0]
    elif _call.in_transform():
        result = _TransformedValue.apply(op, slope, inputs, *arguments)[0]
    else:
        result = _Value.apply((op, slope, arguments[inputs:]), *arguments[:inputs])
    return result


def wanted(*tensors: Any) -> bool:
    """Whether a gradient by one of these will be asked for."""
    if torch.is_grad_enabled():
        for t in tensors:
            if isinstance(t, Tensor) and t.requires_grad:
                return True
    return False


def once(op: str, found: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Sequence[Tensor]:
    """``found(*inputs)``, gradients that are not differentiable again: that raises by name."""
    if not torch.is_grad_enabled():
        return found(*inputs)
    gradients: tuple[Tensor, ...] = _Once.apply(op, found, *inputs)
    return gradients


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, op: str, found: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Any:
        ctx.op = op
        return tuple(found(*inputs))

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(f"clfast::{ctx.op}: has no second derivative")


def value_of_lists(op: str, lists: Lists, *options: Any, slopes: Slopes | None = None) -> Tensor:
    """The value of ``torch.ops.clfast.<op>(*lists, *options, with_gradient)``, differentiable in
    the tensors of the first list.

    ``slopes(*lists, *options)`` are the gradients in plain PyTorch: they make second derivatives,
    which otherwise raise.
    """
    result: Tensor
    if wanted(*lists[0]):
        tensors = [tensor for each in lists for tensor in each]
        result = _ValueOfLists.apply(op, slopes, options, [len(each) for each in lists], *tensors)
    else:
        result = _call.compiled(op, *lists, *options, False)[0]
    return result


def in_lists(tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[list[Tensor]]:
    """Lists that were passed behind one another."""
    ends = list(accumulate(lengths, initial=0))
    return [list(tensors[begin:end]) for begin, end in pairwise(ends)]


class _ValueOfLists(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        op: str,
        slopes: Slopes | None,
        options: tuple[Any, ...],
        lengths: list[int],
        *tensors: Tensor,
    ) -> Any:
        value, gradients = _call.compiled(op, *in_lists(tensors, lengths), *options, True)
        ctx.op, ctx.slopes, ctx.options, ctx.others = op, slopes, options, sum(lengths[1:])
        # Without second derivatives the other lists may be changed before the backward pass.
        kept = lengths if slopes is not None else lengths[:1]
        ctx.lengths = [len(gradients), *kept]
        ctx.save_for_backward(*gradients, *tensors[: sum(kept)])
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        gradients, *given = in_lists(ctx.saved_tensors, ctx.lengths)

        def scaled(grad: Tensor, *_: Tensor) -> Sequence[Tensor]:
            return gradients if _is_one(grad) else torch._foreach_mul(gradients, grad)

        if ctx.slopes is not None and torch.is_grad_enabled():
            found: Sequence[Tensor] = [grad * s for s in ctx.slopes(*given, *ctx.options)]
        else:
            found = once(ctx.op, scaled, grad, *given[0])
        return None, None, None, None, *found, *(None for _ in range(ctx.others))


def _times(grad: Tensor, slope: Tensor) -> Tensor:
    return grad.reshape(grad.shape + (1,) * (slope.dim() - grad.dim())) * slope


def _is_one(grad: Tensor) -> bool:
    """Whether this is where a backward pass begins, as far as can be told without waiting."""
    known = grad.is_cpu and grad.dim() == 0 and not torch.compiler.is_compiling()
    return known and grad.item() == 1


def _keep(
    ctx: Any,
    slopes: Sequence[Tensor],
    op: str,
    slope: Slope | None,
    inputs: Sequence[Tensor],
    rest: Sequence[Any],
) -> None:
    options: Sequence[Any] = ()
    tensors: Sequence[Tensor | None] = ()
    if slope is not None:
        options = [None if isinstance(a, Tensor) else a for a in rest]
        tensors = [None if a is b else a for a, b in zip(rest, options, strict=True)]
    ctx.save_for_backward(*slopes, *inputs, *tensors)
    ctx.kept = len(inputs), op, slope, options


def _gradients(ctx: Any, grad: Tensor) -> Sequence[Tensor]:
    saved = ctx.saved_tensors
    count, op, slope, options = ctx.kept
    slopes = saved[:count]
    if not torch.is_grad_enabled():
        return slopes if _is_one(grad) else [_times(grad, each) for each in slopes]
    inputs = saved[count : 2 * count]
    if slope is not None:
        tensors = saved[2 * count :]
        rest = [t if a is None else a for t, a in zip(tensors, options, strict=True)]
        return [_times(grad, slope(*inputs, *rest))]
    # The gradients might be differentiated again.
    pairs = zip(slopes, inputs, strict=True)
    return [_FirstDerivative.apply(op, grad, each, given) for each, given in pairs]


class _Value(torch.autograd.Function):
    """Of few arguments: each takes time, whether or not it is a tensor."""

    @staticmethod
    def forward(ctx: Any, given: tuple[Any, ...], *inputs: Tensor) -> Any:
        op, slope, rest = given
        result, *slopes = _call.compiled(op, *inputs, *rest)
        _keep(ctx, slopes, op, slope, inputs, rest)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return None, *_gradients(ctx, grad)


class _TransformedValue(torch.autograd.Function):
    """The same for torch.func, which wants what is kept to be a result; it takes 50 us longer."""

    generate_vmap_rule = True

    @staticmethod
    def forward(op: str, slope: Slope | None, inputs: int, *given: Any) -> Any:
        return tuple(_call.compiled(op, *given))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        op, slope, count, *given = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.others = len(given) - count
        _keep(ctx, output[1:], op, slope, given[:count], given[count:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        return None, None, None, *_gradients(ctx, grad), *[None] * ctx.others

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        _no_forward_mode(ctx.kept[1])


class _FirstDerivative(torch.autograd.Function):
    """``grad * slope``, where ``slope`` hangs on ``argument`` in a way that is not known."""

    generate_vmap_rule = True

    @staticmethod
    def forward(_op: str, grad: Tensor, slope: Tensor, _argument: Tensor) -> Tensor:
        return _times(grad, slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.op = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(f"clfast::{ctx.op}: has no second derivative")

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        _no_forward_mode(ctx.op)


def _no_forward_mode(op: str) -> NoReturn:
    raise RuntimeError(
        f"clfast::{op}: has no derivative in forward mode; take torch.func.grad or jacrev"
    )
