"""Which stored samples the coming step would make a network forget: plain PyTorch around runs of
the network, the same under either backend.

Aljundi et al., "Online Continual Learning with Maximally Interfered Retrieval" (NeurIPS 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from . import _check

__all__ = ["mir_scores"]

OP = "mir_scores"


def mir_scores(
    model: nn.Module, x: Tensor, y: Tensor, grads: Sequence[Tensor | None], lr: float
) -> Tensor:
    """How much the loss of each sample would rise with a step of SGD: l(theta - lr g) - l(theta).

    The paper's s_MI-1, with cross-entropy for l. Neither step is taken in the model: parameters,
    gradients, buffers and modes stay as they are. The model runs twice, in the mode that it is in:
    in training mode batch normalisation uses the statistics of ``x`` (as in the authors' code, but
    running statistics are not updated) and dropout draws two masks; ``model.eval()`` before the
    call avoids both.

    Args:
        model: returns logits [N, C] for ``x``.
        x: [N, ...], candidates from the memory.
        y: [N] int64, their classes.
        grads: g, one tensor or None a parameter, in the order of ``model.parameters()`` and of the
            parameter's shape, dtype and device; None: the parameter stays.
        lr: finite, of the step.

    Returns:
        [N] float32 (float64 for float64 logits), without a graph; the largest are to be rehearsed.

    Raises:
        TypeError: an argument of a wrong kind.
        RuntimeError: wrong shape, dtype, device or value; an input that requires grad in grad mode.
            Labels outside the classes and NaN in the scores are looked for on CPU tensors.
    """
    lr = _check.number(OP, "lr", lr)
    _check_arguments(model, x, y, grads, lr)
    with torch.no_grad():
        after = _losses(model, _after_step(model, grads, lr), x, y)
        scores = after - _losses(model, {}, x, y)
    _check.no_nan_result(OP, "the model's logits, before or after the step, hold", scores)
    return scores


def _after_step(model: nn.Module, grads: Sequence[Tensor | None], lr: float) -> dict[str, Tensor]:
    """The parameters that a step of SGD changes, as it would leave them."""
    moved = {
        name: (parameter, grad)
        for (name, parameter), grad in zip(model.named_parameters(), grads, strict=True)
        if grad is not None
    }
    if not moved:
        return {}
    parameters, given = zip(*moved.values(), strict=True)
    return dict(zip(moved, torch._foreach_add(parameters, given, alpha=-lr), strict=True))


def _losses(model: nn.Module, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """[N], with buffers that are copies: what a layer in training mode writes is dropped."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        logits = functional_call(model, {**parameters, **buffers}, (x,))
    except (RuntimeError, IndexError, ValueError) as error:
        _check.refused_by_model(OP, "x", x, error)
    _check.tensors(OP, **{"what the model returns": logits})
    _check.dim(OP, "logits of the model", logits, 2)
    _check.shape(OP, "logits of the model", logits, (len(y), logits.shape[1]))
    _check.floating(OP, "logits of the model", logits)
    _check.in_range(OP, "y", y, logits.shape[1], "the classes")
    return F.cross_entropy(logits.to(_check.compute_dtype(logits)), y, reduction="none")


def _check_arguments(
    model: nn.Module, x: Tensor, y: Tensor, grads: Sequence[Tensor | None], lr: float
) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"clfast::{OP}: model must be a nn.Module, got {type(model).__name__}")
    _check.tensors(OP, x=x, y=y)
    _check.lists(OP, grads=grads)
    _check.dtype(OP, "y", y, torch.int64)
    _check.dim(OP, "y", y, 1)
    _check.require(
        x.shape[:1] == y.shape, f"{OP}: x must have {len(y)} rows, as y has, got {list(x.shape)}"
    )
    _check.same_device(OP, "y", y, "x", x)
    _refuse_grad("x", x)
    parameters = list(model.parameters())
    _check.require(
        len(grads) == len(parameters),
        f"{OP}: grads must have an entry for each of the {len(parameters)} parameters, "
        f"got {len(grads)}",
    )
    for i, (grad, parameter) in enumerate(zip(grads, parameters, strict=True)):
        if grad is None:
            continue
        name = f"grads[{i}]"
        _check.tensors(OP, **{name: grad})
        _check.shape(OP, name, grad, tuple(parameter.shape))
        _check.dtype(OP, name, grad, parameter.dtype)
        _check.same_device(OP, name, grad, "its parameter", parameter)
        _refuse_grad(name, grad)
    # Not `math.isfinite`, which torch.compile does not follow where lr changes from call to call.
    if not abs(lr) < math.inf:
        raise RuntimeError(f"clfast::{OP}: lr must be finite, got {lr:g}")


def _refuse_grad(name: str, tensor: Tensor) -> None:
    _check.require(
        not (torch.is_grad_enabled() and tensor.requires_grad),
        f"{OP}: {name} requires grad, but {OP} has no gradient; "
        f"call it under torch.no_grad() or pass {name}.detach()",
    )
