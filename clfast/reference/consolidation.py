"""Consolidation in plain PyTorch; see :mod:`clfast.ops.consolidation` for the contracts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .retrieval import _widened


def _row(tensors: Sequence[Tensor]) -> Tensor:
    """All entries of a list behind one another, in float64."""
    return torch.cat([t.detach().flatten().double() for t in tensors])


def project_gradients_(grads: Sequence[Tensor], reference: Sequence[Tensor]) -> None:
    """A-GEM, Eq. 11: g - (g^T r / r^T r) r, where g^T r < 0."""
    g, r = _row(grads), _row(reference)
    dot = g @ r
    if dot < 0:
        with torch.no_grad():
            parts = (dot / (r @ r) * r).split([t.numel() for t in grads])
            for grad, part in zip(grads, parts, strict=True):
                grad.copy_(grad - part.view_as(grad))


def gem_multipliers(gram: Tensor, products: Tensor, margin: float) -> Tensor:
    """argmin_v v^T P v / 2 + b^T v subject to v >= margin, with P = gram + 0.001 I.

    By principal pivots (Murty 1974): as long as a free variable is below its bound, or the slope at
    a bound is negative, the last such variable changes sides. P is positive definite, so it ends.
    """
    p = gram + 1e-3 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    free = torch.zeros(len(gram), dtype=torch.bool, device=gram.device)
    while True:
        v = torch.full_like(products, margin)
        rest = products + p[:, ~free] @ v[~free]
        v[free] = torch.linalg.solve(p[free][:, free], -rest[free])
        slope = p @ v + products
        # Where free the slope is a rounding error, at a bound v - margin is 0.
        error = 1e-12 * (products.abs() + p.abs() @ v.abs())
        wrong = torch.where(free, v < margin, slope < -error).nonzero()
        if not len(wrong):
            return v
        free[wrong[-1]] ^= True


def gem_project(grad: Tensor, memory_grads: Tensor, margin: float) -> Tensor:
    """GEM, Eq. 11, with the ridge and the margin of the authors' code."""
    g, m = grad.double(), memory_grads.double()
    if bool((m @ g >= 0).all()):
        return _widened(grad).clone()
    projected = g + gem_multipliers(m @ m.T, m @ g, margin) @ m
    return projected.to(_widened(grad).dtype)


def quadratic_penalty(
    params: Sequence[Tensor], anchors: Sequence[Tensor], importances: Sequence[Tensor]
) -> Tensor:
    """EWC, Eq. 3, for lambda = 2: sum F (theta - theta*)^2."""
    terms = [
        _widened(f) * (_widened(p) - _widened(a)) ** 2
        for p, a, f in zip(params, anchors, importances, strict=True)
    ]
    sums = [term.sum(dtype=torch.float64) for term in terms]
    return torch.stack(sums).sum().to(terms[0].dtype)


def add_penalty_gradients_(
    grads: Sequence[Tensor],
    params: Sequence[Tensor],
    anchors: Sequence[Tensor],
    importances: Sequence[Tensor],
    strength: float,
) -> None:
    """The gradient of EWC's Eq. 3: 2 strength F (theta - theta*)."""
    if strength == 0:
        return
    with torch.no_grad():
        for g, p, a, f in zip(grads, params, anchors, importances, strict=True):
            slope = 2 * _widened(f) * (_widened(p) - _widened(a))
            g.copy_(_widened(g) + strength * slope)


def path_integral_(
    omegas: Sequence[Tensor],
    grads: Sequence[Tensor],
    deltas: Sequence[Tensor],
    *,
    before: Sequence[Tensor] | None = None,
) -> None:
    """SI, Eq. 3: omega -= g delta, which is nothing where delta = 0."""
    with torch.no_grad():
        if before is not None:
            moved = zip(deltas, before, strict=True)
            deltas = [_widened(after) - _widened(start) for after, start in moved]
        for omega, g, delta in zip(omegas, grads, deltas, strict=True):
            brought = (_widened(g) * _widened(delta)).masked_fill(delta == 0, 0)
            omega.copy_(_widened(omega) - brought)


def _of_samples(
    model: nn.Module, inputs: Tensor, objective: Callable[[int, Tensor], list[Tensor]], power: int
) -> dict[str, Tensor]:
    """Mean over samples of |gradient|^power, summed over the objectives of a sample: batches of
    one."""
    copied = copy.deepcopy(model).eval()
    own = {name: p for name, p in copied.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(_widened(p.detach())) for name, p in own.items()}
    for n in range(len(inputs)):
        with torch.enable_grad():
            values = objective(n, _widened(copied(inputs[n : n + 1])))
        for value in values:
            gradients = torch.autograd.grad(
                value, list(own.values()), retain_graph=True, materialize_grads=True
            )
            for name, gradient in zip(own, gradients, strict=True):
                total[name] += _widened(gradient).abs() ** power / len(inputs)
    return total


def per_sample_fisher(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor | str,
    *,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """E_x E_y (d log p(y | x) / d theta)^2, y as ``targets`` says."""
    if targets == "sample":
        with torch.no_grad():
            p = copy.deepcopy(model).eval()(inputs).softmax(1)
        targets = torch.multinomial(p, 1, generator=generator)[:, 0]

    def log_likelihoods(n: int, logits: Tensor) -> list[Tensor]:
        log_p = F.log_softmax(logits[0], 0)
        if isinstance(targets, Tensor):
            return [log_p[targets[n]]]
        return [p.detach().exp().sqrt() * p for p in log_p]

    return _of_samples(model, inputs, log_likelihoods, 2)


def mas_importance(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """MAS, Eq. 3: mean over samples of |d ||f(x)||^2 / d theta|."""
    return _of_samples(model, inputs, lambda _, output: [output.square().sum()], 1)


def rwalk_importance_(
    scores: Sequence[Tensor],
    path_integrals: Sequence[Tensor],
    fishers: Sequence[Tensor],
    deltas: Sequence[Tensor],
    *,
    damping: float = 0.1,
) -> None:
    """RWalk, Eq. 6 and section 4.2: (scores + max(0, w / (F delta^2 + damping))) / 2."""
    with torch.no_grad():
        for score, w, f, delta in zip(scores, path_integrals, fishers, deltas, strict=True):
            distance = _widened(f) * _widened(delta) ** 2
            fresh = (_widened(w) / (distance + damping)).clamp(min=0)
            score.copy_((_widened(score) + fresh) / 2)


def mir_scores(
    model: nn.Module, x: Tensor, y: Tensor, grads: Sequence[Tensor | None], lr: float
) -> Tensor:
    """Aljundi et al. 2019: s_MI-1(x) = l(f_{theta - lr g}(x), y) - l(f_theta(x), y)."""
    before, after = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        for parameter, grad in zip(after.parameters(), grads, strict=True):
            if grad is not None:
                parameter.sub_(lr * grad)
        old, new = (
            F.cross_entropy(_widened(net(x)), y, reduction="none") for net in (before, after)
        )
    return new - old
