"""Exemplars in plain PyTorch; see :mod:`clfast.ops.exemplars` for the contracts."""

from __future__ import annotations

import torch
from torch import Tensor

from .retrieval import _widened


def herding(features: Tensor, labels: Tensor, m: int) -> list[Tensor]:
    """iCaRL's Algorithm 4 (Rebuffi et al. 2017) for every class, in float64.

    The mean of k picks is nearest to mu where ||Y + y||^2 is least, with y = x - mu, and Y the sum
    of these differences of the k - 1 picks before: where -2 <Y, y> - ||y||^2 is largest.
    """
    picks = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        x = features[members].double()
        mean = x.mean(0)
        y = x - mean
        sq_norms = y.square().sum(1)
        longest = sq_norms.max().sqrt()
        total, taken = torch.zeros_like(mean), torch.zeros_like(members, dtype=torch.bool)
        order = []
        for _ in range(min(m, len(x))):
            # Products row by row, so that equal rows have equal scores.
            scores = (-2 * (y * total).sum(1) - sq_norms).masked_fill(taken, -torch.inf)
            # Nearer than this, roundings of mu and of sums could reverse them: the smaller row.
            tie = (2.0**-46 * (total.norm() + longest) + 2.0**-48 * mean.norm()) * longest
            order.append((scores >= scores.max() - tie).nonzero()[0, 0])
            taken[order[-1]] = True
            total = total + y[order[-1]]
        picks.append(members[torch.stack(order)])
    return picks


def softmax_descent(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    steps: int,
    lr: float,
) -> tuple[Tensor, Tensor | None]:
    """W - lr (P - Y)^T H / n, `steps` times; with gradients by autograd."""
    features, weight = _widened(features), _widened(weight)
    bias = None if bias is None else _widened(bias)
    targets = torch.nn.functional.one_hot(labels, len(weight)).to(features.dtype)
    for _ in range(steps):
        logits = features @ weight.T if bias is None else features @ weight.T + bias
        residuals = (logits.softmax(1) - targets) / max(1, len(features))
        weight = weight - lr * residuals.T @ features
        bias = None if bias is None else bias - lr * residuals.sum(0)
    # Never the given tensors themselves.
    return weight.clone(), None if bias is None else bias.clone()
