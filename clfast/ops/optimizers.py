"""Steps of optimisers that leave reserved entries alone, in one pass over parameter and state.

What earlier tasks reserved of a weight must not move (Ostapenko et al., "Learning to Remember: A
Synaptic Plasticity Driven Framework for Continual Learning", CVPR 2019, Eq. 5; Serrà et al.,
"Overcoming Catastrophic Forgetting with Hard Attention to the Task", ICML 2018). To zero its
gradient is not enough: momentum, weight decay and old moments of Adam move a weight whose gradient
is 0. Where an entry is reserved, these steps do not touch the parameter, bit for bit, and the
optimiser's state sees a gradient of 0 without weight decay, whatever the gradient holds, NaN and
Inf included. Elsewhere the formulas are those of ``torch.optim``.

Lists go side by side, an index for each parameter: tensors of any shape, all float32 or all
float64, on one device, and taken as they are whether or not they require grad. ``reserved`` holds
for each parameter a bool mask of its shape, True where it is reserved, or the same mask packed by
``pack_mask``, uint8 [ceil(numel / 8)], or None where all is free. Where parameter, gradient, state
and mask do not lie in memory in one order, they are copied; packed bits are in the order of a
contiguous tensor.

:class:`clfast.optim.MaskedSGD` and :class:`clfast.optim.MaskedAdam` are optimisers over these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference as in_torch
from .._backend import uses_reference
from . import _call, _check
from . import _optimizers_fakes as fakes

__all__ = ["masked_adam_step_", "masked_grad_norm", "masked_sgd_step_"]


def masked_sgd_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    reserved: Sequence[Tensor | None],
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    clip: Tensor | None = None,
) -> None:
    """A step of SGD where nothing is reserved, in place.

    With g = clip * grad (its negative with ``maximize``) + weight_decay * p, 0 where reserved:
    b <- momentum b + (1 - dampening) g, and where not reserved p <- p - lr b; with ``nesterov``
    p <- p - lr (g + momentum b), without momentum p <- p - lr g. That is ``torch.optim.SGD``, which
    begins with b = g: buffers of zeros, and no dampening in the first step.

    Args:
        params: list of tensors, changed.
        grads: list of tensors of the same shapes and dtype.
        momentum_buffers: the same, changed; [] where ``momentum`` is 0.
        reserved: list of masks and None; see the module.
        lr, momentum, weight_decay: finite and >= 0.
        dampening: finite.
        nesterov: needs ``momentum`` > 0 and ``dampening`` = 0.
        maximize: climb.
        clip: 0-D factor of all gradients, read on the device; None: 1.

    Raises:
        RuntimeError: wrong lengths, shape, dtype, device or value; a tensor that a transform of
            torch.func differentiates. Nothing is changed then.
    """
    op = "masked_sgd_step_"
    lists = {"params": params, "grads": grads, "momentum_buffers": momentum_buffers}
    _check.lists(op, **lists, reserved=reserved)
    options: dict[str, Any] = {
        "lr": _check.number(op, "lr", lr),
        "momentum": _check.number(op, "momentum", momentum),
        "dampening": _check.number(op, "dampening", dampening),
        "weight_decay": _check.number(op, "weight_decay", weight_decay),
        "nesterov": _check.boolean(op, "nesterov", nesterov),
        "maximize": _check.boolean(op, "maximize", maximize),
        "clip": clip,
    }
    arguments = (*lists.values(), reserved, *options.values())
    if not any((*lists.values(), reserved)):
        return  # no tensor that would name a device
    if uses_reference():
        _call.check_for_reference(op, fakes.masked_sgd_step_, *arguments)
        in_torch.optimizers.masked_sgd_step_(params, grads, momentum_buffers, reserved, **options)
        return
    _call.compiled(op, *arguments)
    _count_changes(params, momentum_buffers)


def masked_adam_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    reserved: Sequence[Tensor | None],
    *,
    steps: Sequence[int],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    clip: Tensor | None = None,
) -> None:
    """A step of Adam where nothing is reserved, in place.

    With g = clip * grad (its negative with ``maximize``) + weight_decay * p, 0 where reserved:
    m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2, and where not reserved
    p <- p - lr m^ / (sqrt(v^) + eps), m^ = m / (1 - b1^t), v^ = v / (1 - b2^t). With AMSGrad the
    largest v so far stands for v in v^. With ``decoupled_weight_decay`` (AdamW) g has no decay, and
    p is scaled by 1 - lr weight_decay instead. That is ``torch.optim.Adam``.

    Args:
        params: list of tensors, changed.
        grads: list of tensors of the same shapes and dtype.
        exp_avgs, exp_avg_sqs: the same, changed: m and v.
        max_exp_avg_sqs: the same, changed: the largest v; [] without AMSGrad.
        reserved: list of masks and None; see the module.
        steps: t of each parameter, this step included: >= 1.
        lr, eps, weight_decay: finite and >= 0.
        betas: b1 and b2 in [0, 1).
        decoupled_weight_decay, maximize: see above.
        clip: 0-D factor of all gradients, read on the device; None: 1.

    Raises:
        RuntimeError: wrong lengths, shape, dtype, device or value; a tensor that a transform of
            torch.func differentiates. Nothing is changed then.
    """
    op = "masked_adam_step_"
    lists = {
        "params": params,
        "grads": grads,
        "exp_avgs": exp_avgs,
        "exp_avg_sqs": exp_avg_sqs,
        "max_exp_avg_sqs": max_exp_avg_sqs,
    }
    _check.lists(op, **lists, reserved=reserved)
    _check_sequence(op, "steps", steps, "a list of integers")
    _check_sequence(op, "betas", betas, "a pair of numbers")
    options: dict[str, Any] = {
        "steps": _check.integers(op, "steps", steps),
        "lr": _check.number(op, "lr", lr),
        "betas": [_check.number(op, f"betas[{i}]", b) for i, b in enumerate(betas)],
        "eps": _check.number(op, "eps", eps),
        "weight_decay": _check.number(op, "weight_decay", weight_decay),
        "decoupled_weight_decay": _check.boolean(
            op, "decoupled_weight_decay", decoupled_weight_decay
        ),
        "maximize": _check.boolean(op, "maximize", maximize),
        "clip": clip,
    }
    arguments = (*lists.values(), reserved, *options.values())
    if not any((*lists.values(), reserved, steps)):
        return
    if uses_reference():
        _call.check_for_reference(op, fakes.masked_adam_step_, *arguments)
        in_torch.optimizers.masked_adam_step_(
            params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, reserved, **options
        )
        return
    _call.compiled(op, *arguments)
    _count_changes(params, exp_avgs, exp_avg_sqs, max_exp_avg_sqs)


def _check_sequence(op: str, name: str, value: object, wanted: str) -> None:
    if not isinstance(value, list | tuple):
        kind = type(value).__name__
        raise TypeError(f"clfast::{op}: {name} must be {wanted}, got {kind}")


def _count_changes(*lists: Sequence[Tensor]) -> None:
    """Tells autograd."""
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version([tensor for each in lists for tensor in each])


def masked_grad_norm(grads: Sequence[Tensor], reserved: Sequence[Tensor | None]) -> Tensor:
    """The 2-norm of all entries that are not reserved, as one vector.

    DGM blocks the gradients of reserved weights first, and clips by the norm of what is left. Its
    factor for a step is (largest / (norm + 1e-6)).clamp(max=1), as of
    ``torch.nn.utils.clip_grad_norm_``. Squares are summed in float64: no gradient of float32 is too
    large or too small for it.

    Args:
        grads: list of tensors, all float32 or all float64.
        reserved: list of masks and None; see the module.

    Returns:
        0-D float64 on the device of the gradients; without a gradient of its own. 0 of no tensors.
        NaN and Inf where the gradients hold them and are not reserved.

    Raises:
        RuntimeError: wrong lengths, shape, dtype or device; a tensor that a transform of torch.func
            differentiates.
    """
    op = "masked_grad_norm"
    _check.lists(op, grads=grads, reserved=reserved)
    if not grads and not reserved:
        return torch.zeros((), dtype=torch.float64)
    if uses_reference():
        _call.check_for_reference(op, fakes.masked_grad_norm, grads, reserved)
        return in_torch.optimizers.masked_grad_norm(grads, reserved)
    norm: Tensor = _call.compiled(op, grads, reserved)
    return norm
