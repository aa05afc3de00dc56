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
from . import _adaptation_fakes as fakes
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
        _call.check_for_reference(op, fakes.hebbian_update, *arguments)
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
        weight, bias: [C, d] and [C], as in ``nn.Linear``; bias may be None. -inf in it makes NaN:
            mask a class by a large negative number.
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
        _call.check_for_reference(op, fakes.mbpa_update, *arguments)
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
        weight, bias: [C, d] and [C], as in :func:`mbpa_update`; without a bias only the weights
            adapt.
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
        _call.check_for_reference(op, fakes.hebb_logits, *arguments)
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
        _call.check_for_reference(op, fakes.interpolation_weights, counts, beta, dtype)
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
        _call.check_for_reference(op, fakes.mixture_log_probs, *arguments)
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
