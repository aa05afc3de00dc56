"""Adaptation of the output layer at each query: the Hebb paper, Eq. 2 and 4-8.

Mi & Faltings, "Memory-based Hebbian Parameter Adaptation". Shared arguments:

* ``keys`` [M, d] and ``labels`` [M] int64: the memory. Keys may be of any floating dtype.
* ``neighbors``: what :func:`clfast.ops.knn` found in it for B queries, K each. Rows are gathered
  inside the op.
* ``eps`` > 0 in the closeness c_k = 1 / (eps + ||h_x - h_k||^2) (Eq. 2).
* ``closeness`` [B, K] >= 0: c_k of another kernel, in place of Eq. 2.

On CPU tensors, an index outside the memory, a negative or NaN distance or closeness, a neighbour's
label outside the classes, or NaN in the result raises (but :func:`hebbian_update` passes NaN of the
keys on). On CUDA tensors, where looking would synchronise, such a neighbour is left out, and NaN
travels on.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import reference
from .._backend import uses_reference
from . import _call, _check
from .retrieval import Neighbors

__all__ = [
    "Optimizer",
    "hebb_logits",
    "hebbian_update",
    "interpolation_weights",
    "mbpa_update",
    "mixture_log_probs",
]

Optimizer = Literal["rmsprop", "rmsprop_tf", "sgd"]


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
    """The Hebbian update of the output layer for each query (Eq. 4).

    dw_i = 1/|N_i| sum_{k in N_i} c_k h_k and db_i = 1/|N_i| sum_{k in N_i} c_k, where N_i are the
    neighbours with label i. :func:`hebb_logits` applies it without forming it.

    Args:
        keys, labels, neighbors, eps, closeness: see the module.
        num_classes: C >= 1.
        select: [C] bool, the classes to update (the paper's new classes); None means all.

    Returns:
        ``(delta_weight [B, C, d], delta_bias [B, C])``, zero for classes that are not selected or
        have no neighbour.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; an input that requires grad in grad mode.
    """
    op = "hebbian_update"
    distances, indices = _check.neighbours(op, neighbors)
    num_classes = _check.integer(op, "num_classes", num_classes)
    eps = _check.number(op, "eps", eps)
    arguments = (keys, labels, distances, indices, num_classes, eps, select, closeness)
    if uses_reference():
        _call.check_for_reference(op, _fake_hebbian_update, *arguments)
        return reference.adaptation.hebbian_update(
            *(keys, labels, Neighbors(*neighbors), num_classes),
            eps=eps,
            select=select,
            closeness=closeness,
        )
    delta_weight, delta_bias = _call.compiled(op, *arguments)
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
    optimizer: Optimizer = "rmsprop",
    eps: float = 1e-3,
    closeness: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """MbPA's update of the output layer for each query (Eq. 5).

    ``steps`` optimiser steps on (1/K) sum_k c_k CE(W h_k + b, y_k) for each query on its own, from
    the given weights (Sprechmann et al. 2018).

    Args:
        weight, bias: [C, d] and [C], as in ``nn.Linear``; bias may be None.
        keys, labels, neighbors, eps, closeness: see the module.
        steps: >= 0.
        lr: step size, finite and >= 0.
        optimizer: ``"rmsprop"`` is ``torch.optim.RMSprop`` (alpha 0.99, eps 1e-8 outside the root,
            v_0 = 0: the first step is 10 lr sign(g)), ``"rmsprop_tf"`` TensorFlow 1's (decay 0.9,
            eps 1e-10 inside the root, v_0 = 1: the first step is about lr g), ``"sgd"`` plain
            gradient descent.

    Returns:
        ``(delta_weight [B, C, d], delta_bias [B, C])``, learning rate included.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; an input that requires grad in grad mode.
    """
    op = "mbpa_update"
    distances, indices = _check.neighbours(op, neighbors)
    steps = _check.integer(op, "steps", steps)
    lr, eps = _check.number(op, "lr", lr), _check.number(op, "eps", eps)
    arguments = (
        *(weight, bias, keys, labels, distances, indices, steps, lr, optimizer, eps),
        closeness,
    )
    if uses_reference():
        _call.check_for_reference(op, _fake_mbpa_update, *arguments)
        deltas = reference.adaptation.mbpa_update(
            *(weight, bias, keys, labels, Neighbors(*neighbors)),
            steps=steps,
            lr=lr,
            optimizer=optimizer,
            eps=eps,
            closeness=closeness,
        )
        _check.no_nan_result(op, "keys or another input hold", *deltas)
        return deltas
    delta_weight, delta_bias = _call.compiled(op, *arguments)
    return delta_weight, delta_bias


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
    optimizer: Optimizer = "rmsprop",
    eps: float = 1e-3,
    select: Tensor | None = None,
    key_sq_norms: Tensor | None = None,
    base_logits: Tensor | None = None,
    closeness: Tensor | None = None,
) -> Tensor:
    """Logits of the output layer adapted at each query (Eq. 7).

    The layer is W + (1 - E) dW_MbPA + E eta dW_Hebb, and likewise its bias; the update is formed
    and applied in one kernel, and nothing of size [B, C, d] is in memory. Where ``select`` is
    False, or no neighbour has the class, dW_Hebb is 0 and (1 - E) dW_MbPA stays. ``steps=0`` leaves
    the Hebbian part alone, E = 0 is MbPA alone.

    Args:
        queries: [B, d].
        weight, bias: [C, d] and [C], as in ``nn.Linear``; without a bias only the weights adapt.
        keys, labels, neighbors, eps, closeness: see the module. With ``key_sq_norms``,
            ``neighbors.sq_distances`` must be the true distances.
        interpolation: [C], E, as from :func:`interpolation_weights`; any floating dtype.
        eta: learning rate of the Hebbian update.
        steps, lr, optimizer: of the MbPA update, see :func:`mbpa_update`.
        select: [C] bool, the classes with a Hebbian update (the paper's new classes); None: all.
        key_sq_norms: [M] squared norms of the keys; with them the Hebbian part needs no key at all,
            and h_k.h in it has an absolute error of about 1e-7 (|h_k|^2 + |h|^2).
        base_logits: [B, C], queries W^T + b, if you have them already.

    Returns:
        [B, C].

    Raises:
        RuntimeError: wrong shape, dtype, device or value; an input that requires grad in grad mode.
    """
    op = "hebb_logits"
    distances, indices = _check.neighbours(op, neighbors)
    steps = _check.integer(op, "steps", steps)
    eta, lr = _check.number(op, "eta", eta), _check.number(op, "lr", lr)
    eps = _check.number(op, "eps", eps)
    arguments = (
        *(queries, weight, bias, keys, labels, distances, indices, interpolation, eta),
        *(steps, lr, optimizer, eps, select, key_sq_norms, base_logits, closeness),
    )
    if uses_reference():
        _call.check_for_reference(op, _fake_hebb_logits, *arguments)
        result = reference.adaptation.hebb_logits(
            *(queries, weight, bias, keys, labels, Neighbors(*neighbors)),
            interpolation=interpolation,
            eta=eta,
            steps=steps,
            lr=lr,
            optimizer=optimizer,
            eps=eps,
            select=select,
            key_sq_norms=key_sq_norms,
            base_logits=base_logits,
            closeness=closeness,
        )
        _check.no_nan_result(op, "keys or another input hold", result)
        return result
    logits: Tensor = _call.compiled(op, *arguments)
    return logits


def interpolation_weights(
    counts: Tensor, beta: float, *, dtype: torch.dtype | None = None
) -> Tensor:
    """The weight of the Hebbian update of every class (Eq. 7): E = (1 - beta) / (1 - beta^n).

    Args:
        counts: [C] int64 >= 0, how often each class has been seen.
        beta: in [0, 1). E falls from 1 at n = 1 to 1 - beta for a frequent class (not to 0).
        dtype: float32 or float64; None: ``torch.get_default_dtype()``.

    Returns:
        [C]. E = 1 at n = 0, where the paper's formula is undefined.

    Raises:
        RuntimeError: wrong shape, dtype or value. Negative counts are seen on CPU tensors; on CUDA
            they count as 0.
    """
    op = "interpolation_weights"
    beta = _check.number(op, "beta", beta)
    if dtype is None:
        dtype = torch.get_default_dtype()
    _check.dtypes(op, dtype=dtype)
    if uses_reference():
        _call.check_for_reference(op, _fake_interpolation_weights, counts, beta, dtype)
        return reference.adaptation.interpolation_weights(counts, beta, dtype=dtype)
    weights: Tensor = _call.compiled(op, counts, beta, dtype)
    return weights


def mixture_log_probs(
    logits: Tensor,
    queries: Tensor,
    keys: Tensor,
    labels: Tensor,
    neighbors: Neighbors,
    *,
    theta: float,
    gamma: float,
    form: Literal["normalized", "joint"] = "normalized",
    key_sq_norms: Tensor | None = None,
) -> Tensor:
    """Log-probabilities of the classifier mixed with the neighbours' labels (Eq. 8).

    ``"normalized"``: log[(1 - gamma) softmax(logits)_y + gamma sum_k softmax_k(theta h_k.h) 1(y_k =
    y)], as implementations of neural caches have it (Grave et al. 2017). ``"joint"``: the paper's
    unnormalised P ~ (1 - gamma) e^{logits_y} + gamma sum_k 1(y_k = y) e^{theta h_k.h}. Both are
    formed in log space and are finite for every finite theta h_k.h.

    Args:
        logits: [B, C] of the classifier.
        queries: [B, d].
        keys, labels, neighbors: see the module.
        theta: flatness of the neighbours' distribution, finite.
        gamma: weight of the neighbours' part, in [0, 1].
        key_sq_norms: [M] squared norms of the keys; with them no key is read, and h_k.h has an
            absolute error of about 1e-7 (|h_k|^2 + |h|^2).

    Returns:
        [B, C]; rows sum to 1 after ``exp``. -inf where a class has no mass at all.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; an input that requires grad in grad mode.
    """
    op = "mixture_log_probs"
    distances, indices = _check.neighbours(op, neighbors)
    theta, gamma = _check.number(op, "theta", theta), _check.number(op, "gamma", gamma)
    arguments = (
        *(logits, queries, keys, labels, distances, indices, theta, gamma, form),
        key_sq_norms,
    )
    if uses_reference():
        _call.check_for_reference(op, _fake_mixture_log_probs, *arguments)
        result = reference.adaptation.mixture_log_probs(
            *(logits, queries, keys, labels, Neighbors(*neighbors)),
            theta=theta,
            gamma=gamma,
            form=form,
            key_sq_norms=key_sq_norms,
        )
        _check.no_nan_result(op, "keys or another input hold", result)
        return result
    log_probs: Tensor = _call.compiled(op, *arguments)
    return log_probs


# --- fake kernels: all checks, then outputs without values; the reference backend checks by them --


def _check_neighbours(
    op: str,
    keys: Tensor,
    labels: Tensor,
    distances: Tensor,
    indices: Tensor,
    closeness: Tensor | None,
    num_classes: int,
) -> tuple[int, int]:
    """Checks the shared arguments; returns (B, d)."""
    _check.dim(op, "keys", keys, 2)
    _check.floating(op, "keys", keys)
    _check.dtype(op, "labels", labels, torch.int64)
    _check.shape(op, "labels", labels, (keys.shape[0],))
    _check.same_device(op, "labels", labels, "keys", keys)
    name = "neighbors.sq_distances"
    _check.dim(op, name, distances, 2)
    _check.same_precision(op, name, distances, "keys", keys)
    _check.same_device(op, name, distances, "keys", keys)
    _check.require(
        distances.shape[1] >= 1, f"{op}: neighbors must hold at least one neighbour a query"
    )
    _check.dtype(op, "neighbors.indices", indices, torch.int64)
    _check.shape(op, "neighbors.indices", indices, (distances.shape[0], distances.shape[1]))
    _check.same_device(op, "neighbors.indices", indices, "keys", keys)
    _check_floats(op, "closeness", closeness, (distances.shape[0], distances.shape[1]), keys)
    if uses_reference():
        _check.in_range(op, "neighbors.indices", indices, keys.shape[0], "the rows of keys")
        _check.not_negative(op, name, distances, "negative or NaN; squared distances must be >= 0")
        if _check.values_known(labels):
            _check.in_range(op, "labels", labels[indices.unique()], num_classes, "the classes")
        if closeness is not None:
            problem = "negative, infinite or NaN; closenesses must be finite and >= 0"
            finite = closeness.masked_fill(closeness.isinf(), -1)
            _check.not_negative(op, "closeness", finite, problem)
    return distances.shape[0], keys.shape[1]


def _check_floats(
    op: str, name: str, tensor: Tensor | None, shape: tuple[int, ...], keys: Tensor
) -> None:
    if tensor is None:
        return
    _check.shape(op, name, tensor, shape)
    _check.same_precision(op, name, tensor, "keys", keys)
    _check.same_device(op, name, tensor, "keys", keys)


def _check_select(op: str, select: Tensor | None, num_classes: int, keys: Tensor) -> None:
    if select is None:
        return
    _check.dtype(op, "select", select, torch.bool)
    _check.shape(op, "select", select, (num_classes,))
    _check.same_device(op, "select", select, "keys", keys)


def _check_eps(op: str, eps: float, keys: Tensor) -> None:
    positive = _check.held(eps, keys.dtype) > 0
    _check.finite(op, "eps", eps, positive, "positive and finite", keys.dtype)


def _check_steps(op: str, steps: int, lr: float, optimizer: str, eps: float, keys: Tensor) -> None:
    _check.require(steps >= 0, f"{op}: steps must be >= 0, got {steps}")
    _check.finite(op, "lr", lr, lr >= 0, "finite and >= 0", keys.dtype)
    _check.require(
        optimizer in ("rmsprop", "rmsprop_tf", "sgd"),
        f"{op}: optimizer must be rmsprop, rmsprop_tf or sgd, got {optimizer}",
    )
    _check_eps(op, eps, keys)


@torch.library.register_fake("clfast::hebbian_update")
def _fake_hebbian_update(
    keys: Tensor,
    labels: Tensor,
    distances: Tensor,
    indices: Tensor,
    num_classes: int,
    eps: float,
    select: Tensor | None,
    closeness: Tensor | None,
) -> tuple[Tensor, Tensor]:
    op = "hebbian_update"
    _check.num_classes(op, num_classes)
    batch, dim = _check_neighbours(op, keys, labels, distances, indices, closeness, num_classes)
    _check_eps(op, eps, keys)
    _check_select(op, select, num_classes, keys)
    dtype = _check.compute_dtype(keys)
    return (
        keys.new_empty((batch, num_classes, dim), dtype=dtype),
        keys.new_empty((batch, num_classes), dtype=dtype),
    )


@torch.library.register_fake("clfast::mbpa_update")
def _fake_mbpa_update(
    weight: Tensor,
    bias: Tensor | None,
    keys: Tensor,
    labels: Tensor,
    distances: Tensor,
    indices: Tensor,
    steps: int,
    lr: float,
    optimizer: str,
    eps: float,
    closeness: Tensor | None,
) -> tuple[Tensor, Tensor]:
    op = "mbpa_update"
    _check.dim(op, "weight", weight, 2)
    num_classes = weight.shape[0]
    batch, dim = _check_neighbours(op, keys, labels, distances, indices, closeness, num_classes)
    _check_floats(op, "weight", weight, (num_classes, dim), keys)
    _check_floats(op, "bias", bias, (num_classes,), keys)
    _check_steps(op, steps, lr, optimizer, eps, keys)
    if uses_reference():
        _check.no_nan(op, weight=weight, bias=bias)
    dtype = _check.compute_dtype(keys)
    return (
        keys.new_empty((batch, num_classes, dim), dtype=dtype),
        keys.new_empty((batch, num_classes), dtype=dtype),
    )


@torch.library.register_fake("clfast::hebb_logits")
def _fake_hebb_logits(
    queries: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    keys: Tensor,
    labels: Tensor,
    distances: Tensor,
    indices: Tensor,
    interpolation: Tensor,
    eta: float,
    steps: int,
    lr: float,
    optimizer: str,
    eps: float,
    select: Tensor | None,
    key_sq_norms: Tensor | None,
    base_logits: Tensor | None,
    closeness: Tensor | None,
) -> Tensor:
    op = "hebb_logits"
    _check.dim(op, "weight", weight, 2)
    num_classes = weight.shape[0]
    batch, dim = _check_neighbours(op, keys, labels, distances, indices, closeness, num_classes)
    _check_floats(op, "queries", queries, (batch, dim), keys)
    _check_floats(op, "weight", weight, (num_classes, dim), keys)
    _check_floats(op, "bias", bias, (num_classes,), keys)
    _check.floating(op, "interpolation", interpolation)
    _check.shape(op, "interpolation", interpolation, (num_classes,))
    _check.same_device(op, "interpolation", interpolation, "keys", keys)
    _check.finite(op, "eta", eta, True, "finite", keys.dtype)
    _check_steps(op, steps, lr, optimizer, eps, keys)
    _check_select(op, select, num_classes, keys)
    _check_floats(op, "key_sq_norms", key_sq_norms, (keys.shape[0],), keys)
    _check_floats(op, "base_logits", base_logits, (batch, num_classes), keys)
    if uses_reference():
        _check.no_nan(op, queries=queries, weight=weight, interpolation=interpolation)
        _check.no_nan(op, bias=bias, base_logits=base_logits)
    return keys.new_empty((batch, num_classes), dtype=_check.compute_dtype(keys))


@torch.library.register_fake("clfast::interpolation_weights")
def _fake_interpolation_weights(counts: Tensor, beta: float, dtype: torch.dtype) -> Tensor:
    op = "interpolation_weights"
    _check.dim(op, "counts", counts, 1)
    _check.dtype(op, "counts", counts, torch.int64)
    _check.finite(op, "beta", beta, 0 <= beta < 1, "in [0, 1)")
    _check.require(
        dtype in (torch.float32, torch.float64),
        f"{op}: dtype must be float32 or float64, got {dtype}",
    )
    if uses_reference():
        _check.not_negative(op, "counts", counts, "negative; counts must be >= 0")
    return counts.new_empty((counts.shape[0],), dtype=dtype)


@torch.library.register_fake("clfast::mixture_log_probs")
def _fake_mixture_log_probs(
    logits: Tensor,
    queries: Tensor,
    keys: Tensor,
    labels: Tensor,
    distances: Tensor,
    indices: Tensor,
    theta: float,
    gamma: float,
    form: str,
    key_sq_norms: Tensor | None,
) -> Tensor:
    op = "mixture_log_probs"
    _check.dim(op, "logits", logits, 2)
    num_classes = logits.shape[1]
    batch, dim = _check_neighbours(op, keys, labels, distances, indices, None, num_classes)
    _check.finite(op, "theta", theta, True, "finite", keys.dtype)
    _check.finite(op, "gamma", gamma, 0 <= gamma <= 1, "in [0, 1]")
    _check.require(
        form in ("normalized", "joint"), f"{op}: form must be normalized or joint, got {form}"
    )
    _check_floats(op, "logits", logits, (batch, num_classes), keys)
    _check_floats(op, "queries", queries, (batch, dim), keys)
    _check_floats(op, "key_sq_norms", key_sq_norms, (keys.shape[0],), keys)
    if uses_reference():
        _check.no_nan(op, logits=logits, queries=queries)
    return keys.new_empty((batch, num_classes), dtype=_check.compute_dtype(keys))
