"""Searches of a `KeyValueMemory` by its kinds of index: what is gained in time for what is lost in
recall, which hangs on the data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clfast.memory import KeyValueMemory

from .. import oracle
from ..case import Case, Variant, Work
from ..opponents import retrieval as opponents
from .retrieval import Data, Search, search_inputs

M, DIM, K, CANDIDATES = 60_000, 512, 200, 4


class Kind(NamedTuple):
    index: str
    parameters: str = ""

    @property
    def exact(self) -> bool:
        return self.index in ("exact", "bf16")


KINDS = [
    Kind("exact"),
    Kind("bf16"),
    Kind("IVF256,PQ32", "nprobe=16"),
    Kind("IVF256,Flat", "nprobe=16"),
    Kind("HNSW32", "efSearch=256"),
]
_memories: dict[tuple[Kind, float], KeyValueMemory] = {}


def _memory(kind: Kind, keys: Tensor) -> KeyValueMemory:
    """Trained; the same for all cases with these keys, since some take a minute to build."""
    name = (kind, float(keys.double().sum()))
    if name not in _memories:
        memory = KeyValueMemory(
            DIM, index=kind.index, index_parameters=kind.parameters, candidates=CANDIDATES
        )
        memory.add(keys, torch.zeros(len(keys), dtype=torch.int64))
        memory.search(keys[:1], K)
        _memories[name] = memory
    return _memories[name]


def missed(output: tuple[Tensor, Tensor], expected: Tensor, x: Search) -> float:
    """1 - recall: the share of the k places without a key as near as the true k-th neighbour; a key
    counts once."""
    indices = output[1].sort(1).values
    again = torch.zeros_like(indices, dtype=torch.bool)
    again[:, 1:] = indices.diff(dim=1) == 0
    far = oracle.distances_to(x.queries, x.keys, indices) > expected * (1 + 1e-5)
    return float((far | again).double().mean())


def search(kind: Kind, B: int, data: Data) -> Case:
    if kind.exact:
        library = Variant(
            "faiss IndexFlatL2",
            "library",
            opponents.knn_faiss,
            lambda x: (x.queries.numpy(), opponents.faiss_index(x.keys), K),
            module="faiss",
            devices=("cpu",),
        )
    else:
        library = Variant(
            f"faiss {kind.index},RFlat",
            "library",
            opponents.knn_faiss,
            lambda x: (
                x.queries.numpy(),
                opponents.refined_faiss_index(x.keys, *kind, CANDIDATES),
                K,
            ),
            module="faiss",
            devices=("cpu",),
            judged=False,
        )
    return Case(
        op="search",
        size={"index": " ".join(kind).strip(), "B": B, "M": M, "d": DIM, "k": K, "data": data},
        inputs=lambda generator: search_inputs(generator, B, M, DIM, data),
        oracle=lambda x: oracle.neighbors(x.queries, x.keys, K)[0][:, -1:],
        error=missed,
        tolerance=1e-3,
        # How much of the memory an index reads is its own affair.
        work=lambda _: Work(0, 0),
        variants=(
            Variant(
                "clfast",
                "clfast",
                lambda memory, queries: memory.search(queries, K),
                lambda x: (_memory(kind, x.keys), x.queries),
                module=None if kind.exact else "faiss",
                devices=("cpu",),
                judged=kind.exact,
            ),
            Variant(
                "addmm + topk",
                "torch",
                opponents.knn_addmm,
                lambda x: (x.queries, x.keys, x.key_sq_norms, K),
            ),
            library,
        ),
    )


CASES = [
    search(kind, B, data) for data in ("clusters", "gaussian") for B in (1, 100) for kind in KINDS
]
