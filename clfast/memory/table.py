"""Named columns of tensors that grow by doubling."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor


def indices(numbers: Collection[int]) -> Tensor:
    """[n] int64 on the CPU; ``torch.tensor`` takes longer, the more numbers the more."""
    return torch.from_numpy(np.fromiter(numbers, np.int64, len(numbers)))


def on(device: torch.device, numbers: Tensor) -> Tensor:
    """`numbers`, in pageable memory of the CPU, on a device, without waiting for it: the copy has
    read them when it returns."""
    # `to` takes longer to see that there is nothing to do.
    return numbers if device.type == "cpu" else numbers.to(device, non_blocking=True)


class Table:
    """Columns, tensors [size, ...] on one device, by name; it has none until `create`.

    `limit` bounds the number of rows ever allocated (None: no bound). Appending costs amortised
    constant time a row: when the allocation is full it doubles.
    """

    def __init__(self, device: torch.device, limit: int | None) -> None:
        self.device = device
        self._limit = limit
        self._size = 0
        self._columns: dict[str, Tensor] = {}

    def create(self, like: Mapping[str, Tensor]) -> None:
        """Columns without rows, of the names, dtypes and shapes of a row in `like`."""
        # Memory outlives the block that made it: never an inference tensor, which nobody may
        # write to later.
        with torch.inference_mode(False):
            self._columns = {
                name: torch.empty((0, *rows.shape[1:]), dtype=rows.dtype, device=self.device)
                for name, rows in like.items()
            }
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, name: str) -> Tensor:
        return self._columns[name][: self._size]

    @property
    def columns(self) -> dict[str, Tensor]:
        """All of them, [size, ...] each."""
        return {name: column[: self._size] for name, column in self._columns.items()}

    @property
    def allocated(self) -> Mapping[str, Tensor]:
        """The columns with the room that is left: dtypes and shapes of rows are theirs."""
        return self._columns

    def gather(self, slots: Tensor) -> dict[str, Tensor]:
        """Copies of the rows that `slots` [m], which are filled, name; [m, ...] each."""
        return {name: column.index_select(0, slots) for name, column in self._columns.items()}

    def reserve(self, size: int) -> None:
        """Make room for `size` rows in all; nothing has changed if the allocation fails."""
        allocated = min(map(len, self._columns.values()))
        if size <= allocated:
            return
        target = max(size, 2 * allocated)
        if self._limit is not None:
            target = min(target, self._limit)
        self._columns = {
            name: self._grown(column, target) for name, column in self._columns.items()
        }

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Add rows, given for every column and on any device, behind the last one."""
        start, stop = self._size, self._size + next(iter(rows.values())).shape[0]
        self.reserve(stop)
        for name, column in self._columns.items():
            column[start:stop].copy_(rows[name])
        self._size = stop

    def overwrite(self, slots: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Write row i of the columns that are given into row `slots[i]`.

        Slots are filled and distinct; rows may be on any device.
        """
        for name, given in rows.items():
            self._columns[name].index_copy_(0, slots, given.to(self.device))

    def to(self, device: torch.device) -> None:
        """Move all columns to `device`."""
        with torch.inference_mode(False):
            self._columns = {name: column.to(device) for name, column in self._columns.items()}
        self.device = device

    def _grown(self, column: Tensor, rows: int) -> Tensor:
        with torch.inference_mode(False):
            grown = column.new_empty((rows, *column.shape[1:]))
        grown[: self._size].copy_(column[: self._size])
        return grown
