"""Retrieval: exact nearest neighbours and class means."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import reference
from .._backend import uses_reference
from .._neighbors import Neighbors
from . import _call, _check
from .rounded_keys import RoundedKeys, rounded_size

__all__ = [
    "Neighbors",
    "RoundedKeys",
    "class_means",
    "knn",
    "nearest_class_mean",
]


def knn(
    queries: Tensor,
    keys: Tensor,
    k: int,
    *,
    key_sq_norms: Tensor | None = None,
    rounded: RoundedKeys | None = None,
) -> Neighbors:
    """The k nearest keys of each query under squared Euclidean distance, exactly.

    The neighbours N of a query in the Hebb paper's Eq. 2 and Algorithm 1.

    The k smallest distances in difference form, sum_j (q_j - h_j)^2, whose relative rounding error
    is about 1e-6 in float32; ordered by the returned distance, equal ones by the smaller row,
    infinite ones behind finite ones and NaN last. The result for a query does not depend on the
    rest of the batch or on the number of threads.

    Args:
        queries: [B, d], any floating dtype. B may be 0.
        keys: [M, d]; float64 only together with float64 queries.
        k: neighbours a query, 1 <= k <= M.
        key_sq_norms: [M] squared norms of the keys, for callers that keep them. The result does not
            depend on them.
        rounded: of exactly these keys, from ``RoundedKeys.of``, for callers that search them often:
            a CPU that multiplies bfloat16 reads them in place of the keys to find candidates, whose
            distances come from the keys. The result is the same unless they are of other keys;
            other devices do not read them.

    Returns:
        ``Neighbors(sq_distances [B, k], indices [B, k])``.

    Raises:
        RuntimeError: wrong shape, dtype, device or k; an input that requires grad in grad mode.
    """
    k = _check.integer("knn", "k", k)
    rows: Tensor | None = None
    offset: Tensor | None = None
    if rounded is not None:
        wanted = "RoundedKeys(rows, offset), as RoundedKeys.of"
        rows, offset = _check.pair("knn", "rounded", rounded, wanted)
    arguments = (queries, keys, k, key_sq_norms, rows, offset)
    if uses_reference():
        _call.check_for_reference("knn", _fake_knn, *arguments)
        return reference.retrieval.knn(queries, keys, k, key_sq_norms=key_sq_norms, rounded=rounded)
    return Neighbors(*_call.compiled("knn", *arguments))


@torch.library.register_fake("clfast::knn")
def _fake_knn(
    queries: Tensor,
    keys: Tensor,
    k: int,
    key_sq_norms: Tensor | None,
    rounded_rows: Tensor | None,
    rounded_offset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    op = "knn"
    _check_rows(op, queries, keys)
    _check.require(keys.shape[0] > 0, f"{op}: keys must have at least one row")
    _check.require(
        1 <= k <= keys.shape[0],
        f"{op}: k must be in [1, {keys.shape[0]}], the number of keys, got {k}",
    )
    if key_sq_norms is not None:
        _check.shape(op, "key_sq_norms", key_sq_norms, (keys.shape[0],))
        _check.same_precision(op, "key_sq_norms", key_sq_norms, "queries", queries)
        _check.same_device(op, "key_sq_norms", key_sq_norms, "queries", queries)
    _check_rounded(op, queries, keys, rounded_rows, rounded_offset)
    return _empty_neighbors(queries, k)


def _check_rows(op: str, queries: Tensor, keys: Tensor) -> None:
    _check.dim(op, "queries", queries, 2)
    _check.floating(op, "queries", queries)
    _check.dim(op, "keys", keys, 2)
    _check.same_precision(op, "keys", keys, "queries", queries)
    _check.same_device(op, "keys", keys, "queries", queries)
    _check.require(
        queries.shape[1] == keys.shape[1],
        f"{op}: queries have {queries.shape[1]} features but keys have {keys.shape[1]}",
    )


def _empty_neighbors(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return (
        queries.new_empty(shape, dtype=_check.compute_dtype(queries)),
        queries.new_empty(shape, dtype=torch.int64),
    )


def _check_rounded(
    op: str, queries: Tensor, keys: Tensor, rows: Tensor | None, offset: Tensor | None
) -> None:
    _check.require(
        (rows is None) == (offset is None), f"{op}: rounded.rows and rounded.offset go together"
    )
    if rows is None or offset is None:
        return
    _check.require(
        queries.dtype != torch.float64,
        f"{op}: rounded is for float32 and 16-bit keys, not float64",
    )
    size, dim = keys.shape
    _check.dtype(op, "rounded.rows", rows, torch.bfloat16)
    _check.shape(op, "rounded.rows", rows, (size, rounded_size(dim)))
    _check.same_device(op, "rounded.rows", rows, "queries", queries)
    _check.dtype(op, "rounded.offset", offset, torch.float32)
    _check.shape(op, "rounded.offset", offset, (dim,))
    _check.same_device(op, "rounded.offset", offset, "queries", queries)


def rerank(queries: Tensor, keys: Tensor, candidates: Tensor, k: int) -> Neighbors:
    """The k nearest of the keys that are candidates of a query, by the distances of :func:`knn`.

    On CPUs, where indexes propose candidates.

    Args:
        queries, keys: see :func:`knn`; M may be 0.
        candidates: [B, R] int64, rows of the keys in any order; -1 is none, and a row counts once.
        k: neighbours a query, >= 1.

    Returns:
        ``Neighbors(sq_distances [B, k], indices [B, k])``, ordered as those of :func:`knn`; row -1
        at an infinite distance where there are fewer than k.

    Raises:
        RuntimeError: wrong shape, dtype, device, k or row; an input that requires grad in grad
            mode.
    """
    k = _check.integer("rerank", "k", k)
    if uses_reference():
        _call.check_for_reference("rerank", _fake_rerank, queries, keys, candidates, k)
        return reference.retrieval.rerank(queries, keys, candidates, k)
    return Neighbors(*_call.compiled("rerank", queries, keys, candidates, k))


@torch.library.register_fake("clfast::rerank")
def _fake_rerank(
    queries: Tensor, keys: Tensor, candidates: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    op = "rerank"
    _check_rows(op, queries, keys)
    _check.dim(op, "candidates", candidates, 2)
    _check.dtype(op, "candidates", candidates, torch.int64)
    _check.shape(op, "candidates", candidates, (queries.shape[0], candidates.shape[1]))
    _check.same_device(op, "candidates", candidates, "queries", queries)
    _check.require(k >= 1, f"{op}: k must be at least 1, got {k}")
    return _empty_neighbors(queries, k)


def class_means(
    features: Tensor, labels: Tensor, num_classes: int, *, normalize: bool = True
) -> Tensor:
    """The mean feature of every class.

    Args:
        features: [N, d], any floating dtype.
        labels: [N] int64 in [0, num_classes).
        num_classes: C >= 1.
        normalize: scale features to unit length before the mean, and the mean after it, as iCaRL
            does (Rebuffi et al. 2017, section 3.1). A zero feature stays zero.

    Returns:
        [C, d]; a class without samples is a row of zeros.

    Raises:
        RuntimeError: wrong shape, dtype, device; a label out of range (seen on CPU tensors; on CUDA
            such a sample is left out); NaN features, or infinite ones where they make NaN (CPU); an
            input that requires grad.
    """
    op = "class_means"
    num_classes = _check.integer(op, "num_classes", num_classes)
    normalize = _check.boolean(op, "normalize", normalize)
    if uses_reference():
        _call.check_for_reference(op, _fake_class_means, features, labels, num_classes, normalize)
        result = reference.retrieval.class_means(features, labels, num_classes, normalize=normalize)
        _check.no_nan_result(op, "features holds", result)
        return result
    means: Tensor = _call.compiled(op, features, labels, num_classes, normalize)
    return means


@torch.library.register_fake("clfast::class_means")
def _fake_class_means(
    features: Tensor, labels: Tensor, num_classes: int, normalize: bool
) -> Tensor:
    op = "class_means"
    _check.dim(op, "features", features, 2)
    _check.floating(op, "features", features)
    _check.dtype(op, "labels", labels, torch.int64)
    _check.shape(op, "labels", labels, (features.shape[0],))
    _check.same_device(op, "labels", labels, "features", features)
    _check.num_classes(op, num_classes)
    if uses_reference():
        _check.in_range(op, "labels", labels, num_classes, "the classes")
        _check.no_nan(op, features=features)
    return features.new_empty(
        (num_classes, features.shape[1]), dtype=_check.compute_dtype(features)
    )


def nearest_class_mean(
    features: Tensor, means: Tensor, *, metric: Literal["euclidean", "cosine"] = "euclidean"
) -> Tensor:
    """The class whose mean is nearest to each feature: argmin_c ||x - mu_c||, iCaRL's classifier
    (Rebuffi et al. 2017, Algorithm 1).

    Args:
        features: [N, d], any floating dtype.
        means: [C, d], as from :func:`class_means`. A row of zeros is an empty class and is never
            predicted.
        metric: ``"euclidean"`` distance, exact as in :func:`knn`, or ``"cosine"`` similarity, with
            lengths below 1e-12 taken as 1e-12, as ``torch.nn.functional.normalize`` has it; a
            feature of zeros has cosine 0 with all.

    Returns:
        [N] int64 labels in [0, C); ties go to the smaller label.

    Raises:
        RuntimeError: wrong shape, dtype, device or metric; an input that requires grad in grad
            mode. On CPU tensors also: every class is empty (on CUDA: label -1), or NaN or Inf, or
            numbers so large that distances overflow (on CUDA: the first class that is not empty).
    """
    op = "nearest_class_mean"
    if uses_reference():
        _call.check_for_reference(op, _fake_nearest_class_mean, features, means, metric)
        return reference.retrieval.nearest_class_mean(features, means, metric=metric)
    labels: Tensor = _call.compiled(op, features, means, metric)
    return labels


@torch.library.register_fake("clfast::nearest_class_mean")
def _fake_nearest_class_mean(features: Tensor, means: Tensor, metric: str) -> Tensor:
    op = "nearest_class_mean"
    _check.dim(op, "features", features, 2)
    _check.floating(op, "features", features)
    _check.dim(op, "means", means, 2)
    _check.same_precision(op, "means", means, "features", features)
    _check.same_device(op, "means", means, "features", features)
    _check.require(
        features.shape[1] == means.shape[1],
        f"{op}: features have {features.shape[1]} columns but means have {means.shape[1]}",
    )
    _check.require(
        metric in ("euclidean", "cosine"),
        f"{op}: metric must be euclidean or cosine, got {metric}",
    )
    if uses_reference():
        _check.no_nan(op, features=features, means=means)
        _check.require(
            not _check.values_known(features) or bool(features.isfinite().all()),
            f"{op}: features holds Inf",
        )
    return features.new_empty((features.shape[0],), dtype=torch.int64)
