"""`KeyValueMemory`: representations of past samples with their labels, searched by distance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .. import _arguments
from ..ops.retrieval import Neighbors, knn
from . import checks
from .base import Memory
from .config import KeyValueConfig
from .key_value_content import KeyValueContent
from .rows import squared_norms, sum_dtype


class KeyValueMemory(Memory):
    """The memory of Hebb, MbPA and Mixture: keys are representations, values are class labels.

    Section 3.1 of the Hebb paper: each observed sample (x, y) writes the pair (g(x), y), Eq. 1, and
    the nearest neighbours of a query are read back, Eq. 2. Stored keys are constants: no gradient
    flows into or out of the memory.

    A row of the memory is a *slot*: `keys[i]`, `values[i]` and `key_sq_norms[i]` belong together,
    and the indices that `search` returns are slots. Slots are filled in order of arrival; when all
    `capacity` of them are filled, the policy says what happens. Adding a batch gives exactly the
    memory that adding its rows one at a time gives, under every policy.

    Args:
        dim: length d of a key, at least 1.
        capacity: the most rows the memory holds, at least 1; None grows without bound (then the
            policy has nothing to decide).
        policy: what a row replaces when the memory is full. "ring": the oldest row; row t of the
            stream, from 0, is in slot t mod capacity. "reservoir": a random one, so that all rows
            of the stream are stored with the same probability (Vitter 1985, algorithm R).
            "class_balanced": classes share the memory as evenly as the stream allows (Chrysakis and
            Moens 2020, CBRS).
        index: how `search` works. "exact" compares every key. "bf16" does, too, with the same
            result, and keeps a copy of the keys in bfloat16 (2 d + 64 bytes a row, or a little
            more) that a CPU with products of bfloat16 reads first: made for searches of few
            queries, which wait for memory. Elsewhere, and with fewer than 32 features, it is as
            "exact", without a copy. Any other string is a factory string of faiss, as "IVF256,PQ32"
            or "HNSW32", and needs it installed. Such an index is trained at the first search, on
            the rows stored by then; later rows are added to it as they come. It only proposes
            candidates, which are re-ranked by their exact distances. Rows that a full memory has
            overwritten are searched exactly until they are an eighth of all, and then all rows are
            added anew; `rebuild_index` also trains anew. Indexes are not saved: they are trained
            again.
        index_parameters: of faiss, as "nprobe=16".
        candidates: of an index of faiss, how many times k, at least 1.
        dtype: of the stored keys: float32, float64, bfloat16 or float16.
        device: where the rows live.
        generator: CPU generator that "reservoir" and "class_balanced" draw from; None makes one of
            the memory's own with seed 0. Its state is saved and restored with the memory.

    Raises:
        TypeError, ValueError: an argument is not of the kinds above.
    """

    _KIND = KeyValueConfig
    _config: KeyValueConfig
    _content: KeyValueContent

    def __init__(
        self,
        dim: int,
        *,
        capacity: int | None = None,
        policy: str = "ring",
        index: str = "exact",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        index_parameters: str = "",
        candidates: int = 4,
    ) -> None:
        config = KeyValueConfig(dim, capacity, policy, index, dtype, index_parameters, candidates)
        super().__init__(config, device, generator)

    def _empty(self, device: torch.device, generator: torch.Generator) -> KeyValueContent:
        return KeyValueContent(self._config, device, generator)

    @property
    def dim(self) -> int:
        """Length of a key."""
        return self._config.dim

    @property
    def capacity(self) -> int | None:
        """The most rows the memory holds; None for no bound."""
        return self._config.capacity

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored keys."""
        return self._config.dtype

    @property
    def keys(self) -> Tensor:
        """[len, d] keys by slot: a view, to be read only, that holds until the next change."""
        return self._content.rows.keys

    @property
    def values(self) -> Tensor:
        """[len] int64 labels by slot: a view like `keys`."""
        return self._content.rows.values

    @property
    def key_sq_norms(self) -> Tensor:
        """[len] squared norms of the keys as stored, by slot: a view like `keys`.

        float64 for float64 keys, float32 for all others.
        """
        return self._content.rows.sq_norms

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Store samples; when the memory is full, the policy says which, and in place of which.

        Args:
            keys: [n, d] of any floating dtype, finite, on the memory's device; detached and
                converted to the memory's dtype. n may be 0, or more than the capacity.
            values: [n] int64 labels, at least 0.

        Raises:
            TypeError: not a dense tensor, keys not floating point, values not int64.
            ValueError: wrong shape or device; NaN or Inf; keys, or their squared norms, that
                overflow the dtype they are stored in; a negative label. The memory is as before.
        """
        self.staged(keys, values)()

    @torch.no_grad()
    def staged(
        self, keys: Tensor, values: Tensor, *, where: str = "KeyValueMemory.add"
    ) -> Callable[[], None]:
        """`add` in two parts, for callers that change something else in between.

        Takes the arguments of `add`, checks and converts them now and raises what it would, with
        `where` in front; the returned call stores them.
        """
        checks.check_vectors(keys, "keys", self.dim, self.device, where)
        checks.check_values(values, len(keys), self.device, where)
        stored = keys.detach().to(self.dtype).contiguous()
        sq_norms = squared_norms(stored)
        checks.check_storable(keys, stored, sq_norms, where)
        return partial(self._store, stored, values, sq_norms)

    @torch.no_grad()
    def _store(self, keys: Tensor, values: Tensor, sq_norms: Tensor) -> None:
        self._content.add({"keys": keys, "values": values, "sq_norms": sq_norms})

    def search(self, queries: Tensor, k: int) -> Neighbors:
        """The nearest keys of each query by Euclidean distance (Hebb paper, Eq. 2).

        Args:
            queries: [B, d] of any floating dtype, finite, on the memory's device; taken as float64
                by a float64 memory and as float32 by all others.
            k: neighbours a query, at least 1.

        Returns:
            `Neighbors` of `clfast.ops.retrieval.knn`: squared distances to the keys as stored, and
            slots, both [B, min(k, len)], nearest first.

        Raises:
            TypeError: queries that are not a dense floating-point tensor, k not an integer.
            ValueError: wrong shape or device, k < 1, NaN or Inf (looked for on the CPU only, as
                the answer would keep other devices waiting), an empty memory.
            ValueError: too few rows to train an index of faiss.
            RuntimeError: queries that require grad while grad mode is on (from `knn`).
        """
        where = "KeyValueMemory.search"
        checks.check_vectors(queries, "queries", self.dim, self.device, where)
        k = _arguments.integer(k, "k", where, least=1)
        if not len(self):
            raise ValueError(f"{where}: the memory is empty; add keys first")
        queries = queries.to(sum_dtype(self.dtype))
        checks.check_finite_queries(queries, where)
        return self._content.index.search(self._content.rows, queries, min(k, len(self)))

    def rebuild_index(self) -> None:
        """Train an index of faiss on the rows that are stored now; "exact" and "bf16" need none,
        though the offset of a copy in bfloat16 is chosen anew.

        Raises ValueError if there are too few; the index is as before.
        """
        self._content.index.rebuild(self._content.rows)

    def recall(self, queries: Tensor, k: int) -> float:
        """Share of the k nearest keys that `search` finds, over all queries: 1 if it is exact.

        Arguments and errors are those of `search`; queries must not be empty.
        """
        found = self.search(queries, k)
        if not len(queries):
            raise ValueError("KeyValueMemory.recall: queries must hold at least one row")
        exact = knn(queries.to(sum_dtype(self.dtype)), self.keys, found.indices.shape[1])
        # By distance: which of equally distant rows came is no fault.
        limit = exact.sq_distances[:, -1:]
        return float((found.sq_distances <= limit).double().mean())

    def counts(self, num_classes: int) -> Tensor:
        """Stored rows of each class: [num_classes] int64 on the memory's device.

        Raises ValueError if a label of `num_classes` or more is stored.
        """
        highest = int(self.values.max()) if len(self) else -1
        num_classes = checks.class_count(num_classes, highest, "KeyValueMemory.counts")
        return torch.bincount(self.values, minlength=num_classes)

    def seen(self, num_classes: int) -> Tensor:
        """Rows of each class ever added, stored or not: [num_classes] int64, memory's device.

        Raises ValueError if a label of `num_classes` or more was added.
        """
        highest = max(self._content.seen_of, default=-1)
        num_classes = checks.class_count(num_classes, highest, "KeyValueMemory.seen")
        labels, counts = self._content.seen_tensors()
        dense = torch.zeros(num_classes, dtype=torch.int64, device="cpu")
        return dense.index_copy_(0, labels, counts).to(self.device)
