"""What people use instead of clfast's retrieval ops.

Squared norms of the keys come in as an argument: a memory can keep them, and clfast gets them, too.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# --- knn: (sq_distances [B, k], indices [B, k]), ascending ----------------------------------------


def knn_loop(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """One query after another, distances in difference form.

    Results that stay between large temporaries would fragment the heap, here by gigabytes; so the
    loops write into one tensor.
    """
    distances = queries.new_empty(len(queries), k)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    for b, query in enumerate(queries):
        distances[b], indices[b] = ((keys - query) ** 2).sum(1).topk(k, largest=False)
    return distances, indices


def knn_cdist(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    distances, indices = torch.cdist(queries, keys).topk(k, largest=False)
    return distances.square(), indices


def knn_addmm(queries: Tensor, keys: Tensor, key_sq_norms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """|q|^2 + |h|^2 - 2 q.h; the row's constant |q|^2 is added to the k winners only."""
    partial = torch.addmm(key_sq_norms, queries, keys.t(), alpha=-2)
    found, indices = partial.topk(k, largest=False)
    return (found + queries.square().sum(1, keepdim=True)).clamp_min(0), indices


def knn_rounded(
    queries: Tensor, keys: Tensor, rounded: Tensor, key_sq_norms: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Candidates from a copy of the keys in bfloat16, four times as many as wanted, re-ranked by
    their distances; what bfloat16 misses, it misses."""
    partial = key_sq_norms - 2 * (queries.bfloat16() @ rounded.t()).float()
    candidates = partial.topk(min(4 * k, len(keys)), largest=False).indices
    near = keys.index_select(0, candidates.flatten()).unflatten(0, candidates.shape)
    found, places = (near - queries[:, None]).square_().sum(2).topk(k, largest=False)
    return found, candidates.gather(1, places)


def knn_addmm_key_blocks(
    queries: Tensor, keys: Tensor, key_sq_norms: Tensor, k: int, block: int
) -> tuple[Tensor, Tensor]:
    """The same without a [B, M] matrix: the winners of each block of keys compete at the end."""
    found, indices = [], []
    for start in range(0, len(keys), block):
        rows = keys[start : start + block]
        partial = torch.addmm(key_sq_norms[start : start + block], queries, rows.t(), alpha=-2)
        best = partial.topk(min(k, len(rows)), largest=False)
        found.append(best.values)
        indices.append(best.indices + start)
    best = torch.cat(found, 1).topk(k, largest=False)
    distances = best.values + queries.square().sum(1, keepdim=True)
    return distances.clamp_min(0), torch.cat(indices, 1).gather(1, best.indices)


def faiss_index(keys: Tensor) -> Any:
    """IndexFlatL2 over the keys; faiss copies them."""
    # Its import warns of a deprecation, and crashes where warnings are errors.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss

    index = faiss.IndexFlatL2(keys.shape[1])
    index.add(keys.numpy())
    return index


def refined_faiss_index(keys: Tensor, factory: str, parameters: str, candidates: int) -> Any:
    """An approximate index whose candidates, so many times k, faiss re-ranks by their distances."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss

    index = faiss.index_factory(keys.shape[1], f"{factory},RFlat")
    faiss.ParameterSpace().set_index_parameters(index, f"{parameters},k_factor_rf={candidates}")
    index.train(keys.numpy())
    index.add(keys.numpy())
    return index


def knn_faiss(queries: Any, index: Any, k: int) -> tuple[Tensor, Tensor]:
    distances, indices = index.search(queries, k)
    return torch.from_numpy(distances), torch.from_numpy(indices)


# --- class_means, with unit length before and after: [C, d] ---------------------------------------


def class_means_loop(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    means = features.new_zeros(num_classes, features.shape[1])
    for c in range(num_classes):
        members = features[labels == c]
        if len(members):
            means[c] = F.normalize(F.normalize(members, dim=1).mean(0), dim=0)
    return means


def class_means_index_add(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The counts are not needed: the mean's direction is the sum's."""
    sums = features.new_zeros(num_classes, features.shape[1])
    return F.normalize(sums.index_add_(0, labels, F.normalize(features, dim=1)), dim=1)


def class_means_matmul(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sums as a product with the [C, N] membership matrix, which carries the lengths, too."""
    inverse_norms = features.norm(dim=1).clamp_min(1e-12).reciprocal()
    member = features.new_zeros(len(features), num_classes)
    member.scatter_(1, labels[:, None], inverse_norms[:, None])
    return F.normalize(member.t() @ features, dim=1)


# --- nearest_class_mean: labels [N] ---------------------------------------------------------------


def nearest_mean_loop(features: Tensor, means: Tensor, mean_sq_norms: Tensor) -> Tensor:
    """One sample after another; an empty class has an infinite norm."""
    blocked = torch.where(mean_sq_norms.isinf(), mean_sq_norms, 0.0)
    labels = torch.empty(len(features), dtype=torch.int64, device=features.device)
    for i, feature in enumerate(features):
        labels[i] = (((means - feature) ** 2).sum(1) + blocked).argmin()
    return labels


def nearest_mean_cdist(features: Tensor, means: Tensor, mean_sq_norms: Tensor) -> Tensor:
    blocked = torch.where(mean_sq_norms.isinf(), mean_sq_norms, 0.0)
    return (torch.cdist(features, means) + blocked).argmin(1)


def nearest_mean_addmm(features: Tensor, means: Tensor, mean_sq_norms: Tensor) -> Tensor:
    return torch.addmm(mean_sq_norms, features, means.t(), alpha=-2).argmin(1)


def nearest_mean_cosine_loop(features: Tensor, unit_means: Tensor, blocked: Tensor) -> Tensor:
    """`blocked` [C] is -inf for an empty class and 0 for others."""
    labels = torch.empty(len(features), dtype=torch.int64, device=features.device)
    for i, feature in enumerate(features):
        labels[i] = (F.cosine_similarity(unit_means, feature[None]) + blocked).argmax()
    return labels


def nearest_mean_cosine(features: Tensor, unit_means: Tensor, blocked: Tensor) -> Tensor:
    """The length of a feature changes no order, so it need not be known."""
    return torch.addmm(blocked, features, unit_means.t()).argmax(1)


def nearest_mean_faiss(features: Any, index: Any) -> Tensor:
    return torch.from_numpy(index.search(features, 1)[1][:, 0])
