"""The rows of a key-value memory: keys, labels and squared norms."""

from __future__ import annotations

import torch
from torch import Tensor

from .table import Table

# Rows whose squares are in memory at once while norms are computed: bounds the temporary.
_NORM_BLOCK = 8192


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which squares of `dtype` are summed: float64 for float64, float32 for the rest."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def squared_norms(keys: Tensor) -> Tensor:
    """Sum of squares of each row, [n, d] -> [n], in `sum_dtype`."""
    dtype = sum_dtype(keys.dtype)
    blocks = keys.chunk(1 + len(keys) // _NORM_BLOCK)
    return torch.cat([block.to(dtype).square().sum(1) for block in blocks])


class Rows(Table):
    """A table with the columns keys [size, dim], values [size] int64 and sq_norms [size]."""

    def __init__(
        self, dim: int, dtype: torch.dtype, device: torch.device, limit: int | None
    ) -> None:
        super().__init__(device, limit)
        self.create(
            {
                "keys": torch.empty(0, dim, dtype=dtype, device=device),
                "values": torch.empty(0, dtype=torch.int64, device=device),
                "sq_norms": torch.empty(0, dtype=sum_dtype(dtype), device=device),
            }
        )

    @property
    def keys(self) -> Tensor:
        return self["keys"]

    @property
    def values(self) -> Tensor:
        return self["values"]

    @property
    def sq_norms(self) -> Tensor:
        return self["sq_norms"]
