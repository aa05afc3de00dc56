"""One prediction from images to log-probabilities, in the best PyTorch: exact neighbours by a matrix
product and `topk`, all queries adapted together. Norms and E are computed once, as a user would
keep them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import adaptation
from .adaptation import Batch, Layer, Memory, Rule
from .retrieval import knn_addmm

# Queries adapted together: what is of size [B, C, d] stays in the cache.
_CHUNK = 10


def parametric(x: Tensor, network: nn.Module, layer: Layer) -> Tensor:
    return F.linear(network(x), *layer).log_softmax(1)


def mixture(
    x: Tensor, network: nn.Module, layer: Layer, memory: Memory, k: int, theta: float, gamma: float
) -> Tensor:
    return adaptation.mixture(_batch(x, network, layer, memory, k), memory, theta, gamma)


def mbpa(
    x: Tensor, network: nn.Module, layer: Layer, memory: Memory, k: int, rule: Rule
) -> Tensor:
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
    logits = [
        adaptation.hebb(part, memory, layer, interpolation, rule) for part in _parts(batch)
    ]
    return torch.cat(logits).log_softmax(1)


def _batch(x: Tensor, network: nn.Module, layer: Layer, memory: Memory, k: int) -> Batch:
    queries = network(x)
    found = knn_addmm(queries, memory.keys, memory.key_sq_norms, k)
    return Batch(queries, *found, F.linear(queries, *layer))


def _parts(batch: Batch) -> list[Batch]:
    return [Batch(*part) for part in zip(*(t.split(_CHUNK) for t in batch), strict=True)]
