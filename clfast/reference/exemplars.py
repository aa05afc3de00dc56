"""Exemplars in plain PyTorch; see :mod:`clfast.ops.exemplars` for the contracts."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .retrieval import _widened

Reduction = Literal["batchmean", "mean", "sum"]


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


def marked(new_classes: Tensor, classes: int) -> Tensor:
    """[C] bool: which classes are new."""
    marks = torch.zeros(classes, dtype=torch.bool, device=new_classes.device)
    return marks.index_fill(0, new_classes, True)


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    *,
    reduction: Reduction = "batchmean",
    scale_t2: bool = False,
) -> Tensor:
    """KL(p || q) = sum_c p_c (log p_c - log q_c), of the old network's p and the new one's q."""
    classes = teacher.shape[1]
    log_q = (_widened(student)[:, :classes] / temperature).log_softmax(1)
    log_p = (_widened(teacher) / temperature).log_softmax(1)
    total = (log_p.exp() * (log_p - log_q)).sum()
    terms = {"batchmean": len(student), "mean": student.shape[0] * classes, "sum": 1}[reduction]
    return total / max(1, terms) * (temperature**2 if scale_t2 else 1.0)


def margin_ranking_loss(
    cosines: Tensor, labels: Tensor, new_classes: Tensor, *, margin: float = 0.5, k: int = 2
) -> Tensor:
    """LUCIR's inter-class separation, in the mean over samples of old classes and the new classes
    hardest for them."""
    cosines = _widened(cosines)
    is_old = ~marked(new_classes, cosines.shape[1])[labels]
    # A stable sort leaves equal scores in the order of the list.
    ranked = cosines[:, new_classes].sort(stable=True, dim=1, descending=True).values[:, :k]
    own = cosines.gather(1, labels[:, None])
    terms = (margin - own + ranked).relu().where(is_old[:, None], cosines.new_zeros(()))
    count = (is_old.sum() * ranked.shape[1]).clamp_min(1)
    return terms.sum() / count


def cosine_logits(features: Tensor, weight: Tensor, scale: float | Tensor) -> Tensor:
    """LUCIR's cosine normalization."""
    units, directions = (F.normalize(_widened(rows), dim=1) for rows in (features, weight))
    return scale * (units @ directions.t())


def bias_correct(
    logits: Tensor, new_classes: Tensor, scale: float | Tensor, shift: float | Tensor
) -> Tensor:
    """BiC's bias correction layer."""
    logits = _widened(logits)
    return (scale * logits + shift).where(marked(new_classes, logits.shape[1]), logits)
