"""What searches the rows of a memory, and the searches that are exact."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..ops.retrieval import Neighbors, RoundedKeys, knn
from .rows import Rows

_BFLOAT16_LEVEL = 3  # of `simd_level`: products of bfloat16 in AVX-512


class Index(ABC):
    """Finds the nearest rows; told of rows that are overwritten, and not of those appended."""

    @abstractmethod
    def search(self, rows: Rows, queries: Tensor, k: int) -> Neighbors:
        """Exact distances [B, k] and slots; queries in the precision of the rows' norms."""

    def overwritten(self, slots: Tensor) -> None:  # noqa: B027 - the exact index keeps nothing
        """Slots whose rows have changed."""

    def rebuild(self, rows: Rows) -> None:  # noqa: B027 - nothing is built
        """Forget what was learnt of the rows, and learn it again."""


class ExactIndex(Index):
    """Every key is compared."""

    def search(self, rows: Rows, queries: Tensor, k: int) -> Neighbors:
        return knn(queries, rows.keys, k, key_sq_norms=rows.sq_norms)


class RoundedIndex(Index):
    """Every key is compared, first in a copy that is kept in bfloat16, where the processor
    multiplies that; elsewhere there is no copy.

    A search brings the copy up to date. It is made anew, with an offset of its own, when there is
    no room for more rows, and once more rows were overwritten than there are.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._copy: RoundedKeys | None = None
        self._size = 0  # rows of the copy that are filled
        self._stale: list[int] = []
        self._overwritten = 0  # rows since the copy was made
        self._lock = threading.Lock()

    def overwritten(self, slots: Tensor) -> None:
        self._stale.extend(slot for slot in slots.tolist() if slot < self._size)

    def rebuild(self, rows: Rows) -> None:
        self._copy = None

    def search(self, rows: Rows, queries: Tensor, k: int) -> Neighbors:
        rounded = None
        if rows.device.type == "cpu" and int(torch.ops.clfast.simd_level()) == _BFLOAT16_LEVEL:
            # Of threads that predict together, one brings the copy up to date. Whoever asks for it
            # may be in inference mode; who writes to it later may not.
            with self._lock, torch.inference_mode(False), torch.no_grad():
                rounded = self._up_to_date(rows)
        return knn(queries, rows.keys, k, key_sq_norms=rows.sq_norms, rounded=rounded)

    def _up_to_date(self, rows: Rows) -> RoundedKeys:
        count, copy = len(rows), self._copy
        if copy is None or count > len(copy.rows) or self._overwritten > count:
            copy = self._copy = self._made_of(rows)
        for changed in (torch.tensor(self._stale, dtype=torch.int64), slice(self._size, count)):
            keys = rows.keys[changed]
            if len(keys):
                copy.rows[changed] = RoundedKeys.of(keys, offset=copy.offset).rows
        self._size = count
        self._overwritten += len(self._stale)
        self._stale.clear()
        return RoundedKeys(copy.rows[:count], copy.offset)

    def _made_of(self, rows: Rows) -> RoundedKeys:
        """Of all rows, with room for as many more as the memory may take."""
        count = len(rows)
        room = 2 * count if self._limit is None else min(2 * count, self._limit)
        copy = RoundedKeys.of(rows.keys)
        self._size, self._overwritten = count, 0
        self._stale.clear()
        storage = copy.rows.new_empty(max(room, count), copy.rows.shape[1])
        storage[:count] = copy.rows
        return RoundedKeys(storage, copy.offset)
