"""index="bf16": whatever happens to the memory, the neighbours are those of index="exact"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from memory_helpers import from_threads

from clfast.experiments.run_folder import SIMD_LEVELS
from clfast.memory import KeyValueMemory
from clfast.memory.exact_index import RoundedIndex
from clfast.memory.rows import Rows
from clfast.ops import RoundedKeys

BFLOAT16_LEVEL = SIMD_LEVELS.index("avx512_bf16")  # the lowest that reads a copy
DIM = 520  # so long that 5000 rows and a few queries are enough for rounded keys to be read


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def assert_same(ours: KeyValueMemory, exact: KeyValueMemory, queries: torch.Tensor) -> None:
    found, wanted = ours.search(queries, 20), exact.search(queries, 20)
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.sq_distances, wanted.sq_distances)


@pytest.mark.parametrize(
    ("capacity", "policy"),
    [(None, "ring"), (6000, "ring"), (6000, "reservoir"), (6000, "class_balanced")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_searches_while_rows_come_and_go(
    capacity: int | None, policy: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    ours, exact = (
        KeyValueMemory(DIM, capacity=capacity, policy=policy, index=index, dtype=dtype)
        for index in ("bf16", "exact")
    )
    for count in (5000, 1, 0, 700, 900, 3, 4000, 2, 5000):
        # Ever further from where the offset was taken.
        keys = len(exact) / 3000 + torch.randn(count, DIM, generator=generator)
        labels = torch.randint(7, (count,), generator=generator)
        for memory in (ours, exact):
            memory.add(keys, labels)
        for batch in (4, 40):
            assert_same(ours, exact, 1 + torch.randn(batch, DIM, generator=generator))


class Table:
    """Rows and the index that searches them."""

    def __init__(self, generator: torch.Generator, dim: int = 32, limit: int | None = None) -> None:
        self.rows = Rows(dim, torch.float32, torch.device("cpu"), limit=limit)
        self.index = RoundedIndex(limit)
        self._generator = generator

    def _drawn(self, count: int) -> dict[str, torch.Tensor]:
        keys = torch.randn(count, self.rows.keys.shape[1], generator=self._generator)
        values = torch.zeros(count, dtype=torch.int64)
        return {"keys": keys, "values": values, "sq_norms": keys.square().sum(1)}

    def add(self, count: int) -> None:
        self.rows.append(self._drawn(count))

    def overwrite(self, slots: list[int]) -> None:
        self.rows.overwrite(torch.tensor(slots), self._drawn(len(slots)))
        self.index.overwritten(torch.tensor(slots))

    def search(self) -> None:
        self.index.search(self.rows, torch.zeros(1, self.rows.keys.shape[1]), 1)

    def copied(self) -> torch.Tensor:
        """Searches; the offset of the copy, which is as the rows are."""
        self.search()
        assert self.index._copy is not None
        count, dim = self.rows.keys.shape
        values = self.index._copy.rows[:count, :dim].float() + self.index._copy.offset
        torch.testing.assert_close(values, self.rows.keys, rtol=0, atol=0.03)
        return self.index._copy.offset


copies = pytest.mark.skipif(
    int(torch.ops.clfast.simd_level()) < BFLOAT16_LEVEL,
    reason="this processor has no products of bfloat16, so that there is no copy",
)


@copies
def test_the_copy_follows_the_rows(generator: torch.Generator) -> None:
    table = Table(generator)
    table.add(10)
    first = table.copied()
    table.add(5)
    table.overwrite([0, 3, 12])  # the last is not in the copy yet
    table.overwrite([3, 9])
    assert table.copied() is first
    table.add(10)  # more than there is room for
    second = table.copied()
    assert second is not first
    table.overwrite(list(range(25)))
    assert table.copied() is second
    table.overwrite([24, 7])
    third = table.copied()  # more rows have gone by than there are
    assert third is not second
    table.index.rebuild(table.rows)
    assert table.copied() is not third


@copies
def test_what_was_overwritten_many_times_is_rounded_once(generator: torch.Generator) -> None:
    table = Table(generator, limit=20)
    table.add(20)
    offset = table.copied()
    for _ in range(100):
        table.overwrite([4, 5])
    assert len(table.index._stale) == 2
    assert table.copied() is offset


@copies
@pytest.mark.parametrize("remade", [True, False])
def test_a_failure_on_the_way_leaves_nothing_stale(
    remade: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Table(generator, limit=40)
    table.add(20)
    table.copied()
    table.add(5)
    table.overwrite(list(range(15)))
    table.copied()
    table.overwrite(list(range(20 if remade else 3)))
    table.add(2)
    whole, calls = RoundedKeys.of, []

    def fails(*arguments: Any, **keywords: Any) -> RoundedKeys:
        calls.append(arguments)
        if remade or len(calls) == 2:
            raise MemoryError
        return whole(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(RoundedKeys, "of", staticmethod(fails))
        with pytest.raises(MemoryError):
            table.search()
    table.copied()


@copies
def test_threads_that_search_first(generator: torch.Generator) -> None:
    memory, exact = KeyValueMemory(DIM, index="bf16"), KeyValueMemory(DIM)
    keys = torch.randn(9000, DIM, generator=generator)
    for each in (memory, exact):
        each.add(keys, torch.zeros(9000, dtype=torch.int64))
    queries = torch.randn(8, DIM, generator=generator)
    wanted = exact.search(queries, 20).indices
    for indices in from_threads(lambda: memory.search(queries, 20).indices, 6):
        assert torch.equal(indices, wanted)


@pytest.mark.parametrize("simd_level", SIMD_LEVELS, indirect=True)
@pytest.mark.parametrize("dim", [31, 32])
def test_no_copy_where_it_would_not_be_read(
    dim: int, simd_level: str, generator: torch.Generator
) -> None:
    table = Table(generator, dim)
    table.add(10)
    table.search()
    reads = SIMD_LEVELS.index(simd_level) >= BFLOAT16_LEVEL and dim == 32
    assert (table.index._copy is not None) == reads


def test_a_copy_made_in_inference_mode_can_be_changed_later(generator: torch.Generator) -> None:
    memory = KeyValueMemory(DIM, capacity=5000, index="bf16")
    exact = KeyValueMemory(DIM, capacity=5000)
    for inference in (True, False, True):
        keys = torch.randn(3000, DIM, generator=generator)
        for each in (memory, exact):
            each.add(keys, torch.zeros(3000, dtype=torch.int64))
        with torch.inference_mode(inference):
            assert_same(memory, exact, torch.randn(8, DIM, generator=generator))


def test_it_is_made_anew_where_a_memory_is(tmp_path: Path, generator: torch.Generator) -> None:
    exact = KeyValueMemory(DIM)
    memory = KeyValueMemory(DIM, index="bf16")
    keys = torch.randn(5000, DIM, generator=generator)
    for each in (memory, exact):
        each.add(keys, torch.zeros(5000, dtype=torch.int64))
    queries = torch.randn(9, DIM, generator=generator)
    assert_same(memory, exact, queries)
    memory.save(tmp_path / "memory.safetensors")
    assert_same(KeyValueMemory.from_file(tmp_path / "memory.safetensors"), exact, queries)
    assert_same(memory.clone(), exact, queries)
    memory.clear()
    exact.clear()
    for each in (memory, exact):
        each.add(-keys, torch.zeros(5000, dtype=torch.int64))
    assert_same(memory, exact, queries)
    memory.rebuild_index()
    assert_same(memory, exact, queries)
    assert memory.recall(queries, 5) == 1


def test_what_it_is_not_for() -> None:
    with pytest.raises(ValueError, match=r"KeyValueMemory: index 'bf16' is for keys of float32"):
        KeyValueMemory(4, index="bf16", dtype=torch.float64)
    with pytest.raises(ValueError, match=r"index_parameters are for an index of faiss, not 'bf16'"):
        KeyValueMemory(4, index="bf16", index_parameters="nprobe=3")
