"""Exemplars in plain PyTorch; see :mod:`clfast.ops.exemplars` for the contracts."""

from __future__ import annotations

import torch
from torch import Tensor


def herding(features: Tensor, labels: Tensor, m: int) -> list[Tensor]:
    """iCaRL's Algorithm 4 (Rebuffi et al. 2017) for every class, in float64.

    The mean of k picks is nearest to mu where ||k mu - S - x||^2 is least, with S the sum of the
    k - 1 picks before: where 2 <k mu - S, x> - ||x||^2 is largest.
    """
    picks = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        x = features[members].double()
        mean = x.mean(0)
        target, taken = mean, torch.zeros(len(x), dtype=torch.bool, device=x.device)
        order = []
        sq_norms = x.square().sum(1)
        longest = sq_norms.max().sqrt()
        for _ in range(min(m, len(x))):
            scores = (2 * (x * target).sum(1) - sq_norms).masked_fill(taken, -torch.inf)
            # Nearer than this, sums of another order could reverse them: the smaller row.
            tie = 2.0**-46 * (target.norm() + longest) * longest
            order.append((scores >= scores.max() - tie).nonzero()[0, 0])
            taken[order[-1]] = True
            target = target + mean - x[order[-1]]
        picks.append(members[torch.stack(order)])
    return picks
