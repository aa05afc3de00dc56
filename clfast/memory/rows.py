"""The rows of a memory: keys, labels and squared norms in tensors that grow by doubling."""

from __future__ import annotations

import torch
from torch import Tensor

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


class Rows:
    """A table with the columns keys [size, dim], values [size] int64 and sq_norms [size].

    `limit` bounds the number of rows ever allocated (None: no bound). Appending costs amortised
    constant time a row: when the allocation is full it doubles.
    """

    def __init__(
        self, dim: int, dtype: torch.dtype, device: torch.device, limit: int | None
    ) -> None:
        self._limit = limit
        self._size = 0
        # Memory outlives the block that made it: never an inference tensor, which nobody may
        # write to later.
        with torch.inference_mode(False):
            self._keys = torch.empty(0, dim, dtype=dtype, device=device)
            self._values = torch.empty(0, dtype=torch.int64, device=device)
            self._sq_norms = torch.empty(0, dtype=sum_dtype(dtype), device=device)

    def __len__(self) -> int:
        return self._size

    @property
    def keys(self) -> Tensor:
        return self._keys[: self._size]

    @property
    def values(self) -> Tensor:
        return self._values[: self._size]

    @property
    def sq_norms(self) -> Tensor:
        return self._sq_norms[: self._size]

    @property
    def device(self) -> torch.device:
        return self._keys.device

    def reserve(self, size: int) -> None:
        """Make room for `size` rows in all; nothing has changed if the allocation fails."""
        allocated = len(self._keys)
        if size <= allocated:
            return
        target = max(size, 2 * allocated)
        if self._limit is not None:
            target = min(target, self._limit)
        self._keys, self._values, self._sq_norms = (
            self._grown(column, target) for column in (self._keys, self._values, self._sq_norms)
        )

    def append(self, keys: Tensor, values: Tensor, sq_norms: Tensor) -> None:
        """Add rows behind the last one."""
        start, stop = self._size, self._size + len(keys)
        self.reserve(stop)
        self._keys[start:stop].copy_(keys)
        self._values[start:stop].copy_(values)
        self._sq_norms[start:stop].copy_(sq_norms)
        self._size = stop

    def overwrite(self, slots: Tensor, keys: Tensor, values: Tensor, sq_norms: Tensor) -> None:
        """Write row i of the arguments into row `slots[i]`; slots are filled and distinct."""
        self._keys.index_copy_(0, slots, keys)
        self._values.index_copy_(0, slots, values)
        self._sq_norms.index_copy_(0, slots, sq_norms)

    def to(self, device: torch.device) -> None:
        """Move all columns to `device`."""
        with torch.inference_mode(False):
            self._keys, self._values, self._sq_norms = (
                column.to(device) for column in (self._keys, self._values, self._sq_norms)
            )

    def _grown(self, column: Tensor, rows: int) -> Tensor:
        with torch.inference_mode(False):
            grown = column.new_empty((rows, *column.shape[1:]))
        grown[: self._size].copy_(column[: self._size])
        return grown
