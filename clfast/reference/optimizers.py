"""Masked optimiser steps in plain PyTorch; see :mod:`clfast.ops.optimizers` for the contracts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .masks import _free

Masks = Sequence[Tensor | None]


def _unmasked(tensor: Tensor, reserved: Tensor | None) -> Tensor:
    """0 where it is reserved."""
    if reserved is None:
        return tensor
    return torch.where(_free(reserved, tensor), tensor, tensor.new_zeros(()))


def _seen_gradient(
    param: Tensor,
    grad: Tensor,
    reserved: Tensor | None,
    weight_decay: float,
    maximize: bool,
    clip: Tensor | None,
) -> Tensor:
    """The gradient as the optimiser takes it."""
    if clip is not None:
        grad = grad * clip.to(grad.dtype)
    if maximize:
        grad = -grad
    if weight_decay != 0:
        grad = grad + weight_decay * param
    return _unmasked(grad, reserved)


def _move_(param: Tensor, to: Tensor, reserved: Tensor | None) -> None:
    param.copy_(to if reserved is None else torch.where(_free(reserved, param), to, param))


@torch.no_grad()
def masked_sgd_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    reserved: Masks,
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    clip: Tensor | None = None,
) -> None:
    """torch.optim.SGD, with Eq. 5 of DGM."""
    for i, (param, grad, mask) in enumerate(zip(params, grads, reserved, strict=True)):
        g = _seen_gradient(param, grad, mask, weight_decay, maximize, clip)
        if momentum != 0:
            buffer = momentum_buffers[i]
            buffer.copy_(momentum * buffer + (1 - dampening) * g)
            g = g + momentum * buffer if nesterov else buffer
        _move_(param, param - lr * g, mask)


@torch.no_grad()
def masked_adam_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    reserved: Masks,
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
    """torch.optim.Adam (Kingma and Ba 2015, Algorithm 1), with Eq. 5 of DGM."""
    beta1, beta2 = betas
    decay = 0.0 if decoupled_weight_decay else weight_decay
    keep = 1 - lr * weight_decay if decoupled_weight_decay else 1.0
    for i, (param, grad, mask) in enumerate(zip(params, grads, reserved, strict=True)):
        m, v = exp_avgs[i], exp_avg_sqs[i]
        g = _seen_gradient(param, grad, mask, decay, maximize, clip)
        m.copy_(beta1 * m + (1 - beta1) * g)
        v.copy_(beta2 * v + (1 - beta2) * g * g)
        if max_exp_avg_sqs:
            v = max_exp_avg_sqs[i].copy_(torch.maximum(max_exp_avg_sqs[i], v))
        root = (v / (1 - beta2 ** steps[i])).sqrt()
        step = lr / (1 - beta1 ** steps[i]) * m / (root + eps)
        _move_(param, keep * param - step, mask)


def masked_grad_norm(grads: Sequence[Tensor], reserved: Masks) -> Tensor:
    """In float64."""
    squares = [
        _unmasked(g.detach(), mask).double().square().sum()
        for g, mask in zip(grads, reserved, strict=True)
    ]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros((), dtype=torch.float64)
