"""What `herding` is measured against. Batched forms take classes of one size, side by side."""

from __future__ import annotations

import torch
from torch import Tensor


def herding_by_distances(features: Tensor, labels: Tensor, m: int) -> list[Tensor]:
    """Class by class and pick by pick, as libraries ship it: all distances of the new means."""
    picks = []
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        x = features[rows]
        mean, total = x.mean(0), torch.zeros_like(x[0])
        taken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        order = []
        for k in range(1, m + 1):
            away = (mean - (total + x) / k).norm(dim=1)
            away[taken] = torch.inf
            best = int(away.argmin())
            order.append(best)
            taken[best] = True
            total = total + x[best]
        picks.append(rows[order])
    return picks


def herding_by_products(features: Tensor, labels: Tensor, m: int) -> list[Tensor]:
    """Class by class; a matrix-vector product a pick, and nothing is waited for."""
    picks = []
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        x = features[rows]
        mean, sq_norms = x.mean(0), x.square().sum(1)
        target, order = mean, []
        for _ in range(m):
            best = (2 * (x @ target) - sq_norms).argmax()
            sq_norms = sq_norms.index_fill(0, best, torch.inf)
            target = target + mean - x[best]
            order.append(best)
        picks.append(rows[torch.stack(order)])
    return picks


def herding_batched(features: Tensor, m: int) -> Tensor:
    """[K, n, d], all classes at once; rows [K, m] of the features behind one another."""
    classes, size, _ = features.shape
    mean, sq_norms = features.mean(1), features.square().sum(2)
    target, order = mean, []
    every = torch.arange(classes, device=features.device)
    for _ in range(m):
        scores = 2 * torch.bmm(features, target[:, :, None])[:, :, 0] - sq_norms
        best = scores.argmax(1)
        sq_norms = sq_norms.scatter(1, best[:, None], torch.inf)
        target = target + mean - features[every, best]
        order.append(every * size + best)
    return torch.stack(order, 1)
