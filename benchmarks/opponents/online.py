"""From images to log-probabilities in the best PyTorch: exact neighbours by a matrix product and
`topk`, all queries adapted together. Norms and E are computed once, as a user would keep them. For
output networks of several layers, the loop over queries that people write."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import adaptation
from .adaptation import Batch, Layer, Memory, Rule
from .retrieval import knn_addmm

# Queries adapted together: what is of size [B, C, d] stays in the cache.
_CHUNK = 10


def mixture(
    x: Tensor, network: nn.Module, layer: Layer, memory: Memory, k: int, theta: float, gamma: float
) -> Tensor:
    return adaptation.mixture(_batch(x, network, layer, memory, k), memory, theta, gamma)


def mbpa(x: Tensor, network: nn.Module, layer: Layer, memory: Memory, k: int, rule: Rule) -> Tensor:
    batch = _batch(x, network, layer, memory, k)
    logits = []
    for part in _parts(batch):
        weight, bias = adaptation.mbpa_update(part, memory, layer, rule)
        moved = torch.baddbmm(bias[:, :, None], weight, part.queries[:, :, None])[:, :, 0]
        logits.append(part.base_logits + moved)
    return torch.cat(logits).log_softmax(1)


def hebb(
    x: Tensor,
    network: nn.Module,
    layer: Layer,
    memory: Memory,
    k: int,
    rule: Rule,
    interpolation: Tensor,
) -> Tensor:
    batch = _batch(x, network, layer, memory, k)
    logits = [adaptation.hebb(part, memory, layer, interpolation, rule) for part in _parts(batch)]
    return torch.cat(logits).log_softmax(1)


def _batch(x: Tensor, network: nn.Module, layer: Layer, memory: Memory, k: int) -> Batch:
    queries = network(x)
    found = knn_addmm(queries, memory.keys, memory.key_sq_norms, k)
    return Batch(queries, *found, F.linear(queries, *layer))


def _parts(batch: Batch) -> list[Batch]:
    return [Batch(*part) for part in zip(*(t.split(_CHUNK) for t in batch), strict=True)]


def output_network_loop(
    x: Tensor,
    network: nn.Sequential,
    memory: Memory,
    k: int,
    rule: Rule,
    interpolation: Tensor | None,
) -> Tensor:
    """A copy of the network for each query, and RMSprop on its neighbours' loss; the Hebbian update
    of the last layer unless `interpolation` is None (MbPA)."""
    last = len(network) - 1
    rows = []
    for query in x:
        sq_distances, near = (memory.keys - query).square().sum(1).topk(k, largest=False)
        keys, labels, closeness = (
            memory.keys[near],
            memory.labels[near],
            1 / (rule.eps + sq_distances),
        )
        own = copy.deepcopy(network).requires_grad_(True)
        optimizer = torch.optim.RMSprop(own.parameters(), lr=rule.lr)
        with torch.enable_grad():
            for _ in range(rule.steps):
                optimizer.zero_grad()
                losses = F.cross_entropy(own(keys), labels, reduction="none")
                (closeness * losses).mean().backward()
                optimizer.step()
        if interpolation is None:
            rows.append(own(query))
            continue
        weight, bias = network[last].weight, network[last].bias
        hidden = network[:last](keys)
        member = torch.bincount(labels, minlength=len(bias)).clamp(min=1)
        wired = torch.zeros_like(weight).index_add_(0, labels, closeness[:, None] * hidden)
        wired_bias = torch.zeros_like(bias).index_add_(0, labels, closeness)
        rate, rest = rule.eta * interpolation / member, 1 - interpolation
        own[last].weight = nn.Parameter(
            weight + rest[:, None] * (own[last].weight - weight) + rate[:, None] * wired
        )
        own[last].bias = nn.Parameter(bias + rest * (own[last].bias - bias) + rate * wired_bias)
        rows.append(own(query))
    return torch.stack(rows).log_softmax(1)
