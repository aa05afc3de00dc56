"""Memories with an approximate index of faiss: candidates re-ranked by exact distances."""

from __future__ import annotations

import builtins
import importlib.util
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_helpers import from_threads
from torch import Tensor, nn

from clfast.memory import KeyValueMemory
from clfast.memory.config import KeyValueConfig
from clfast.memory.indexes import make_index
from clfast.methods import Hebb
from clfast.ops import knn

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="faiss is not installed"
)
DIM = 16


def rows(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, DIM, generator=generator), torch.arange(count) % 7


def filled(count: int, **options: Any) -> KeyValueMemory:
    options = {"index": "IVF16,Flat", "index_parameters": "nprobe=4", **options}
    memory = KeyValueMemory(DIM, **options)
    memory.add(*rows(count))
    return memory


QUERIES = rows(20, seed=9)[0]


@pytest.mark.parametrize(
    "index", ["IVF16,Flat", "IVF16,PQ4x4", "HNSW16", "Flat", "SQ8", "PCA8,Flat"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_distances_are_exact_and_recall_is_reported(index: str, dtype: torch.dtype) -> None:
    memory = filled(2000, index=index, dtype=dtype, index_parameters="")
    found = memory.search(QUERIES, 10)
    assert found.sq_distances.dtype == memory.key_sq_norms.dtype
    exact = knn(QUERIES.to(memory.key_sq_norms.dtype), memory.keys, 2000)
    order = exact.indices.argsort(1)
    true = exact.sq_distances.gather(1, order).gather(1, found.indices)
    assert torch.equal(found.sq_distances, true)
    assert bool((found.sq_distances.diff(dim=1) >= 0).all())
    among = torch.isin(
        found.indices + 2000 * torch.arange(20)[:, None],
        exact.indices[:, :10] + 2000 * torch.arange(20)[:, None],
    )
    assert memory.recall(QUERIES, 10) == pytest.approx(float(among.double().mean()))
    assert memory.recall(QUERIES, 10) > 0.1


def test_all_cells_are_all_keys() -> None:
    memory = filled(1000, index_parameters="nprobe=16")
    assert torch.equal(memory.search(QUERIES, 9).indices, knn(QUERIES, memory.keys, 9).indices)
    assert memory.recall(QUERIES, 9) == 1


def test_appended_and_overwritten_rows_are_found_at_once() -> None:
    memory = filled(600, capacity=800, index_parameters="nprobe=1")
    memory.search(QUERIES, 5)
    for step in range(30):
        memory.add(QUERIES + 1e-3 * step, torch.zeros(20, dtype=torch.int64))
        found = memory.search(QUERIES + 1e-3 * step, 1)
        assert bool((found.sq_distances == 0).all())
    assert memory.recall(QUERIES, 1) == 1


def test_an_index_that_takes_rows_once_is_built_anew() -> None:
    memory = filled(300, index="NSG16", index_parameters="")
    memory.search(QUERIES, 5)
    memory.add(QUERIES, torch.zeros(20, dtype=torch.int64))
    found = memory.search(QUERIES, 1)
    assert found.indices[:, 0].tolist() == list(range(300, 320))


def test_the_papers_size_of_neighbourhood() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(3_000, 64, generator=generator)
    memory = KeyValueMemory(64, index="IVF256,PQ32np", index_parameters="nprobe=32")
    memory.add(keys, torch.zeros(3_000, dtype=torch.int64))
    queries = keys[:10] + 0.1 * torch.randn(10, 64, generator=generator)
    assert memory.search(queries, 200).indices.shape == (10, 200)
    assert 0.2 < memory.recall(queries, 200) < 1


def test_too_few_candidates_are_no_answer() -> None:
    memory = filled(300, index_parameters="nprobe=1", candidates=1)
    exact = knn(QUERIES, memory.keys, 300)
    found = memory.search(QUERIES, 300)
    assert torch.equal(found.indices, exact.indices)
    assert memory.search(QUERIES[:0], 3).indices.shape == (0, 3)


def test_it_needs_rows_to_be_trained() -> None:
    memory = filled(10)
    before = memory.state_dict()
    wanted = r"index 'IVF16,Flat' cannot be trained on the 10 rows .*add more"
    for _ in range(2):
        with pytest.raises(ValueError, match=wanted):
            memory.search(QUERIES, 3)
    with pytest.raises(ValueError, match=wanted):
        memory.rebuild_index()
    hebb = Hebb(nn.Identity(), nn.Linear(DIM, 20), memory, k=3)
    with pytest.raises(ValueError, match=wanted):
        hebb.predict(QUERIES)
    assert torch.equal(before["keys"], memory.keys)
    memory.add(*rows(100, seed=1))
    assert memory.search(QUERIES, 3).indices.shape == (20, 3)


def test_rebuilding_trains_anew() -> None:
    memory = filled(200, index_parameters="nprobe=1")
    memory.search(QUERIES, 3)
    memory.add(rows(5000, seed=2)[0] + 3, rows(5000)[1])
    skewed = memory.recall(QUERIES + 3, 50)
    memory.rebuild_index()
    assert memory.recall(QUERIES + 3, 50) != skewed


def test_saved_and_cleared(tmp_path: Path) -> None:
    memory = filled(500)
    found = memory.search(QUERIES, 4)
    memory.save(tmp_path / "memory")
    loaded = KeyValueMemory.from_file(tmp_path / "memory")
    assert "index='IVF16,Flat'" in repr(loaded)
    assert torch.equal(loaded.search(QUERIES, 4).indices, found.indices)
    memory.clear()
    memory.add(*rows(500))
    assert torch.equal(memory.search(QUERIES, 4).indices, found.indices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": "IVF"}, "index must be 'exact', 'bf16' or a factory string of faiss"),
        ({"index": "nonsense"}, "index must be 'exact', 'bf16' or a factory string of faiss"),
        ({"index_parameters": "speed=3"}, "got 'IVF16,Flat' and 'speed=3'"),
    ],
)
def test_bad_indexes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"KeyValueMemory: .*{message}"):
        filled(0, **options)


def test_an_index_of_faiss_stays_on_the_cpu() -> None:
    config = KeyValueConfig(DIM, None, "ring", "IVF16,Flat", torch.float32)
    with pytest.raises(ValueError, match="KeyValueMemory: index 'IVF16,Flat' searches on the CPU"):
        make_index(config, torch.device("cuda"), "KeyValueMemory")


def test_without_faiss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = filled(500)
    memory.save(tmp_path / "memory")
    pickled = pickle.dumps(memory)
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "faiss":
            raise ModuleNotFoundError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match="'Flat' needs faiss: pip install faiss-cpu"):
        KeyValueMemory(4, index="Flat")
    with pytest.raises(ModuleNotFoundError, match=r"KeyValueMemory.from_file: .*needs faiss"):
        KeyValueMemory.from_file(tmp_path / "memory")
    with pytest.raises(ModuleNotFoundError, match=r"'IVF16,Flat' needs faiss"):
        pickle.loads(pickled)
    # To load into a memory of another kind needs no faiss to say that it is of another kind.
    other = KeyValueMemory(DIM)
    with pytest.raises(ValueError, match=r"load: .* index is 'IVF16,Flat', not 'exact'"):
        other.load(tmp_path / "memory")
    assert len(other) == 0


def test_keys_whose_squares_overflow_in_faiss() -> None:
    memory = KeyValueMemory(DIM, index="IVF4,Flat", dtype=torch.float64)
    memory.add(rows(100)[0].double() * 1e30, rows(100)[1])
    with pytest.raises(ValueError, match="keys have squared norms beyond float32"):
        memory.search(QUERIES, 3)


def test_queries_that_require_grad() -> None:
    memory = filled(200)
    with pytest.raises(RuntimeError, match=r"KeyValueMemory\.search: queries requires grad"):
        memory.search(QUERIES.clone().requires_grad_(), 3)
    with torch.no_grad():
        assert memory.search(QUERIES.clone().requires_grad_(), 3).indices.shape == (20, 3)


def test_threads_that_search_first() -> None:
    memory = filled(3000)
    found = from_threads(lambda: memory.search(QUERIES, 4).indices, 4)
    assert all(torch.equal(indices, found[0]) for indices in found)
