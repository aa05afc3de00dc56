"""What searches the rows of a memory, and the searches that are exact."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..ops.retrieval import Neighbors, RoundedKeys, knn
from ..ops.rounded_keys import common_offset, rounded_size
from .rows import Rows

_BFLOAT16_LEVEL = 3  # of `simd_level`, the lowest with products of bfloat16
_FEWEST_FEATURES = 32  # with which knn reads rounded keys, as csrc/kernels/cpu/knn.cpp has it
_MADE_AT_A_TIME = 8192  # rows


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
    multiplies that; elsewhere there is no copy, nor for keys so short that none would be read.

    A search brings the copy up to date. It is made anew, with an offset of its own, when there is
    no room for more rows, and once more rows were overwritten than there are.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._copy: RoundedKeys | None = None
        self._size = 0  # rows of the copy that are filled
        self._stale: set[int] = set()  # of these rows
        self._overwritten = 0  # rows since the copy was made, less those that are stale
        self._lock = threading.Lock()

    def overwritten(self, slots: Tensor) -> None:
        with self._lock:
            self._stale.update(slot for slot in slots.tolist() if slot < self._size)

    def rebuild(self, rows: Rows) -> None:
        with self._lock:
            self._copy = None

    def search(self, rows: Rows, queries: Tensor, k: int) -> Neighbors:
        rounded = None
        if (
            rows.device.type == "cpu"
            and rows.keys.shape[1] >= _FEWEST_FEATURES
            and int(torch.ops.clfast.simd_level()) >= _BFLOAT16_LEVEL
        ):
            # Of threads that predict together, one brings the copy up to date. Whoever asks for it
            # may be in inference mode; who writes to it later may not.
            with self._lock, torch.inference_mode(False), torch.no_grad():
                rounded = self._up_to_date(rows)
        return knn(queries, rows.keys, k, key_sq_norms=rows.sq_norms, rounded=rounded)

    def _up_to_date(self, rows: Rows) -> RoundedKeys:
        """What fails on the way leaves a copy that the next search brings up to date."""
        count, copy = len(rows), self._copy
        replaced = self._overwritten + len(self._stale)
        if copy is None or count > len(copy.rows) or replaced > count:
            copy = self._made_of(rows)
            self._copy, self._overwritten = copy, 0
        else:
            stale = torch.tensor(sorted(self._stale), dtype=torch.int64, device="cpu")
            for changed in (stale, slice(self._size, count)):
                keys = rows.keys[changed]
                if len(keys):
                    copy.rows[changed] = RoundedKeys.of(keys, offset=copy.offset).rows
            self._overwritten = replaced
        self._size = count
        self._stale.clear()
        return RoundedKeys(copy.rows[:count], copy.offset)

    def _made_of(self, rows: Rows) -> RoundedKeys:
        """Of all rows, with room for as many more, or as the memory may still take."""
        count, dim = rows.keys.shape
        room = 2 * count if self._limit is None else min(2 * count, self._limit)
        offset = common_offset(rows.keys)
        storage = rows.keys.new_empty(room, rounded_size(dim), dtype=torch.bfloat16)
        for at in range(0, count, _MADE_AT_A_TIME):
            part = slice(at, min(at + _MADE_AT_A_TIME, count))
            storage[part] = RoundedKeys.of(rows.keys[part], offset=offset).rows
        return RoundedKeys(storage, offset)
