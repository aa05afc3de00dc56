"""Fake kernels of :mod:`clfast.ops.optimizers`: all checks, then outputs without values.

The reference backend checks by them too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _check
from ._masks_fakes import check_not_empty, check_reserved, check_same_length, check_same_shape

Masks = list[Tensor | None]


def _check_alike(op: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    _check.same_device(op, name, tensor, other_name, other)
    check_same_shape(op, name, tensor, other_name, other)
    _check.require(
        tensor.dtype == other.dtype,
        f"{op}: {name} must be of dtype {other.dtype}, as {other_name} is, got {tensor.dtype}",
    )


def _check_first(op: str, of: str, first: list[Tensor], reserved: Masks) -> None:
    check_not_empty(op, of, first)
    check_same_length(op, "reserved", reserved, of, len(first))
    for i, (tensor, mask) in enumerate(zip(first, reserved, strict=True)):
        name = f"{of}[{i}]"
        _check.require(
            tensor.dtype in (torch.float32, torch.float64),
            f"{op}: {name} must be float32 or float64, got {tensor.dtype}",
        )
        _check.same_precision(op, name, tensor, f"{of}[0]", first[0])
        _check.same_device(op, name, tensor, f"{of}[0]", first[0])
        if mask is not None:
            check_reserved(op, f"reserved[{i}]", mask, name, tensor)


def _check_step(
    op: str,
    params: list[Tensor],
    grads: list[Tensor],
    states: dict[str, list[Tensor]],
    reserved: Masks,
    clip: Tensor | None,
) -> None:
    for list_name, tensors in {"grads": grads, **states}.items():
        check_same_length(op, list_name, tensors, "params", len(params))
    _check_first(op, "params", params, reserved)
    for i, param in enumerate(params):
        name = f"params[{i}]"
        _check.not_expanded(op, name, param)
        _check_alike(op, f"grads[{i}]", grads[i], name, param)
        for list_name, tensors in states.items():
            _check_alike(op, f"{list_name}[{i}]", tensors[i], name, param)
            _check.not_expanded(op, f"{list_name}[{i}]", tensors[i])
    if clip is not None:
        _check.dim(op, "clip", clip, 0)
        _check.floating(op, "clip", clip)
        _check.same_device(op, "clip", clip, "params[0]", params[0])


def _check_not_negative(op: str, **values: float) -> None:
    for name, value in values.items():
        _check.finite(op, name, value, value >= 0, "finite and >= 0")


@torch.library.register_fake("clfast::masked_sgd_step_")
def masked_sgd_step_(
    params: list[Tensor],
    grads: list[Tensor],
    momentum_buffers: list[Tensor],
    reserved: Masks,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    clip: Tensor | None,
) -> None:
    op = "masked_sgd_step_"
    _check_not_negative(op, lr=lr, momentum=momentum)
    _check.finite(op, "dampening", dampening, True, "finite")
    _check_not_negative(op, weight_decay=weight_decay)
    _check.require(
        not nesterov or (momentum > 0 and dampening == 0),
        f"{op}: nesterov must come with momentum > 0 and dampening = 0, got momentum "
        f"{momentum:g} and dampening {dampening:g}",
    )
    _check.require(
        momentum > 0 or not momentum_buffers,
        f"{op}: momentum_buffers must be empty where momentum is 0, got {len(momentum_buffers)} "
        "tensors",
    )
    states = {"momentum_buffers": momentum_buffers} if momentum > 0 else {}
    _check_step(op, params, grads, states, reserved, clip)


@torch.library.register_fake("clfast::masked_adam_step_")
def masked_adam_step_(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    reserved: Masks,
    steps: list[int],
    lr: float,
    betas: list[float],
    eps: float,
    weight_decay: float,
    decoupled_weight_decay: bool,
    maximize: bool,
    clip: Tensor | None,
) -> None:
    op = "masked_adam_step_"
    _check.require(len(betas) == 2, f"{op}: betas must hold two numbers, got {len(betas)}")
    _check_not_negative(op, lr=lr)
    for i, beta in enumerate(betas):
        _check.finite(op, f"betas[{i}]", beta, 0 <= beta < 1, "in [0, 1)")
    _check_not_negative(op, eps=eps, weight_decay=weight_decay)
    _check.require(
        len(steps) == len(params),
        f"{op}: steps must hold {len(params)} numbers, one a tensor of params, got {len(steps)}",
    )
    for i, step in enumerate(steps):
        _check.require(step >= 1, f"{op}: steps[{i}] must be >= 1, got {step}")
    states = {"exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    if max_exp_avg_sqs:
        states["max_exp_avg_sqs"] = max_exp_avg_sqs
    _check_step(op, params, grads, states, reserved, clip)


@torch.library.register_fake("clfast::masked_grad_norm")
def masked_grad_norm(grads: list[Tensor], reserved: Masks) -> Tensor:
    _check_first("masked_grad_norm", "grads", grads, reserved)
    return grads[0].new_empty((), dtype=torch.float64)
