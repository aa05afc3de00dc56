"""What clfast's masked steps are measured against: gradients are masked, and a step of torch.optim
follows. That keeps what is reserved only where its moments are 0 and nothing decays."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from .masks import Tensors

LR, MOMENTUM = 1e-3, 0.9
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
STEP = 1000  # the number of the step: where Adam has forgotten its start


# --- optimisers -----------------------------------------------------------------------------------


def mask_loop_and_step(optimizer: torch.optim.Optimizer, params: Tensors, free: Tensors) -> None:
    for param, mask in zip(params, free, strict=True):
        assert param.grad is not None
        param.grad *= mask
    optimizer.step()


def foreach_mask_and_step(optimizer: torch.optim.Optimizer, params: Tensors, free: Tensors) -> None:
    torch._foreach_mul_([p.grad for p in params], free)
    optimizer.step()


# --- functions of lists, without what an optimiser does around them -------------------------------


def sgd_of_lists(
    params: Tensors, grads: Tensors, moments: tuple[Tensors, ...], free: Tensors, fused: bool
) -> None:
    torch._foreach_mul_(grads, free)
    sgd(
        *(list(params), list(grads), list(moments[0])),
        foreach=not fused,
        fused=fused,
        lr=LR,
        momentum=MOMENTUM,
        dampening=0.0,
        weight_decay=0.0,
        nesterov=False,
        maximize=False,
    )


def adam_of_lists(
    params: Tensors,
    grads: Tensors,
    moments: tuple[Tensors, ...],
    free: Tensors,
    fused: bool,
    steps: Tensors,
) -> None:
    """steps: counted on by each call."""
    torch._foreach_mul_(grads, free)
    adam(
        *(list(params), list(grads), *map(list, moments), [], list(steps)),
        foreach=not fused,
        fused=fused,
        amsgrad=False,
        beta1=BETA1,
        beta2=BETA2,
        lr=LR,
        weight_decay=0.0,
        eps=EPS,
        maximize=False,
    )


def sgd_by_hand(
    params: Tensors, grads: Tensors, moments: tuple[Tensors, ...], reserved: Tensors
) -> None:
    for param, grad, buffer, mask in zip(params, grads, moments[0], reserved, strict=True):
        buffer.mul_(MOMENTUM).add_(grad.masked_fill(mask, 0))
        param.sub_(buffer, alpha=LR)


def adam_by_hand(
    params: Tensors, grads: Tensors, moments: tuple[Tensors, ...], reserved: Tensors
) -> None:
    rate, root = LR / (1 - BETA1**STEP), (1 - BETA2**STEP) ** 0.5
    for param, grad, m, v, mask in zip(params, grads, *moments, reserved, strict=True):
        seen = grad.masked_fill(mask, 0)
        m.lerp_(seen, 1 - BETA1)
        v.mul_(BETA2).addcmul_(seen, seen, value=1 - BETA2)
        param.addcdiv_(m, (v.sqrt() / root).add_(EPS), value=-rate)


# --- masked_grad_norm -----------------------------------------------------------------------------


def norm_by_loop(grads: Tensors, free: Tensors) -> Tensor:
    total = grads[0].new_zeros(())
    for grad, mask in zip(grads, free, strict=True):
        grad *= mask
        total = total + grad.norm() ** 2
    return total**0.5


def norm_by_foreach(grads: Tensors, free: Tensors) -> Tensor:
    torch._foreach_mul_(grads, free)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))


def norm_by_squares(grads: Tensors, reserved: Tensors) -> Tensor:
    squares = [g.masked_fill(r, 0).square().sum() for g, r in zip(grads, reserved, strict=True)]
    return torch.stack(squares).sum().sqrt()
