"""Adaptation as people write it first: a copy of the layer for each query, autograd, an optimiser.

Same arguments as in `adaptation`, except that the layer is an `nn.Linear`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adaptation import Batch, Layer, Memory, Rule


def as_linear(layer: Layer) -> nn.Linear:
    module = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], device=layer.weight.device)
    with torch.no_grad():
        module.weight.copy_(layer.weight)
        module.bias.copy_(layer.bias)
    return module


def hebb(
    batch: Batch, memory: Memory, layer: nn.Linear, interpolation: Tensor, rule: Rule
) -> Tensor:
    rest = 1 - interpolation
    logits = []
    for query, keys, labels, closeness in _neighbourhoods(batch, memory, rule):
        mbpa_weight, mbpa_bias = _mbpa(layer, keys, labels, closeness, rule)
        hebb_weight, hebb_bias = _hebbian(layer.out_features, keys, labels, closeness)
        share = interpolation * rule.eta
        weight = layer.weight + rest[:, None] * mbpa_weight + share[:, None] * hebb_weight
        bias = layer.bias + rest * mbpa_bias + share * hebb_bias
        logits.append(F.linear(query, weight, bias))
    return torch.stack(logits)


def mbpa_update(
    batch: Batch, memory: Memory, layer: nn.Linear, rule: Rule
) -> tuple[Tensor, Tensor]:
    deltas = [
        _mbpa(layer, keys, labels, closeness, rule)
        for _, keys, labels, closeness in _neighbourhoods(batch, memory, rule)
    ]
    return torch.stack([w for w, _ in deltas]), torch.stack([b for _, b in deltas])


def hebbian_update(
    batch: Batch, memory: Memory, num_classes: int, rule: Rule
) -> tuple[Tensor, Tensor]:
    deltas = [
        _hebbian(num_classes, keys, labels, closeness)
        for _, keys, labels, closeness in _neighbourhoods(batch, memory, rule)
    ]
    return torch.stack([w for w, _ in deltas]), torch.stack([b for _, b in deltas])


def mixture(batch: Batch, memory: Memory, theta: float, gamma: float) -> Tensor:
    mixed = []
    for query, logits, rows in zip(batch.queries, batch.base_logits, batch.indices, strict=True):
        scores = F.softmax(theta * (memory.keys[rows] @ query), dim=0)
        neighbours = torch.zeros_like(logits).index_add_(0, memory.labels[rows], scores)
        mixed.append(torch.log((1 - gamma) * F.softmax(logits, dim=0) + gamma * neighbours))
    return torch.stack(mixed)


def interpolation_weights(counts: Tensor, beta: float) -> Tensor:
    weights = [(1 - beta) / (1 - beta**n) if n > 0 else 1.0 for n in counts.tolist()]
    return torch.tensor(weights, device=counts.device)


def _neighbourhoods(
    batch: Batch, memory: Memory, rule: Rule
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Query, keys [K, d], labels [K] and closeness [K], one query after another."""
    for query, distances, rows in zip(
        batch.queries, batch.sq_distances, batch.indices, strict=True
    ):
        yield query, memory.keys[rows], memory.labels[rows], 1 / (rule.eps + distances)


@torch.enable_grad()
def _mbpa(
    layer: nn.Linear, keys: Tensor, labels: Tensor, closeness: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    if rule.steps == 0:
        return torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)
    adapted = copy.deepcopy(layer)
    kinds = {"rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}
    optimizer = kinds[rule.optimizer](adapted.parameters(), lr=rule.lr)
    for _ in range(rule.steps):
        optimizer.zero_grad()
        loss = (closeness * F.cross_entropy(adapted(keys), labels, reduction="none")).mean()
        loss.backward()
        optimizer.step()
    return (adapted.weight - layer.weight).detach(), (adapted.bias - layer.bias).detach()


def _hebbian(
    num_classes: int, keys: Tensor, labels: Tensor, closeness: Tensor
) -> tuple[Tensor, Tensor]:
    counts = torch.bincount(labels, minlength=num_classes).clamp_min(1)
    weight = keys.new_zeros(num_classes, keys.shape[1])
    weight.index_add_(0, labels, closeness[:, None] * keys)
    bias = closeness.new_zeros(num_classes).index_add_(0, labels, closeness)
    return weight / counts[:, None], bias / counts
