"""Which rows of a stream a full memory holds."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_helpers import (
    POLICIES,
    algorithm_r,
    chi_square,
    numbered,
    same,
    snapshot,
    uniforms,
)
from torch import Tensor

from clfast.memory import KeyValueMemory

labels_of_a_stream = st.lists(st.integers(0, 4), max_size=60)
skewed_labels = st.lists(st.sampled_from([0, 0, 0, 0, 0, 1, 1, 2, 7]), max_size=80)
capacities = st.integers(1, 12)


def run(
    labels: list[int], policy: str, capacity: int, cuts: list[int] | None = None, seed: int = 0
) -> KeyValueMemory:
    """The memory after a stream that was cut into batches at `cuts`."""
    values = torch.tensor(labels, dtype=torch.int64)
    keys = numbered(values)
    generator = torch.Generator().manual_seed(seed)
    memory = KeyValueMemory(1, capacity=capacity, policy=policy, generator=generator)
    for start, stop in pairwise([0, *sorted(cuts or []), len(labels)]):
        memory.add(keys[start:stop], values[start:stop])
    return memory


def stored_rows(memory: KeyValueMemory) -> list[int]:
    """Position in the stream of the row in each slot."""
    return [int(key) for key in memory.keys[:, 0]]


def cbrs(labels: list[int], capacity: int) -> list[int]:
    """Class-balancing reservoir sampling with everything counted anew for every row."""
    slots = list(range(min(capacity, len(labels))))
    full: set[int] = set()
    for t, u in enumerate(uniforms(max(0, len(labels) - capacity)), start=capacity):
        sizes = Counter(labels[row] for row in slots)
        largest = {label for label in sizes if sizes[label] == max(sizes.values())}
        full |= largest
        label = labels[t]
        if label in full:
            own = [slot for slot in range(capacity) if labels[slots[slot]] == label]
            at = int(u * Counter(labels[: t + 1])[label])
            if at < len(own):
                slots[own[at]] = t
        else:
            victims = sorted(
                (labels[slots[slot]], slot)
                for slot in range(capacity)
                if labels[slots[slot]] in largest
            )
            slots[victims[int(u * len(victims))][1]] = t
    return slots


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None)
@given(data=st.data(), labels=labels_of_a_stream, capacity=capacities)
def test_batches_and_single_rows_leave_the_same_memory(
    policy: str, data: st.DataObject, labels: list[int], capacity: int
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(labels)), max_size=8))
    batched = run(labels, policy, capacity, cuts)
    single = run(labels, policy, capacity, list(range(len(labels))))
    assert same(snapshot(batched), snapshot(single))


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None)
@given(data=st.data(), labels=skewed_labels, capacity=capacities)
def test_a_loaded_memory_goes_on_as_the_saved_one(
    policy: str, data: st.DataObject, labels: list[int], capacity: int
) -> None:
    cut = data.draw(st.integers(0, len(labels)))
    values = torch.tensor(labels, dtype=torch.int64)
    keys = numbered(values)
    first = run(labels[:cut], policy, capacity)
    second = KeyValueMemory(1, capacity=capacity, policy=policy)
    second.load_state_dict(first.state_dict())
    for memory in (first, second):
        memory.add(keys[cut:], values[cut:])
    assert same(snapshot(first), snapshot(second))


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None)
@given(labels=skewed_labels, capacity=capacities)
def test_rows_are_distinct_and_keep_their_labels(
    policy: str, labels: list[int], capacity: int
) -> None:
    memory = run(labels, policy, capacity)
    rows = stored_rows(memory)
    assert len(set(rows)) == len(rows) == min(len(labels), capacity)
    assert memory.values.tolist() == [labels[row] for row in rows]
    assert memory.seen(8).tolist() == [labels.count(label) for label in range(8)]


@settings(deadline=None)
@given(labels=labels_of_a_stream, capacity=capacities)
def test_ring_holds_the_newest_rows_at_their_position_modulo_capacity(
    labels: list[int], capacity: int
) -> None:
    rows = stored_rows(run(labels, "ring", capacity))
    newest = range(max(0, len(labels) - capacity), len(labels))
    assert sorted(rows) == list(newest)
    assert all(row % capacity == slot for slot, row in enumerate(rows))


@settings(deadline=None)
@given(labels=labels_of_a_stream, capacity=capacities)
def test_reservoir_is_algorithm_r(labels: list[int], capacity: int) -> None:
    assert stored_rows(run(labels, "reservoir", capacity)) == algorithm_r(len(labels), capacity)


@settings(deadline=None)
@given(labels=st.one_of(labels_of_a_stream, skewed_labels), capacity=capacities)
def test_class_balanced_is_cbrs(labels: list[int], capacity: int) -> None:
    assert stored_rows(run(labels, "class_balanced", capacity)) == cbrs(labels, capacity)


@settings(deadline=None)
@given(labels=skewed_labels, capacity=capacities)
def test_class_balanced_keeps_every_row_of_a_class_that_was_never_largest(
    labels: list[int], capacity: int
) -> None:
    memory = run(labels, "class_balanced", capacity)
    if len(labels) <= capacity:
        return
    full = set(memory.state_dict()["full_classes"].tolist())
    assert full
    for label in set(labels) - full:
        assert int(memory.counts(8)[label]) == labels.count(label)


def test_class_balanced_shares_the_memory_evenly() -> None:
    values = torch.tensor([0] * 1000 + [1] * 100 + [2] * 20 + [3] * 5)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    memory = run(values[order].tolist(), "class_balanced", 100)
    most, second, *rare = memory.counts(4).tolist()
    assert rare == [20, 5]
    assert abs(most - second) <= 1


def test_class_balanced_serves_classes_that_come_one_after_the_other() -> None:
    labels = [label for label in range(10) for _ in range(500)]
    memory = run(labels, "class_balanced", 95, cuts=list(range(0, 5000, 64)))
    assert sorted(memory.counts(10).tolist()) == [9] * 5 + [10] * 5


def test_class_balanced_with_one_class_is_a_reservoir() -> None:
    labels = [3] * 400
    balanced, reservoir = (run(labels, policy, 20) for policy in ("class_balanced", "reservoir"))
    assert stored_rows(balanced) == stored_rows(reservoir)


def test_class_balanced_with_more_classes_than_slots_holds_the_newest_classes_too() -> None:
    memory = run(list(range(30)), "class_balanced", 4)
    assert len(set(memory.values.tolist())) == 4
    assert 29 in memory.values.tolist()
    again = memory.values.clone()
    lost = next(label for label in range(30) if label not in again.tolist())
    memory.add(torch.zeros(1, 1), torch.tensor([lost]))
    assert torch.equal(memory.values, again)


def inclusions(policy: str, labels: list[int], capacity: int, trials: int) -> Tensor:
    """[rows] in how many trials each row of the stream was stored at the end."""
    counts = torch.zeros(len(labels))
    for seed in range(trials):
        counts[stored_rows(run(labels, policy, capacity, cuts=[7, 11, 30], seed=seed))] += 1
    return counts


def test_reservoir_stores_every_row_with_the_same_probability() -> None:
    counts = inclusions("reservoir", [0] * 50, 10, trials=1500)
    # The mean of 50 nearly independent chi-squares has a standard deviation of 0.2.
    assert chi_square(counts, 10 / 50, 1500) < 1.8
    assert counts.sum() == 1500 * 10


def test_class_balanced_stores_rows_of_a_full_class_with_the_same_probability() -> None:
    labels = [0, 1] * 30
    counts = inclusions("class_balanced", labels, 10, trials=1500)
    assert counts[0::2].sum() + counts[1::2].sum() == 1500 * 10
    for label in (0, 1):
        own = counts[label::2]
        assert chi_square(own, float(own.sum()) / 30 / 1500, 1500) < 1.8


def test_streams_of_different_seeds_differ() -> None:
    labels = [0, 1, 2] * 30
    for policy in ("reservoir", "class_balanced"):
        chosen = {tuple(stored_rows(run(labels, policy, 6, seed=seed))) for seed in range(5)}
        assert len(chosen) == 5


def test_unbounded_memory_ignores_the_policy() -> None:
    values = torch.arange(40) % 3
    for policy in POLICIES:
        memory = KeyValueMemory(1, policy=policy)
        memory.add(numbered(values), values)
        assert stored_rows(memory) == list(range(40))
