"""Searches of a `KeyValueMemory` by its kinds of index: what is gained in time for what is lost in
recall. Recall hangs on the data; the paper's are features of classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clfast.memory import KeyValueMemory

from .. import oracle
from ..case import Case, Variant, Work
from ..opponents import retrieval as opponents
from .retrieval import Data, Search, search_inputs

M, DIM, K = 60_000, 512, 200
FLOAT, INTEGER = 4, 8  # bytes


class Kind(NamedTuple):
    index: str
    parameters: str = ""
    candidates: int = 4  # times k

    @property
    def name(self) -> str:
        return " ".join(part for part in (self.index, self.parameters) if part)


KINDS = [
    Kind("exact"),
    Kind("bf16"),
    Kind("IVF256,PQ32", "nprobe=16"),
    Kind("IVF256,Flat", "nprobe=16"),
    Kind("HNSW32", "efSearch=256"),
]
_built: dict[tuple[Kind, float], KeyValueMemory] = {}


def _memory(kind: Kind, keys: Tensor) -> KeyValueMemory:
    """Trained; the same for cases with the same keys, since some take a minute to build."""
    name = (kind, float(keys.double().sum()))
    if name not in _built:
        memory = KeyValueMemory(
            DIM,
            index=kind.index,
            index_parameters=kind.parameters,
            candidates=kind.candidates,
        )
        memory.add(keys, torch.zeros(len(keys), dtype=torch.int64))
        memory.search(keys[:1], K)
        _built[name] = memory
    return _built[name]


def search(B: int, data: Data) -> Case:
    def missed(output: tuple[Tensor, Tensor], expected: Tensor, x: Search) -> float:
        """1 - recall: the share of found keys that are farther than the true k-th neighbour."""
        true = oracle.distances_to(x.queries, x.keys, output[1])
        return float((true > expected * (1 + 1e-6)).double().mean())

    return Case(
        op="search",
        size={"B": B, "M": M, "d": DIM, "k": K, "data": data},
        inputs=lambda generator: search_inputs(generator, B, M, DIM, data),
        oracle=lambda x: oracle.neighbors(x.queries, x.keys, K)[0][:, -1:],
        error=missed,
        tolerance=1.0,  # it is what the table shows
        work=lambda _: Work(FLOAT * M * DIM, (FLOAT + INTEGER) * B * K, 2 * B * M * DIM),
        variants=(
            *(
                Variant(
                    f"clfast, {kind.name}",
                    "clfast",
                    lambda memory, queries: memory.search(queries, K),
                    lambda x, kind=kind: (_memory(kind, x.keys), x.queries),
                    module=None if kind.index in ("exact", "bf16") else "faiss",
                    devices=("cpu",),
                )
                for kind in KINDS
            ),
            Variant(
                "addmm + topk",
                "torch",
                opponents.knn_addmm,
                lambda x: (x.queries, x.keys, x.key_sq_norms, K),
            ),
            Variant(
                "faiss IndexFlatL2",
                "library",
                opponents.knn_faiss,
                lambda x: (x.queries.numpy(), opponents.faiss_index(x.keys), K),
                module="faiss",
                devices=("cpu",),
            ),
        ),
    )


CASES = [search(B, data) for data in ("clusters", "gaussian") for B in (1, 100)]
