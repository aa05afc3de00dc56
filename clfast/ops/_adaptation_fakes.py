"""Fake kernels of :mod:`clfast.ops.adaptation`: all checks, then outputs without values.

The reference backend checks by them too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._backend import uses_reference
from . import _check


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


def _num_classes(op: str, name: str, given: Tensor, axis: int) -> int:
    _check.dim(op, name, given, 2)
    _check.require(given.shape[axis] >= 1, f"{op}: {name} must have at least one class")
    return given.shape[axis]


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
def hebbian_update(
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
def mbpa_update(
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
    num_classes = _num_classes(op, "weight", weight, 0)
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
def hebb_logits(
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
    num_classes = _num_classes(op, "weight", weight, 0)
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
def interpolation_weights(counts: Tensor, beta: float, dtype: torch.dtype) -> Tensor:
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
def mixture_log_probs(
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
    num_classes = _num_classes(op, "logits", logits, 1)
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
