"""Retrieval in plain PyTorch; see :mod:`clfast.ops.retrieval` for the contracts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .._neighbors import Neighbors

if TYPE_CHECKING:
    from ..ops.rounded_keys import RoundedKeys


def _widened(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def knn(
    queries: Tensor,
    keys: Tensor,
    k: int,
    *,
    key_sq_norms: Tensor | None = None,
    rounded: RoundedKeys | None = None,
) -> Neighbors:
    """Sorts all distances in difference form; norms and rounded keys are not needed for that."""
    queries, keys = _widened(queries), _widened(keys)
    distances = [queries.new_empty(0, k)]
    indices = [torch.empty(0, k, dtype=torch.int64, device=queries.device)]
    for query in queries:
        # A stable sort keeps the smaller row first among equals, and puts NaN last.
        found, rows = (keys - query).square().sum(1).sort(stable=True)
        distances.append(found[None, :k])
        indices.append(rows[None, :k])
    return Neighbors(torch.cat(distances), torch.cat(indices))


def rerank(queries: Tensor, keys: Tensor, candidates: Tensor, k: int) -> Neighbors:
    """`knn` in the candidates of each query."""
    queries = _widened(queries)
    distances = queries.new_full((len(queries), k), torch.inf)
    indices = torch.full_like(distances, -1, dtype=torch.int64)
    for query, rows, near, at in zip(queries, candidates, distances, indices, strict=True):
        known = rows[rows >= 0].unique()
        found = knn(query[None], keys[known], k)
        count = found.indices.shape[1]
        near[:count] = found.sq_distances[0]
        at[:count] = known[found.indices[0]]
    return Neighbors(distances, indices)


def class_means(
    features: Tensor, labels: Tensor, num_classes: int, *, normalize: bool = True
) -> Tensor:
    """Sums by ``index_add_``; iCaRL's means with `normalize` (Rebuffi et al. 2017, section 3.1)."""
    features = _widened(features)
    if normalize:
        features = F.normalize(features, dim=1)
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=num_classes).clamp_min(1)
    means = sums / counts[:, None]
    return F.normalize(means, dim=1) if normalize else means


def nearest_class_mean(features: Tensor, means: Tensor, *, metric: str = "euclidean") -> Tensor:
    """The nearest neighbour among the rows that are not zero; Rebuffi et al. 2017, Algorithm 1."""
    features, means = _widened(features), _widened(means)
    present = (means != 0).any(1)
    if len(features) and not bool(present.any()):
        raise RuntimeError(
            "clfast::nearest_class_mean: every row of means is zero (an empty class)"
        )
    if metric == "cosine":
        features, means = F.normalize(features, dim=1), F.normalize(means, dim=1)
    classes = present.nonzero()[:, 0]
    if not len(features):
        return classes[:0]
    nearest = knn(features, means[classes], 1).indices[:, 0]
    if metric == "cosine":  # without a direction all cosines are 0
        nearest = nearest.masked_fill((features == 0).all(1), 0)
    return classes[nearest]
