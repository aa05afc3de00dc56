"""index="bf16": whatever happens to the memory, the neighbours are those of index="exact"."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clfast.memory import KeyValueMemory
from clfast.memory.index import RoundedIndex
from clfast.memory.rows import Rows

BFLOAT16_LEVEL = 3
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


def test_the_copy_follows_the_rows(generator: torch.Generator) -> None:
    if int(torch.ops.clfast.simd_level()) < BFLOAT16_LEVEL:
        pytest.skip("this processor has no products of bfloat16, so that there is no copy")
    rows = Rows(8, torch.float32, torch.device("cpu"), limit=None)
    index = RoundedIndex(limit=None)

    def add(count: int) -> None:
        keys = torch.randn(count, 8, generator=generator)
        rows.append(keys, torch.zeros(count, dtype=torch.int64), keys.square().sum(1))

    def overwrite(slots: list[int]) -> None:
        at = torch.tensor(slots)
        keys = torch.randn(len(at), 8, generator=generator)
        rows.overwrite(at, keys, torch.ones(len(at), dtype=torch.int64), keys.square().sum(1))
        index.overwritten(at)

    def copied() -> torch.Tensor:
        index.search(rows, torch.zeros(1, 8), 1)
        assert index._copy is not None
        values = index._copy.rows[: len(rows), :8].float() + index._copy.offset
        torch.testing.assert_close(values, rows.keys, rtol=0, atol=0.03)
        return index._copy.offset

    add(10)
    first = copied()
    add(5)
    overwrite([0, 3, 12])  # the last is not in the copy yet
    overwrite([3, 9])
    assert copied() is first
    add(10)  # more than there is room for
    second = copied()
    assert second is not first
    for _ in range(2):
        overwrite(list(range(20)))
        assert copied() is second
    overwrite([24])  # more rows have gone by than there are
    third = copied()
    assert third is not second
    index.rebuild(rows)
    assert copied() is not third


def test_no_copy_where_it_would_not_be_read(simd_level: str, generator: torch.Generator) -> None:
    index = RoundedIndex(limit=None)
    rows = Rows(8, torch.float32, torch.device("cpu"), limit=None)
    keys = torch.randn(10, 8, generator=generator)
    rows.append(keys, torch.zeros(10, dtype=torch.int64), keys.square().sum(1))
    index.search(rows, torch.zeros(1, 8), 1)
    assert (index._copy is not None) == (simd_level == "avx512_bf16")


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
