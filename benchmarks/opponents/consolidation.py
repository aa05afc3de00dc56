"""What clfast's consolidation ops are measured against. `as_published` goes the authors' way: every
parameter's gradient copied into one vector, and GEM's programme on the CPU in float64 by numpy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Grads = tuple[Tensor, ...]
Tensors = tuple[Tensor, ...]

STRENGTH = 0.5


# --- project_gradients_: the gradients, projected where they lie ----------------------------------


def projected_as_published(grads: Grads, reference: Grads) -> Grads:
    """Vectors of all entries, filled and emptied parameter by parameter."""
    sizes = [t.numel() for t in grads]
    vectors = [torch.empty(sum(sizes), device=grads[0].device) for _ in range(2)]
    for vector, tensors in zip(vectors, (grads, reference), strict=True):
        begin = 0
        for tensor, size in zip(tensors, sizes, strict=True):
            vector[begin : begin + size].copy_(tensor.data.view(-1))
            begin += size
    g, r = vectors
    dot = torch.mul(g, r).sum()
    if dot < 0:
        g = g - (dot / torch.mul(r, r).sum()) * r
        begin = 0
        for tensor, size in zip(grads, sizes, strict=True):
            tensor.data.copy_(g[begin : begin + size].view_as(tensor))
            begin += size
    return grads


def projected_by_cat(grads: Grads, reference: Grads) -> Grads:
    """Two vectors and their dot products."""
    g, r = (torch.cat([t.view(-1) for t in tensors]) for tensors in (grads, reference))
    dot = float(g @ r)
    if dot < 0:
        torch._foreach_add_(grads, reference, alpha=-dot / float(r @ r))
    return grads


def projected_by_dots(grads: Grads, reference: Grads) -> Grads:
    """A dot product a tensor: nothing is copied."""
    pairs = list(zip(grads, reference, strict=True))
    dot = float(torch.stack([torch.dot(g.view(-1), r.view(-1)) for g, r in pairs]).sum())
    if dot < 0:
        norms = torch.stack(torch._foreach_norm(reference))
        torch._foreach_add_(grads, reference, alpha=-dot / float(norms @ norms))
    return grads


def projected_without_branch(grads: Grads, reference: Grads) -> Grads:
    """For torch.compile, and for devices that are not to be waited for."""
    pairs = list(zip(grads, reference, strict=True))
    dot = torch.stack([(g * r).sum() for g, r in pairs]).sum()
    sq_norm = torch.stack([(r * r).sum() for r in reference]).sum()
    scale = torch.where(dot < 0, dot / sq_norm, 0.0)
    for g, r in pairs:
        g.sub_(scale * r)
    return grads


# --- gem_project ----------------------------------------------------------------------------------


def _multipliers(gram: np.ndarray, products: np.ndarray, margin: float) -> np.ndarray:
    """The programme that the authors give to quadprog, by pivots; T is small."""
    p = gram + 1e-3 * np.eye(len(gram))
    free = np.zeros(len(gram), bool)
    while True:
        v = np.full(len(gram), margin)
        v[free] = np.linalg.solve(
            p[np.ix_(free, free)], -products[free] - p[np.ix_(free, ~free)] @ v[~free]
        )
        slope = p @ v + products
        error = 1e-12 * (np.abs(p) @ np.abs(v) + np.abs(products))
        wrong = np.nonzero(np.where(free, v < margin, slope < -error))[0]
        if not len(wrong):
            return v
        free[wrong[-1]] ^= True


def gem_as_published(grad: Tensor, memory_grads: Tensor, margin: float) -> Tensor:
    dots = torch.mm(grad[None], memory_grads.t())
    if not bool((dots < 0).any()):
        return grad.clone()
    memories, gradient = memory_grads.cpu().double().numpy(), grad.cpu().double().numpy()
    gram = memories @ memories.T
    v = _multipliers((gram + gram.T) / 2, memories @ gradient, margin)
    return torch.from_numpy(v @ memories + gradient).to(grad)


def gem_in_torch(grad: Tensor, memory_grads: Tensor, margin: float) -> Tensor:
    """Products in float32, the small programme in float64 by numpy."""
    products = memory_grads @ grad
    if not bool((products < 0).any()):
        return grad.clone()
    both = torch.cat([memory_grads @ memory_grads.T, products[:, None]], 1).cpu().double().numpy()
    v = torch.from_numpy(_multipliers(both[:, :-1], both[:, -1], margin))
    return torch.addmv(grad, memory_grads.T, v.to(grad))


def gem_without_branch(grad: Tensor, memory_grads: Tensor, margin: float) -> Tensor:
    """The programme by Newton's method on its conditions (a primal-dual active set), ten steps of
    which are enough for gradients like these: for torch.compile, and without waiting for a GPU."""
    products = (memory_grads @ grad).double()
    eye = torch.eye(len(products), dtype=torch.float64, device=grad.device)
    p = (memory_grads @ memory_grads.T).double() + 1e-3 * eye
    v = torch.full_like(products, margin)
    for _ in range(10):
        free = v - (p @ v + products) / p.diagonal() > margin
        both = free[:, None] & free
        bound = margin * (~free).double()
        right = torch.where(free, -products - p @ bound, bound)
        v = torch.linalg.solve(torch.where(both, p, 0.0) + eye * ~free, right)
    v = v * (products < 0).any()
    return torch.addmv(grad, memory_grads.T, v.to(grad.dtype))


# --- quadratic_penalty: value and gradients -------------------------------------------------------


def penalty_by_loop(params: Tensors, anchors: Tensors, importances: Tensors) -> Tensor:
    """As people write it, over the parameters by name."""
    penalty = torch.zeros((), device=params[0].device)
    for param, anchor, importance in zip(params, anchors, importances, strict=True):
        penalty = penalty + (importance * (param - anchor).pow(2)).sum()
    return penalty


def penalty_by_foreach(params: Tensors, anchors: Tensors, importances: Tensors) -> Tensor:
    squares = torch._foreach_pow(torch._foreach_sub(params, anchors), 2)
    return torch.stack([t.sum() for t in torch._foreach_mul(squares, importances)]).sum()


def penalty_by_hand(
    params: Tensors, anchors: Tensors, importances: Tensors
) -> tuple[Tensor, Tensors]:
    """Without autograd; half the gradient is a factor of the value."""
    distances = torch._foreach_sub(params, anchors)
    slopes = torch._foreach_mul(distances, importances)
    pairs = zip(slopes, distances, strict=True)
    value = torch.stack([torch.dot(s.view(-1), d.view(-1)) for s, d in pairs]).sum()
    torch._foreach_mul_(slopes, 2)
    return value, slopes


def penalty_in_closed_form(
    params: Tensors, anchors: Tensors, importances: Tensors
) -> tuple[Tensor, Tensors]:
    """The same a tensor at a time: what a compiler fuses."""
    values, slopes = [], []
    for param, anchor, importance in zip(params, anchors, importances, strict=True):
        distance = param - anchor
        values.append((importance * distance * distance).sum())
        slopes.append(2 * importance * distance)
    return torch.stack(values).sum(), tuple(slopes)


# --- add_penalty_gradients_: gradients alone, but for the first -----------------------------------


@torch.enable_grad()
def added_by_autograd(
    grads: Grads, params: Tensors, anchors: Tensors, importances: Tensors
) -> Grads:
    """The penalty as a part of the loss, which needs its value; the graph adds to `param.grad`."""
    (STRENGTH * penalty_by_loop(params, anchors, importances)).backward()
    return grads


def added_by_loop(grads: Grads, params: Tensors, anchors: Tensors, importances: Tensors) -> Grads:
    for grad, param, anchor, importance in zip(grads, params, anchors, importances, strict=True):
        grad.add_(2 * STRENGTH * importance * (param - anchor))
    return grads


def added_by_foreach(
    grads: Grads, params: Tensors, anchors: Tensors, importances: Tensors
) -> Grads:
    distances = torch._foreach_sub(params, anchors)
    torch._foreach_addcmul_(grads, importances, distances, 2 * STRENGTH)
    return grads


# --- path_integral_ -------------------------------------------------------------------------------


def walked_by_loop(omegas: Grads, grads: Tensors, deltas: Tensors) -> Grads:
    """As people write it, over the parameters by name."""
    for omega, grad, delta in zip(omegas, grads, deltas, strict=True):
        omega.sub_(grad * delta)
    return omegas


def walked_in_place(omegas: Grads, grads: Tensors, deltas: Tensors) -> Grads:
    for omega, grad, delta in zip(omegas, grads, deltas, strict=True):
        omega.addcmul_(grad, delta, value=-1)
    return omegas


def walked_by_foreach(omegas: Grads, grads: Tensors, deltas: Tensors) -> Grads:
    torch._foreach_addcmul_(omegas, grads, deltas, -1)
    return omegas
