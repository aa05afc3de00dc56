"""Adaptation in plain PyTorch; see :mod:`clfast.ops.adaptation` for the contracts.

Equation numbers are those of the Hebb paper (Mi & Faltings, "Memory-based Hebbian Parameter
Adaptation").
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .._neighbors import Neighbors
from .retrieval import _widened


def _closeness(neighbors: Neighbors, eps: float, given: Tensor | None) -> Tensor:
    """Eq. 2: c_k = 1 / (eps + ||h_x - h_k||^2), [B, K], unless it is given."""
    if given is not None:
        return _widened(given)
    return 1 / (eps + _widened(neighbors.sq_distances))


def _one_hot(labels: Tensor, neighbors: Neighbors, num_classes: int, dtype: torch.dtype) -> Tensor:
    """[B, K, C], 1 where neighbour k has class i."""
    return F.one_hot(labels[neighbors.indices], num_classes).to(dtype)


def hebbian_update(
    keys: Tensor,
    labels: Tensor,
    neighbors: Neighbors,
    num_classes: int,
    *,
    eps: float = 1e-3,
    select: Tensor | None = None,
    closeness: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Eq. 4: dw_i = 1/|N_i| sum_{k in N_i} c_k h_k, db_i = 1/|N_i| sum_{k in N_i} c_k."""
    c = _closeness(neighbors, eps, closeness)
    labels_near = labels[neighbors.indices]  # [B, K]
    count = _one_hot(labels, neighbors, num_classes, c.dtype).sum(1)  # [B, C], |N_i|
    share = c / count.gather(1, labels_near)
    terms = share[:, :, None] * _widened(keys[neighbors.indices])  # [B, K, d]
    # Not as a product with the one-hot matrix: there 0 times NaN or Inf reaches every class.
    at = labels_near[:, :, None].expand_as(terms)
    delta_weight = terms.new_zeros(*count.shape, keys.shape[1]).scatter_add_(1, at, terms)
    delta_bias = torch.zeros_like(count).scatter_add_(1, labels_near, share)
    if select is not None:
        delta_weight = delta_weight.masked_fill(~select[:, None], 0)
        delta_bias = delta_bias.masked_fill(~select, 0)
    return delta_weight, delta_bias


def mbpa_update(
    weight: Tensor,
    bias: Tensor | None,
    keys: Tensor,
    labels: Tensor,
    neighbors: Neighbors,
    *,
    steps: int,
    lr: float,
    optimizer: str = "rmsprop",
    eps: float = 1e-3,
    closeness: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Eq. 5 by gradient descent; the gradient by w_i is 1/K sum_k c_k (P(i|h_k) - [y_k = i]) h_k.

    (Eq. 6 prints P(y_k|h_k) for P(i|h_k).)
    """
    c = _closeness(neighbors, eps, closeness)
    features = _widened(keys[neighbors.indices])  # [B, K, d]
    target = _one_hot(labels, neighbors, weight.shape[0], c.dtype)
    start = _widened(weight)
    w = start.expand(len(features), -1, -1).clone()  # [B, C, d]
    b = start.new_zeros(len(features), len(start))
    if bias is not None:
        b = b + _widened(bias)
    v_w, v_b = torch.zeros_like(w), torch.zeros_like(b)
    if optimizer == "rmsprop_tf":
        v_w, v_b = torch.ones_like(w), torch.ones_like(b)
    b_start = b
    for _ in range(steps):
        probs = (features @ w.transpose(1, 2) + b[:, None]).softmax(-1)
        residual = c[:, :, None] * (probs - target) / features.shape[1]
        grad_w, grad_b = residual.transpose(1, 2) @ features, residual.sum(1)
        w, v_w = _optimizer_step(optimizer, w, v_w, grad_w, lr)
        if bias is not None:
            b, v_b = _optimizer_step(optimizer, b, v_b, grad_b, lr)
    return w - start, b - b_start


def _optimizer_step(
    optimizer: str, weight: Tensor, square_average: Tensor, grad: Tensor, lr: float
) -> tuple[Tensor, Tensor]:
    if optimizer == "rmsprop":  # torch.optim.RMSprop
        square_average = 0.99 * square_average + 0.01 * grad.square()
        return weight - lr * grad / (square_average.sqrt() + 1e-8), square_average
    if optimizer == "rmsprop_tf":  # tf.train.RMSPropOptimizer of TensorFlow 1
        square_average = 0.9 * square_average + 0.1 * grad.square()
        return weight - lr * grad / (square_average + 1e-10).sqrt(), square_average
    return weight - lr * grad, square_average


def hebb_logits(
    queries: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    keys: Tensor,
    labels: Tensor,
    neighbors: Neighbors,
    *,
    interpolation: Tensor,
    eta: float,
    steps: int,
    lr: float,
    optimizer: str = "rmsprop",
    eps: float = 1e-3,
    select: Tensor | None = None,
    key_sq_norms: Tensor | None = None,
    base_logits: Tensor | None = None,
    closeness: Tensor | None = None,
) -> Tensor:
    """Eq. 7, with every query's update of the layer written out: [B, C, d]."""
    num_classes = weight.shape[0]
    queries = _widened(queries)
    interpolation = interpolation.to(queries.dtype)
    mbpa_w, mbpa_b = mbpa_update(
        *(weight, bias, keys, labels, neighbors),
        steps=steps,
        lr=lr,
        optimizer=optimizer,
        eps=eps,
        closeness=closeness,
    )
    hebb_w, hebb_b = hebbian_update(
        keys, labels, neighbors, num_classes, eps=eps, select=select, closeness=closeness
    )
    if bias is None:
        hebb_b = torch.zeros_like(hebb_b)
    if base_logits is None:
        base_logits = F.linear(queries, _widened(weight), None if bias is None else _widened(bias))
    rest = 1 - interpolation
    delta_w = rest[:, None] * mbpa_w + (interpolation * eta)[:, None] * hebb_w
    delta_b = rest * mbpa_b + interpolation * eta * hebb_b
    return _widened(base_logits) + (delta_w @ queries[:, :, None])[:, :, 0] + delta_b


def interpolation_weights(
    counts: Tensor, beta: float, *, dtype: torch.dtype | None = None
) -> Tensor:
    """Eq. 7: E_i = (1 - beta) / (1 - beta^n_i), 1 at n_i = 0."""
    n = counts.clamp_min(1).double()
    return ((1 - beta) / (1 - beta**n)).to(dtype or torch.get_default_dtype())


def mixture_log_probs(
    logits: Tensor,
    queries: Tensor,
    keys: Tensor,
    labels: Tensor,
    neighbors: Neighbors,
    *,
    theta: float,
    gamma: float,
    form: str = "normalized",
    key_sq_norms: Tensor | None = None,
) -> Tensor:
    """Eq. 8, in log space."""
    logits, queries = _widened(logits), _widened(queries)
    features = _widened(keys[neighbors.indices])  # [B, K, d]
    score = theta * (features @ queries[:, :, None])[:, :, 0]  # [B, K]
    if form == "normalized":
        score, logits = score.log_softmax(1), logits.log_softmax(1)
    member = F.one_hot(labels[neighbors.indices], logits.shape[1]).bool()
    per_class = score[:, :, None].masked_fill(~member, -math.inf).logsumexp(1)
    log_gamma = math.log(gamma) if gamma > 0 else -math.inf
    log_rest = math.log1p(-gamma) if gamma < 1 else -math.inf
    mixed = torch.logaddexp(log_rest + logits, log_gamma + per_class)
    return mixed.log_softmax(1) if form == "joint" else mixed
