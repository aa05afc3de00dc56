"""Approximate search: candidates of an index of faiss, re-ranked by their exact distances."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import torch
from torch import Tensor

from ..ops.retrieval import Neighbors, knn, rerank
from .config import KeyValueConfig
from .exact_index import Index
from .rows import Rows


class FaissIndex(Index):
    """Candidates from an index of faiss, re-ranked by their exact distances.

    It is trained at the first search, on the rows that are there then. Appended rows are added at
    the next search; an index that takes rows only once is built anew. Rows that were overwritten
    since are searched exactly beside the candidates, and all rows are added again, without a new
    training, when they are more than an eighth of the memory. A query for which the
    index finds fewer than k candidates is searched exactly.
    """

    _MOST_STALE = 1 / 8

    def __init__(self, config: KeyValueConfig, where: str) -> None:
        self._config = config
        self._faiss = _import_faiss(config.index, where)
        try:
            self._index = self._untrained()
        except RuntimeError as error:
            raise ValueError(
                f"{where}: index must be 'exact', 'bf16' or a factory string of faiss with its "
                f"index_parameters, got {config.index!r} and {config.index_parameters!r}: "
                f"{_reason(error)}"
            ) from error
        self._stale: set[int] = set()
        self._lock = threading.Lock()

    def overwritten(self, slots: Tensor) -> None:
        self._stale.update(slot for slot in slots.tolist() if slot < self._index.ntotal)

    def rebuild(self, rows: Rows) -> None:
        self._train(rows)

    def search(self, rows: Rows, queries: Tensor, k: int) -> Neighbors:
        if torch.is_grad_enabled() and queries.requires_grad:
            raise RuntimeError(
                "KeyValueMemory.search: queries requires grad, but search has no gradient; call "
                "it under torch.no_grad() or pass queries.detach()"
            )
        queries = queries.detach()
        with self._lock:  # of threads that predict together, one brings the index up to date
            self._update(rows)
        wanted = min(self._config.candidates * k, self._index.ntotal)
        _, found = self._index.search(queries.float().contiguous().numpy(), wanted)
        candidates = self._without_stale(torch.from_numpy(found), rows, queries, k)
        nearest = rerank(queries, rows.keys, candidates, k)
        too_few = nearest.indices[:, -1] < 0
        if bool(too_few.any()):
            exact = knn(queries[too_few], rows.keys, k)
            nearest.sq_distances[too_few] = exact.sq_distances
            nearest.indices[too_few] = exact.indices
        return nearest

    def _without_stale(self, candidates: Tensor, rows: Rows, queries: Tensor, k: int) -> Tensor:
        """[B, R] without stale rows, which the index knows by their old places, and each query's
        nearest among those instead."""
        stale = torch.tensor(sorted(self._stale), dtype=torch.int64, device="cpu")
        if not len(stale):
            return candidates
        is_stale = torch.zeros(len(rows), dtype=torch.bool, device="cpu")
        is_stale[stale] = True
        fresh = candidates.masked_fill(is_stale[candidates], -1)
        nearest = knn(queries, rows.keys.index_select(0, stale), min(k, len(stale))).indices
        return torch.cat([fresh, stale[nearest]], 1)

    def _update(self, rows: Rows) -> None:
        if not self._index.is_trained or self._index.ntotal > len(rows):
            self._train(rows)
        elif len(self._stale) > self._MOST_STALE * len(rows):
            self._index.reset()
            self._stale.clear()
        self._add(rows, self._index.ntotal)

    def _train(self, rows: Rows) -> None:
        try:
            trained = self._untrained()
            trained.train(self._as_faiss_takes(rows, 0))
            trained.add(self._as_faiss_takes(rows, 0))
        except RuntimeError as error:
            raise ValueError(
                f"KeyValueMemory.search: index {self._config.index!r} cannot be trained on the "
                f"{len(rows)} rows that are stored; add more, or choose a coarser index "
                f"({_reason(error)})"
            ) from error
        self._index = trained
        self._stale.clear()

    def _untrained(self) -> Any:
        index = self._faiss.index_factory(self._config.dim, self._config.index)
        if self._config.index_parameters:
            space = self._faiss.ParameterSpace()
            space.set_index_parameters(index, self._config.index_parameters)
        return index

    def _add(self, rows: Rows, first: int) -> None:
        if first == len(rows):
            return
        keys = self._as_faiss_takes(rows, first)
        try:
            self._index.add(keys)
        except RuntimeError:  # an index that takes rows once, as NSG
            self._train(rows)

    @staticmethod
    def _as_faiss_takes(rows: Rows, first: int) -> Any:
        """Keys in float32; faiss does not survive squares that overflow there."""
        keys = rows.keys[first:].float()
        if not bool(keys.square().sum(1).isfinite().all()):
            raise ValueError(
                "KeyValueMemory.search: keys have squared norms beyond float32, in which faiss "
                "searches; scale them, or use index='exact'"
            )
        return keys.contiguous().numpy()


def _reason(error: RuntimeError) -> str:
    """The last line of faiss's message: those before tell of its source code."""
    return str(error).strip().rsplit("\n", 1)[-1]


def _import_faiss(index: str, where: str) -> Any:
    try:
        # Its import warns of a deprecation, and crashes where warnings are errors.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{where}: index {index!r} needs faiss: pip install faiss-cpu"
        ) from error
    return faiss
