"""Float64 results that are too slow in `clfast.reference`: exact neighbours of many queries."""

from __future__ import annotations

import torch
from torch import Tensor


def sq_distances(queries: Tensor, keys: Tensor) -> Tensor:
    """[B, M] in float64; in expanded form, whose error is about 1e-15 of the norms."""
    queries = queries.double()
    out = queries.new_empty(len(queries), len(keys))
    for columns, rows in zip(out.split(8192, 1), keys.split(8192), strict=True):
        rows = rows.double()
        torch.addmm(rows.square().sum(1), queries, rows.t(), alpha=-2, out=columns)
    return out.add_(queries.square().sum(1, keepdim=True)).clamp_min_(0)


def neighbors(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest keys: (squared distances [B, k] in float64, ascending; rows [B, k])."""
    blocks = [sq_distances(q, keys).topk(k, largest=False) for q in queries.split(128)]
    return torch.cat([b.values for b in blocks]), torch.cat([b.indices for b in blocks])


def distances_to(queries: Tensor, keys: Tensor, indices: Tensor) -> Tensor:
    """[B, k] in float64: squared distances of the queries to the keys that `indices` names."""
    found = [
        (keys[rows].double() - query.double()).square().sum(1)
        for query, rows in zip(queries, indices, strict=True)
    ]
    return torch.stack(found)
