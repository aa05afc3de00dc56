"""The methods as people write them: plain PyTorch, one query after the other.

The baseline of the demo and the benchmarks, and the oracle of the methods' tests. Each query gets
its distances to all keys, a `topk`, and for MbPA a clone of the output layer with an optimizer of
its own. Nothing here calls an op of clfast.

Arguments: queries [B, d], base logits [B, C] or the output layer (weight [C, d], bias [C] or
None), the memory as keys [M, d] and labels [M] int64; K = min(k, M). All return [B, C].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..methods import Hebb, MbPA, Mixture, Parametric


@torch.no_grad()
def naive_scores(learner: Parametric, x: Tensor) -> Tensor | None:
    """What `learner` predicts for x [B, ...], up to a constant a sample, by the loops below.

    None for a learner that predicts without neighbours, has an output network of more layers, or
    options that the loops lack. The learner's modules must be in eval mode, or have nothing that
    depends on it, and its memory must hold something.
    """
    head = learner.head
    if not isinstance(head, nn.Linear) or not _has_loop(learner):
        return None
    assert isinstance(learner, Mixture | MbPA)
    memory = learner.memory
    queries = learner.features(x).flatten(1)
    if isinstance(learner, Mixture):
        return naive_mixture(
            *(queries, head(queries), memory.keys, memory.values),
            k=learner.k,
            theta=learner.theta,
            gamma=learner.gamma,
        )
    layer_and_memory = (head.weight, head.bias, memory.keys, memory.values)
    if not isinstance(learner, Hebb):
        return naive_mbpa(
            *(queries, *layer_and_memory),
            k=learner.k,
            eps=learner.eps,
            steps=learner.steps,
            lr=learner.lr,
        )
    labels = torch.arange(learner.num_classes)
    new = ~torch.isin(labels, torch.tensor(learner.base_classes, dtype=torch.int64))
    if not new.any():  # nothing new to learn: the update goes to all classes
        new = ~new
    return naive_hebb(
        *(queries, *layer_and_memory),
        counts=memory.seen(learner.num_classes),
        k=learner.k,
        eps=learner.eps,
        beta=learner.beta,
        eta=learner.eta,
        steps=learner.steps,
        lr=learner.lr,
        select=new,
    )


def _has_loop(learner: Parametric) -> bool:
    if isinstance(learner, Mixture):
        return learner.form == "normalized"
    if not isinstance(learner, MbPA):
        return False
    plain = (learner.optimizer, learner.kernel, learner.mixture) == ("rmsprop", "inverse", None)
    if isinstance(learner, Hebb):
        plain &= learner.fixed_interpolation is None and learner.unseen_interpolation == 1
        plain &= learner.hebb_on == "new" and learner.counts == "seen"
    return plain


def naive_mixture(
    queries: Tensor,
    logits: Tensor,
    keys: Tensor,
    labels: Tensor,
    *,
    k: int,
    theta: float,
    gamma: float,
) -> Tensor:
    """Log-probabilities of `clfast.methods.Mixture`: Eq. 8 with normalised parts."""
    rows = []
    for query, base in zip(queries, logits, strict=True):
        near, near_labels, _ = _neighbours(query, keys, labels, k)
        attention = (theta * (near @ query)).softmax(0)
        cache = torch.zeros_like(base).index_add_(0, near_labels, attention)
        rows.append(((1 - gamma) * base.softmax(0) + gamma * cache).log())
    return torch.stack(rows)


def naive_mbpa(
    queries: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    keys: Tensor,
    labels: Tensor,
    *,
    k: int,
    steps: int,
    lr: float,
    eps: float = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.RMSprop,
) -> Tensor:
    """Logits of `clfast.methods.MbPA`: Eq. 5."""
    rows = []
    for query in queries:
        near, near_labels, sq_distances = _neighbours(query, keys, labels, k)
        closeness = 1 / (eps + sq_distances)
        w, b = _adapted(
            weight, bias, near, near_labels, closeness, steps, lr=lr, optimizer=optimizer
        )
        rows.append(F.linear(query, w, b))
    return torch.stack(rows)


def naive_hebb(
    queries: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    keys: Tensor,
    labels: Tensor,
    *,
    counts: Tensor,
    k: int,
    beta: float,
    eta: float,
    steps: int,
    lr: float,
    eps: float = 1e-3,
    select: Tensor | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.RMSprop,
) -> Tensor:
    """Logits of `clfast.methods.Hebb`: Algorithm 1, Eq. 4, 5 and 7.

    counts [C] int64 is n_i, `select` [C] bool the classes with a Hebbian update (None: all).
    """
    interpolation = (1 - beta) / (1 - beta ** counts.clamp(min=1).to(queries.dtype))
    rows = []
    for query in queries:
        near, near_labels, sq_distances = _neighbours(query, keys, labels, k)
        closeness = 1 / (eps + sq_distances)
        w, b = _adapted(
            weight, bias, near, near_labels, closeness, steps, lr=lr, optimizer=optimizer
        )
        member = torch.bincount(near_labels, minlength=len(weight)).clamp(min=1)
        hebb_w = torch.zeros_like(weight).index_add_(0, near_labels, closeness[:, None] * near)
        hebb_b = torch.zeros_like(weight[:, 0]).index_add_(0, near_labels, closeness)
        rate = eta * interpolation / member
        if select is not None:
            rate = rate * select
        w = weight + (1 - interpolation)[:, None] * (w - weight) + rate[:, None] * hebb_w
        if bias is not None and b is not None:
            b = bias + (1 - interpolation) * (b - bias) + rate * hebb_b
        rows.append(F.linear(query, w, b))
    return torch.stack(rows)


def _neighbours(query: Tensor, keys: Tensor, labels: Tensor, k: int) -> tuple[Tensor, ...]:
    """Keys [K, d], labels [K] and squared distances [K] of the nearest entries."""
    sq_distances = (keys - query).square().sum(1)
    nearest, index = sq_distances.topk(min(k, len(keys)), largest=False)
    return keys[index], labels[index], nearest


def _adapted(
    weight: Tensor,
    bias: Tensor | None,
    keys: Tensor,
    labels: Tensor,
    closeness: Tensor,
    steps: int,
    *,
    lr: float,
    optimizer: Callable[..., torch.optim.Optimizer],
) -> tuple[Tensor, Tensor | None]:
    """The output layer after `steps` optimizer steps on the neighbours' weighted loss."""
    w = nn.Parameter(weight.clone())
    b = None if bias is None else nn.Parameter(bias.clone())
    adapt: Any = optimizer([p for p in (w, b) if p is not None], lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            adapt.zero_grad()
            losses = F.cross_entropy(F.linear(keys, w, b), labels, reduction="none")
            (closeness * losses).mean().backward()
            adapt.step()
    return w.detach(), None if b is None else b.detach()
