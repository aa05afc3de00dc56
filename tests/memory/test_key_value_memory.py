"""KeyValueMemory: what is stored, counted and found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from memory_helpers import POLICIES, filled, same, snapshot, stream
from torch import Tensor

from clfast.memory import KeyValueMemory
from clfast.ops import knn


def brute_force(queries: Tensor, keys: Tensor) -> Tensor:
    """[B, M] squared distances in float64."""
    return (queries.double()[:, None] - keys.double()).square().sum(2)


def test_new_memory_is_empty() -> None:
    memory = KeyValueMemory(4)
    assert len(memory) == 0
    assert memory.keys.shape == (0, 4)
    assert memory.values.shape == memory.key_sq_norms.shape == (0,)
    assert memory.values.dtype == torch.int64
    assert memory.counts(3).tolist() == memory.seen(3).tolist() == [0, 0, 0]
    assert (memory.dim, memory.capacity, memory.dtype) == (4, None, torch.float32)
    assert memory.device == torch.device("cpu")


def test_repr_tells_kind_and_length() -> None:
    memory = filled(3, capacity=7, policy="reservoir", dtype=torch.bfloat16)
    assert repr(memory) == (
        "KeyValueMemory(dim=4, capacity=7, policy='reservoir', index='exact', dtype='bfloat16', "
        "index_parameters='', candidates=4, "
        "device='cpu', len=3)"
    )


@pytest.mark.parametrize("sizes", [[1] * 70, [0, 3, 0, 64, 1, 1, 1], [70]])
def test_unbounded_memory_keeps_all_rows_in_order(sizes: list[int]) -> None:
    keys, values = stream(70)
    memory = KeyValueMemory(4)
    for part_keys, part_values in zip(keys.split(sizes), values.split(sizes), strict=True):
        memory.add(part_keys, part_values)
    assert torch.equal(memory.keys, keys)
    assert torch.equal(memory.values, values)
    assert torch.equal(memory.key_sq_norms, keys.square().sum(1))


def test_growth_copies_each_row_a_bounded_number_of_times() -> None:
    memory = KeyValueMemory(1)
    moves, address = 0, memory.keys.data_ptr()
    for i in range(1000):
        memory.add(torch.full((1, 1), float(i)), torch.zeros(1, dtype=torch.int64))
        if memory.keys.data_ptr() != address:
            moves, address = moves + 1, memory.keys.data_ptr()
    assert moves <= 11
    assert memory.keys[:, 0].tolist() == list(range(1000))


def test_growth_stops_at_the_capacity() -> None:
    memory = filled(40, capacity=48)
    memory.add(*stream(5, seed=1))
    assert memory.keys.untyped_storage().nbytes() == 48 * 4 * 4


def test_a_view_taken_before_growth_keeps_its_rows() -> None:
    memory = filled(4)
    view, copied = memory.keys, memory.keys.clone()
    memory.add(*stream(100, seed=1))
    assert torch.equal(view, copied)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_keys_are_converted_and_norms_are_of_the_stored_keys(
    dtype: torch.dtype, given: torch.dtype
) -> None:
    keys, values = stream(9, 33, dtype=given)
    memory = KeyValueMemory(33, dtype=dtype)
    memory.add(keys, values)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert memory.keys.dtype == memory.dtype == dtype
    assert torch.equal(memory.keys, keys.to(dtype))
    assert memory.key_sq_norms.dtype == wide
    torch.testing.assert_close(memory.key_sq_norms, keys.to(dtype).to(wide).square().sum(1))


def test_norms_do_not_depend_on_strides_or_batches() -> None:
    keys, values = stream(20_000, 6)
    whole, parts, transposed = (KeyValueMemory(6) for _ in range(3))
    whole.add(keys, values)
    transposed.add(keys.t().contiguous().t(), values)
    for start in range(0, len(keys), 777):
        parts.add(keys[start : start + 777], values[start : start + 777])
    assert same(snapshot(whole), snapshot(parts))
    assert same(snapshot(whole), snapshot(transposed))


def test_replaced_rows_have_their_own_norm_and_label() -> None:
    keys, values = stream(200, classes=5)
    for policy in POLICIES:
        memory = KeyValueMemory(4, capacity=16, policy=policy)
        memory.add(keys, values)
        assert torch.equal(memory.key_sq_norms, memory.keys.square().sum(1))
        at = brute_force(memory.keys, keys).argmin(1)
        assert torch.equal(memory.keys, keys[at])
        assert torch.equal(memory.values, values[at])


def test_keys_with_a_graph_are_stored_as_constants() -> None:
    keys, values = stream(3)
    memory = KeyValueMemory(4)
    memory.add(keys.requires_grad_() * 2, values)
    assert not memory.keys.requires_grad
    assert not memory.key_sq_norms.requires_grad
    with torch.no_grad():
        keys.zero_()
    assert memory.keys.abs().sum() > 0


def test_memory_written_in_inference_mode_serves_outside() -> None:
    keys, values = stream(3)
    memory = KeyValueMemory(4, capacity=3)
    with torch.inference_mode():
        memory.add(keys, values)
        inside = memory.search(keys, 1).indices.tolist()
    memory.add(keys + 10, values)
    assert torch.equal(memory.keys, keys + 10)
    weight = torch.ones(4, requires_grad=True)
    (memory.keys @ weight).sum().backward()
    assert torch.equal(weight.grad, memory.keys.sum(0))  # type: ignore[arg-type]
    assert inside == [[0], [1], [2]]


def test_default_dtype_and_default_device_do_not_reach_the_memory() -> None:
    keys, values = stream(30)
    expected = filled(0, capacity=5, policy="class_balanced")
    expected.add(keys, values)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            memory = KeyValueMemory(4, capacity=5, policy="class_balanced")
            memory.add(keys, values)
            assert memory.seen(3).tolist() == values.bincount().tolist()
            copied = memory.clone()
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(snapshot(memory), snapshot(expected))
    assert same(snapshot(copied), snapshot(expected))


@pytest.mark.parametrize("index", ["exact", "bf16", "IVF4,Flat"])
def test_default_device_does_not_reach_the_search(index: str) -> None:
    if "," in index:
        pytest.importorskip("faiss")
    keys, queries = torch.randn(200, 40), torch.randn(3, 40)
    memory = KeyValueMemory(40, capacity=150, index=index)
    for part in keys.split(100):
        memory.add(part, torch.zeros(100, dtype=torch.int64))
        with torch.device("meta"):
            found = memory.search(queries, 5)
    assert found.indices.device.type == "cpu"
    if index != "IVF4,Flat":
        assert torch.equal(found.indices, knn(queries, memory.keys, 5).indices)


def test_search_finds_the_nearest_slots() -> None:
    memory = filled(50, 8)
    queries, _ = stream(7, 8, seed=1)
    found = memory.search(queries, 5)
    expected = brute_force(queries, memory.keys).sort(dim=1)
    assert torch.equal(found.indices, expected.indices[:, :5])
    torch.testing.assert_close(
        found.sq_distances.double(), expected.values[:, :5], rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_search_sees_rows_that_replaced_others(policy: str) -> None:
    memory = filled(100, 8, capacity=10, policy=policy)
    nearest = memory.search(memory.keys.clone(), 1)
    assert nearest.indices[:, 0].tolist() == list(range(10))
    assert nearest.sq_distances.abs().max() == 0


def test_search_gives_as_many_columns_as_there_are_rows() -> None:
    memory = filled(3)
    queries, _ = stream(2, seed=1)
    assert memory.search(queries, 200).indices.shape == (2, 3)
    assert memory.search(queries[:0], 2).indices.shape == (0, 2)
    assert memory.search(queries, np.int64(2)).sq_distances.shape == (2, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.bfloat16])
def test_distances_are_of_the_query_as_given_to_the_key_as_stored(
    dtype: torch.dtype, given: torch.dtype
) -> None:
    memory = filled(20, 8, dtype=dtype)
    queries, _ = stream(5, 8, seed=1, dtype=given)
    found = memory.search(queries, 20)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected = brute_force(queries.to(wide), memory.keys).sort(dim=1).values
    assert found.sq_distances.dtype == wide
    torch.testing.assert_close(found.sq_distances.double(), expected, rtol=1e-5, atol=1e-5)


def test_large_finite_queries_are_accepted() -> None:
    memory = filled(3)
    queries = torch.full((2, 4), 2e38)  # their sum overflows
    assert memory.search(queries, 1).indices.shape == (2, 1)


@pytest.mark.parametrize("policy", POLICIES)
def test_counts_are_of_the_stored_and_seen_of_all(policy: str) -> None:
    memory = KeyValueMemory(4, capacity=7, policy=policy)
    keys, values = stream(90, classes=4)
    for start in range(0, 90, 13):
        memory.add(keys[start : start + 13], values[start : start + 13])
    assert memory.counts(6).tolist() == memory.values.bincount(minlength=6).tolist()
    assert memory.seen(6).tolist() == values.bincount(minlength=6).tolist()
    assert memory.counts(6).dtype == memory.seen(6).dtype == torch.int64
    assert len(memory) == 7


def test_labels_may_be_as_large_as_int64() -> None:
    label = 2**62
    memory = KeyValueMemory(4, capacity=2, policy="class_balanced")
    memory.add(torch.ones(3, 4), torch.full((3,), label))
    assert memory.values.tolist() == [label, label]
    for method in (memory.counts, memory.seen):
        with pytest.raises(ValueError, match=f"has label {label}"):
            method(10)


@pytest.mark.parametrize("policy", POLICIES)
def test_clear_forgets_rows_and_counts(policy: str) -> None:
    memory = filled(50, capacity=8, policy=policy)
    view, copied = memory.keys, memory.keys.clone()
    memory.clear()
    assert len(memory) == 0
    assert memory.seen(3).tolist() == [0, 0, 0]
    keys, values = stream(8, seed=3)
    memory.add(keys, values)
    assert torch.equal(memory.keys, keys)
    assert torch.equal(view, copied)


def test_own_generator_has_seed_0_and_a_given_one_is_drawn_from() -> None:
    keys, values = stream(100)
    memories = [
        KeyValueMemory(4, capacity=5, policy="reservoir", generator=generator)
        for generator in (None, torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    ]
    for memory in memories:
        memory.add(keys, values)
    assert torch.equal(memories[0].keys, memories[1].keys)
    assert not torch.equal(memories[0].keys, memories[2].keys)


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    for policy in POLICIES:
        filled(100, capacity=5, policy=policy)
    assert torch.equal(torch.get_rng_state(), state)


def test_to_returns_the_memory_itself() -> None:
    memory = filled(3)
    before = snapshot(memory)
    assert memory.to("cpu") is memory
    assert same(snapshot(memory), before)
