"""What a step with a plugin is measured against, on lists of a network's tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .consolidation import STRENGTH, Grads, Tensors, penalty_by_loop


@torch.enable_grad()
def pulled_by_every_task(
    grads: Grads, params: Tensors, anchors: list[Tensors], importances: list[Tensors]
) -> Grads:
    """As people write it: a term of the loss for each task that ended and each of its tensors."""
    penalty = torch.zeros((), device=params[0].device)
    for held, weights in zip(anchors, importances, strict=True):
        penalty = penalty + penalty_by_loop(params, held, weights)
    (STRENGTH / 2 * penalty).backward()
    return grads


def pulled_by_every_task_foreach(
    grads: Grads, params: Tensors, anchors: list[Tensors], importances: list[Tensors]
) -> Grads:
    """In closed form, and all tensors of a task at once."""
    for held, weights in zip(anchors, importances, strict=True):
        torch._foreach_addcmul_(grads, weights, torch._foreach_sub(params, held), STRENGTH)
    return grads


def pulled_at_once(grads: Grads, params: Tensors, importances: Tensors, pulls: Tensors) -> Grads:
    """From sum F and sum F theta*: (sum F) theta - sum F theta*."""
    slopes = torch._foreach_mul(params, importances)
    torch._foreach_sub_(slopes, pulls)
    torch._foreach_add_(grads, slopes, alpha=STRENGTH)
    return grads


def walked_by_name(
    params: dict[str, Tensor],
    grads: dict[str, Tensor],
    omegas: dict[str, Tensor],
    before: dict[str, Tensor],
    steps: Tensors,
) -> Tensors:
    """A step's share of SI's path integral, as people write it: copies, by name."""
    copies = {}
    for name, param in params.items():
        before[name] = param.detach().clone()
        copies[name] = grads[name].detach().clone()
    stepped(list(params.values()), steps)
    for name, param in params.items():
        omegas[name] -= copies[name] * (param.detach() - before[name])
    return tuple(omegas.values())


def walked_foreach(
    params: Tensors, grads: Grads, omegas: Grads, before: Grads, copies: Grads, steps: Tensors
) -> Tensors:
    """Copies are made into what is there. That gradients stay until the step is over is not known
    to a plugin."""
    torch._foreach_copy_(before, params)
    torch._foreach_copy_(copies, grads)
    stepped(params, steps)
    torch._foreach_addcmul_(omegas, torch._foreach_sub(params, before), copies, value=-1)
    return omegas


def stepped(params: Tensors | list[Tensor], steps: Tensors) -> None:
    """What the optimiser does, in the time of all who compete."""
    torch._foreach_add_(params, steps)
