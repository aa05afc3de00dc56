"""`KeyValueMemory`: representations of past samples with their labels, searched by distance."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from .. import _arguments
from ..ops.retrieval import Neighbors, knn
from . import checks, state, storage
from .config import Config
from .content import Content
from .indexes import make_index
from .rows import squared_norms, sum_dtype


class KeyValueMemory:
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
        self._config: Final = Config(
            dim, capacity, policy, index, dtype, index_parameters, candidates
        )
        if generator is None:
            generator = torch.Generator("cpu").manual_seed(0)
        else:
            _arguments.cpu_generator(generator, "KeyValueMemory")
        device = _arguments.device(device, "KeyValueMemory")
        self._content = Content(self._config, device, generator)

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
    def device(self) -> torch.device:
        """Where the rows live."""
        return self._content.rows.device

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

    def __len__(self) -> int:
        return len(self._content.rows)

    def __repr__(self) -> str:
        kind = ", ".join(f"{name}={value!r}" for name, value in self._config.to_plain().items())
        return f"KeyValueMemory({kind}, device='{self.device}', len={len(self)})"

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
        checks.check_labels(values, len(keys), self.device, where)
        stored = keys.detach().to(self.dtype).contiguous()
        sq_norms = squared_norms(stored)
        checks.check_storable(keys, stored, sq_norms, where)
        return partial(self._store, stored, values, sq_norms)

    @torch.no_grad()
    def _store(self, keys: Tensor, values: Tensor, sq_norms: Tensor) -> None:
        self._content.add(keys, values, sq_norms)

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
        highest = max(self._content.seen, default=-1)
        num_classes = checks.class_count(num_classes, highest, "KeyValueMemory.seen")
        labels, counts = self._content.seen_tensors()
        dense = torch.zeros(num_classes, dtype=torch.int64, device="cpu")
        return dense.index_copy_(0, labels, counts).to(self.device)

    def clear(self) -> None:
        """Forget all rows and all that `seen` counts; the generator goes on where it is."""
        self._content = Content(self._config, self.device, self._content.generator)

    def to(self, device: torch.device | str) -> KeyValueMemory:
        """Move the rows to a device, in place; returns the memory itself.

        Raises TypeError or ValueError for what is no usable device, and for an index of faiss
        anywhere but on the CPU; the memory is as before.
        """
        moved = _arguments.device(device, "KeyValueMemory.to")
        self._content.index = make_index(self._config, moved, "KeyValueMemory.to")
        self._content.rows.to(moved)
        return self

    def clone(self) -> KeyValueMemory:
        """An independent copy, with a generator of its own in the same state."""
        return _from_state(self._state(), self.device, "KeyValueMemory.clone")

    def __copy__(self) -> KeyValueMemory:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> KeyValueMemory:
        """The memory itself; `clone` makes a copy.

        Training loops deep-copy models all the time, as teachers or for a trial step. Such a copy
        means the same past: were the memory copied with it, each copy would cost the whole memory,
        and would miss what the model stores from then on.
        """
        return self

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], KeyValueMemory], tuple[Any]]:
        return _unpickle, (self.state_dict(),)

    def state_dict(self) -> dict[str, Any]:
        """Copies of all that the memory knows: tensors, and what kind of memory it is.

        Counts, the policy's knowledge and the generator's state are part of it: a memory that loads
        it goes on bit for bit as this one would. An index of faiss is not: it is trained anew.
        """
        return {
            name: entry.clone() if isinstance(entry, Tensor) else entry
            for name, entry in self._state().items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Replace everything by what `state_dict` of a memory of the same kind returned.

        All arguments of the constructor must agree but the device. A generator that was given to
        the constructor is set to the saved state.

        Raises TypeError if the state is no mapping, or ValueError if it is of another kind or its
        parts do not fit together; the memory is as before.
        """
        self._restore(state_dict, "KeyValueMemory.load_state_dict")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically.

        A kill or a crash at any moment leaves the old file or the new one. The content is that of
        `state_dict`: a memory that loads it goes on bit for bit.

        Raises OSError, naming the path, if it cannot be written; no half-written file remains.
        """
        file = _arguments.path(path, "KeyValueMemory.save")
        storage.write(file, self._state(), f"KeyValueMemory.save: {file}")

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replace everything by what a memory of the same kind saved, as `load_state_dict` does.

        `KeyValueMemory.from_file` makes a memory of whatever kind was saved.

        Raises FileNotFoundError or another OSError if no file can be read, or ValueError if it is
        truncated, damaged, foreign, of another kind, or inconsistent, naming the path; the
        memory is as before.
        """
        file = _arguments.file(path, "KeyValueMemory.load")
        where = f"KeyValueMemory.load: {file}"
        self._restore(storage.read(file, state.FORMAT, where), where)

    @staticmethod
    def from_file(
        path: str | os.PathLike[str], *, device: torch.device | str = "cpu"
    ) -> KeyValueMemory:
        """The memory that was saved at `path`, on `device`; raises as `load` does."""
        file = _arguments.file(path, "KeyValueMemory.from_file")
        where = f"KeyValueMemory.from_file: {file}"
        return _from_state(storage.read(file, state.FORMAT, where), device, where)

    def _state(self) -> dict[str, Any]:
        return state.pack(self._config, self._content.tensors())

    def _restore(self, saved: Mapping[str, Any], where: str) -> None:
        config, saved_tensors = state.unpack(saved, where)
        difference = self._config.difference(config)
        if difference:
            raise ValueError(
                f"{where}: saved by a memory of another kind: {difference}; "
                "make one of that kind, or use KeyValueMemory.from_file"
            )
        names = set(self._content.tensors())
        tensors = state.check_tensors(saved_tensors, config, names, where)
        content = Content(config, self.device, self._content.generator)
        content.restore(tensors)
        self._content = content


def _from_state(saved: Mapping[str, Any], device: torch.device | str, where: str) -> KeyValueMemory:
    config, _ = state.unpack(saved, where)
    try:
        memory = KeyValueMemory(
            config.dim,
            capacity=config.capacity,
            policy=config.policy,
            index=config.index,
            dtype=config.dtype,
            device=device,
            index_parameters=config.index_parameters,
            candidates=config.candidates,
        )
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise type(error)(f"{where}: {error}") from error
    memory._restore(saved, where)
    return memory


def _unpickle(saved: dict[str, Any]) -> KeyValueMemory:
    # The device of the tensors, not a recorded one: torch.load may have mapped them elsewhere.
    return _from_state(saved, saved["keys"].device, "KeyValueMemory")
