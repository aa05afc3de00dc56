"""Vectorised PyTorch for clfast's adaptation ops: closed-form gradients, no autograd, no loop over
queries. Each function is written to be as fast as plain PyTorch allows; `adaptation_loops` has what
people write first.

Squared norms of the keys and the distances come in as arguments, as they do for clfast, so
h_k . h = (|h_k|^2 + |h|^2 - distance) / 2 needs no key.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Batch(NamedTuple):
    queries: Tensor  # [B, d]
    sq_distances: Tensor  # [B, K]
    indices: Tensor  # [B, K]
    base_logits: Tensor  # [B, C], of the layer before adaptation


class Memory(NamedTuple):
    keys: Tensor  # [M, d]
    labels: Tensor  # [M]
    key_sq_norms: Tensor  # [M]


class Layer(NamedTuple):
    weight: Tensor  # [C, d]
    bias: Tensor  # [C]


class Rule(NamedTuple):
    """How to adapt; see `clfast.ops.hebb_logits`."""

    steps: int
    optimizer: Literal["rmsprop", "sgd"]
    lr: float
    eta: float = 0.5
    eps: float = 1e-3


# --- hebb_logits: [B, C] --------------------------------------------------------------------------


def hebbian(
    batch: Batch, memory: Memory, layer: Layer, interpolation: Tensor, rule: Rule
) -> Tensor:
    """Base logits and the Hebbian part, without a single key."""
    return batch.base_logits + _hebbian_logits(batch, memory, layer, interpolation, rule)


def hebbian_with_base(
    batch: Batch, memory: Memory, layer: Layer, interpolation: Tensor, rule: Rule
) -> Tensor:
    """The same, where the base logits have yet to be computed."""
    base = F.linear(batch.queries, layer.weight, layer.bias)
    return base + _hebbian_logits(batch, memory, layer, interpolation, rule)


def hebbian_by_gather(
    batch: Batch, memory: Memory, layer: Layer, interpolation: Tensor, rule: Rule
) -> Tensor:
    """Base logits and the Hebbian part, with the update formed as Eq. 4 reads."""
    delta_weight, delta_bias = hebbian_update(batch, memory, len(layer.bias), rule)
    update = torch.bmm(delta_weight, batch.queries[:, :, None])[:, :, 0] + delta_bias
    return batch.base_logits + interpolation * rule.eta * update


def hebb(batch: Batch, memory: Memory, layer: Layer, interpolation: Tensor, rule: Rule) -> Tensor:
    """Eq. 7 with MbPA on every query's own copy of the weights, [B, C, d]."""
    weight, bias = _adapted(batch, memory, layer, rule)
    adapted = torch.baddbmm(bias[:, :, None], weight, batch.queries[:, :, None])[:, :, 0]
    base = F.linear(batch.queries, layer.weight, layer.bias)
    hebbian_part = _hebbian_logits(batch, memory, layer, interpolation, rule)
    return torch.lerp(adapted, base, interpolation) + hebbian_part


def hebb_gram(
    batch: Batch, memory: Memory, layer: Layer, interpolation: Tensor, rule: Rule
) -> Tensor:
    """Eq. 7 for SGD, where the update stays in the span of the neighbours: coefficients [B, K, C].

    Cheaper than the weights when K < d.
    """
    coefficients = _gram_coefficients(batch, memory, layer, rule)
    dots = _query_dots(batch, memory) + 1  # a bias is a feature that is always 1
    mbpa = torch.bmm(dots[:, None], coefficients)[:, 0]
    base = F.linear(batch.queries, layer.weight, layer.bias)
    hebbian_part = _hebbian_logits(batch, memory, layer, interpolation, rule)
    return base + (1 - interpolation) * mbpa + hebbian_part


# --- the updates themselves: (delta_weight [B, C, d], delta_bias [B, C]) --------------------------


def hebbian_update(
    batch: Batch, memory: Memory, num_classes: int, rule: Rule
) -> tuple[Tensor, Tensor]:
    """One product with the [K, C] membership of each query's neighbours."""
    labels, share = _labels_and_shares(batch, memory, num_classes, rule)
    member = share.new_zeros(*share.shape, num_classes)
    member = member.scatter(2, labels[:, :, None], share[:, :, None])
    return torch.bmm(member.transpose(1, 2), _rows(memory.keys, batch)), member.sum(1)


def hebbian_update_index_add(
    batch: Batch, memory: Memory, num_classes: int, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Every neighbour's key added to the row of its query and class."""
    labels, share = _labels_and_shares(batch, memory, num_classes, rule)
    queries, width = len(labels), memory.keys.shape[1]
    first = torch.arange(queries, device=labels.device)[:, None] * num_classes
    row = (first + labels).flatten()
    weighted = (share[:, :, None] * _rows(memory.keys, batch)).flatten(0, 1)
    delta_weight = weighted.new_zeros(queries * num_classes, width).index_add_(0, row, weighted)
    delta_bias = share.new_zeros(queries * num_classes).index_add_(0, row, share.flatten())
    return (
        delta_weight.view(queries, num_classes, width),
        delta_bias.view(queries, num_classes),
    )


def mbpa_update(batch: Batch, memory: Memory, layer: Layer, rule: Rule) -> tuple[Tensor, Tensor]:
    weight, bias = _adapted(batch, memory, layer, rule)
    return weight.sub_(layer.weight), bias.sub_(layer.bias)


def mbpa_update_gram(
    batch: Batch, memory: Memory, layer: Layer, rule: Rule
) -> tuple[Tensor, Tensor]:
    coefficients = _gram_coefficients(batch, memory, layer, rule)
    features = _rows(memory.keys, batch)
    return torch.bmm(coefficients.transpose(1, 2), features), coefficients.sum(1)


# --- mixture_log_probs [B, C] and interpolation_weights [C] ---------------------------------------


def mixture(batch: Batch, memory: Memory, theta: float, gamma: float) -> Tensor:
    """Without a key; in probability space, which float32 allows for moderate logits."""
    return _mixed(batch, memory, _query_dots(batch, memory), theta, gamma)


def mixture_by_gather(batch: Batch, memory: Memory, theta: float, gamma: float) -> Tensor:
    dots = torch.bmm(_rows(memory.keys, batch), batch.queries[:, :, None])[:, :, 0]
    return _mixed(batch, memory, dots, theta, gamma)


def interpolation_weights(counts: Tensor, beta: float) -> Tensor:
    """1 where counts is 0; in float64, since 1 - beta^n cancels."""
    return ((1 - beta) / (1 - beta ** counts.clamp_min(1).double())).float()


# --- shared parts ---------------------------------------------------------------------------------


def _rows(table: Tensor, batch: Batch) -> Tensor:
    """table[batch.indices], in the form that is fastest on CPUs."""
    found = table.index_select(0, batch.indices.flatten())
    return found.view(*batch.indices.shape, *table.shape[1:])


def _query_dots(batch: Batch, memory: Memory) -> Tensor:
    """h_k . h, [B, K]."""
    query_sq_norms = batch.queries.square().sum(1, keepdim=True)
    return 0.5 * (_rows(memory.key_sq_norms, batch) + query_sq_norms - batch.sq_distances)


def _hebbian_logits(
    batch: Batch, memory: Memory, layer: Layer, interpolation: Tensor, rule: Rule
) -> Tensor:
    labels = _rows(memory.labels, batch)
    closeness = 1 / (batch.sq_distances + rule.eps)
    zeros = closeness.new_zeros(len(labels), len(layer.bias))
    sums = zeros.scatter_add(1, labels, closeness * (_query_dots(batch, memory) + 1))
    counts = zeros.scatter_add(1, labels, torch.ones_like(closeness))
    return sums.div_(counts.clamp_min_(1)).mul_(interpolation * rule.eta)


def _labels_and_shares(
    batch: Batch, memory: Memory, num_classes: int, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Labels of the neighbours, and c_k over the number of neighbours of that class, [B, K]."""
    labels = _rows(memory.labels, batch)
    closeness = 1 / (batch.sq_distances + rule.eps)
    counts = closeness.new_zeros(len(labels), num_classes)
    counts = counts.scatter_add(1, labels, torch.ones_like(closeness))
    return labels, closeness / counts.gather(1, labels)


def _adapted(batch: Batch, memory: Memory, layer: Layer, rule: Rule) -> tuple[Tensor, Tensor]:
    """Each query's layer after `rule.steps` steps of MbPA: [B, C, d] and [B, C]."""
    features = _rows(memory.keys, batch)
    labels = _rows(memory.labels, batch)[:, :, None]
    closeness = (1 / (batch.sq_distances + rule.eps) / labels.shape[1])[:, :, None]
    weight = layer.weight.repeat(len(features), 1, 1)
    bias = layer.bias.repeat(len(features), 1)
    averages = torch.zeros_like(weight), torch.zeros_like(bias)
    for _ in range(rule.steps):
        logits = torch.baddbmm(bias[:, None], features, weight.transpose(1, 2))
        residual = _residual(logits, labels, closeness)
        gradient = torch.bmm(residual.transpose(1, 2), features)
        _step(rule, weight, gradient, averages[0])
        _step(rule, bias, residual.sum(1), averages[1])
    return weight, bias


def _residual(logits: Tensor, labels: Tensor, closeness: Tensor) -> Tensor:
    """c_k / K (softmax - one-hot), [B, K, C]."""
    probabilities = logits.softmax(2)
    probabilities.scatter_add_(2, labels, torch.full_like(closeness, -1))
    return probabilities.mul_(closeness)


def _step(rule: Rule, value: Tensor, gradient: Tensor, average: Tensor) -> None:
    if rule.optimizer == "sgd":
        value.add_(gradient, alpha=-rule.lr)
    else:
        average.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        value.addcdiv_(gradient, average.sqrt().add_(1e-8), value=-rule.lr)


def _gram_coefficients(batch: Batch, memory: Memory, layer: Layer, rule: Rule) -> Tensor:
    """A [B, K, C], with A^T H the weights' update after `rule.steps` steps of SGD."""
    features = _rows(memory.keys, batch)
    labels = _rows(memory.labels, batch)[:, :, None]
    closeness = (1 / (batch.sq_distances + rule.eps) / labels.shape[1])[:, :, None]
    first = F.linear(features, layer.weight, layer.bias)
    coefficients = _residual(first, labels, closeness).mul_(-rule.lr)
    gram = torch.bmm(features, features.transpose(1, 2)).add_(1)
    for _ in range(rule.steps - 1):
        logits = torch.baddbmm(first, gram, coefficients)
        coefficients.sub_(_residual(logits, labels, closeness), alpha=rule.lr)
    return coefficients


def _mixed(batch: Batch, memory: Memory, dots: Tensor, theta: float, gamma: float) -> Tensor:
    neighbours = dots.mul(theta).softmax(1).mul_(gamma)
    mixed = batch.base_logits.softmax(1).mul_(1 - gamma)
    return mixed.scatter_add_(1, _rows(memory.labels, batch), neighbours).log_()
