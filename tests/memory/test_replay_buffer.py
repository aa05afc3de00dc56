"""ReplayBuffer: what is stored, and what is drawn."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_helpers import POLICIES, algorithm_r, chi_square, numbered, same
from replay_helpers import filled, samples, unchanged
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from clfast.memory import KeyValueMemory, ReplayBatch, ReplayBuffer

labels_of_a_stream = st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 7]), max_size=60)
capacities = st.integers(1, 12)
DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


def run(
    labels: list[int], policy: str, capacity: int, cuts: list[int] | None = None, seed: int = 0
) -> ReplayBuffer:
    """The buffer after a stream that was cut into batches at `cuts`; `row` is the place in it."""
    generator = torch.Generator().manual_seed(seed)
    buffer = ReplayBuffer(capacity, policy=policy, generator=generator)
    y, row = torch.tensor(labels, dtype=torch.int64), torch.arange(len(labels))
    for start, stop in pairwise([0, *sorted(cuts or []), len(labels)]):
        buffer.add(y=y[start:stop], row=row[start:stop])
    return buffer


def stored_rows(buffer: ReplayBuffer) -> list[int]:
    return buffer.rows["row"].tolist() if len(buffer) else []


def test_new_buffer_is_empty() -> None:
    buffer = ReplayBuffer(5)
    assert (len(buffer), buffer.capacity, buffer.seen) == (0, 5, 0)
    assert buffer.rows == {}
    assert buffer.device == torch.device("cpu")
    assert buffer.counts(3).tolist() == [0, 0, 0]


def test_repr_tells_kind_and_length() -> None:
    assert repr(filled(3, policy="ring")) == (
        "ReplayBuffer(capacity=8, policy='ring', device='cpu', len=3)"
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 4), (0,)])
def test_rows_keep_their_dtype_and_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    given = torch.randint(2, (10, *shape), generator=generator).to(dtype)
    buffer = ReplayBuffer(7, policy="ring")
    for part in given.split(4):
        buffer.add(whatever=part, row=torch.arange(len(part)))
    expected = given[[7, 8, 9, 3, 4, 5, 6]]
    assert buffer.rows["whatever"].dtype == dtype
    assert torch.equal(buffer.rows["whatever"], expected)
    batch = buffer.sample(7)
    assert batch["whatever"].dtype == dtype
    assert torch.equal(batch["whatever"], expected[batch.slots])


def test_the_tensors_of_a_sample_stay_together() -> None:
    for policy in POLICIES:
        given = samples(60)
        buffer = ReplayBuffer(16, policy=policy)
        for start in range(0, 60, 7):
            buffer.add(**{name: tensor[start : start + 7] for name, tensor in given.items()})
        at = [int((given["x"] == x).all(-1).all(-1).nonzero()) for x in buffer.rows["x"]]
        assert len(set(at)) == 16
        for name, tensor in given.items():
            assert torch.equal(buffer.rows[name], tensor[at])


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None)
@given(data=st.data(), labels=labels_of_a_stream, capacity=capacities)
def test_batches_and_single_rows_leave_the_same_buffer(
    policy: str, data: st.DataObject, labels: list[int], capacity: int
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(labels)), max_size=8))
    batched = run(labels, policy, capacity, cuts)
    single = run(labels, policy, capacity, list(range(len(labels))))
    assert same(batched.state_dict(), single.state_dict())


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None)
@given(labels=labels_of_a_stream, capacity=capacities)
def test_slots_are_those_of_a_key_value_memory(
    policy: str, labels: list[int], capacity: int
) -> None:
    memory = KeyValueMemory(1, capacity=capacity, policy=policy)
    values = torch.tensor(labels, dtype=torch.int64)
    memory.add(numbered(values), values)
    buffer = run(labels, policy, capacity)
    assert stored_rows(buffer) == [int(key) for key in memory.keys[:, 0]]
    assert buffer.counts(8).tolist() == memory.counts(8).tolist()
    assert buffer.seen == len(labels)


@settings(deadline=None)
@given(count=st.integers(0, 60), capacity=capacities, seed=st.integers(0, 5))
def test_reservoir_is_algorithm_r(count: int, capacity: int, seed: int) -> None:
    buffer = run([0] * count, "reservoir", capacity, cuts=[count // 3], seed=seed)
    assert stored_rows(buffer) == algorithm_r(count, capacity, seed)


def test_reservoir_stores_every_row_with_the_same_probability() -> None:
    trials, ours, textbook = 1500, torch.zeros(50), torch.zeros(50)
    for seed in range(trials):
        ours[stored_rows(run([0] * 50, "reservoir", 10, [7, 11, 30], seed))] += 1
        textbook[algorithm_r(50, 10, seed + trials)] += 1
    # The mean of 50 nearly independent chi-squares has a standard deviation of 0.2.
    assert chi_square(ours, 10 / 50, trials) < 1.8
    # Other draws: the difference of two counts has twice the variance of one.
    assert chi_square((ours - textbook) / 2**0.5 + trials * 10 / 50, 10 / 50, trials) < 1.8
    assert ours.sum() == textbook.sum() == trials * 10


def test_class_balanced_shares_the_buffer_evenly() -> None:
    labels = torch.tensor([0] * 1000 + [1] * 100 + [2] * 20 + [3] * 5)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    buffer = run(labels[order].tolist(), "class_balanced", 100, cuts=list(range(0, 1000, 64)))
    most, second, *rare = buffer.counts(4).tolist()
    assert rare == [20, 5]
    assert abs(most - second) <= 1


def test_ring_holds_the_newest_rows_at_their_position_modulo_capacity() -> None:
    buffer = run([0] * 23, "ring", 10, cuts=[4, 9, 12])
    assert stored_rows(buffer) == [20, 21, 22, 13, 14, 15, 16, 17, 18, 19]


@pytest.mark.parametrize("policy", ["reservoir", "ring"])
def test_only_class_balanced_needs_labels(policy: str) -> None:
    buffer = ReplayBuffer(4, policy=policy)
    for _ in range(3):
        buffer.add(x=torch.ones(3, 2))
    assert (len(buffer), buffer.seen) == (4, 9)
    buffer.clear()
    buffer.add(x=torch.ones(9, 2), y=torch.full((9, 3), 1 / 3))  # soft labels
    assert buffer.rows["y"].shape == (4, 3)


def test_storage_doubles_up_to_the_capacity() -> None:
    buffer = ReplayBuffer(48)
    for rows, allocated in ((1, 1), (2, 3), (3, 6), (30, 36), (5, 48), (50, 48)):
        buffer.add(x=torch.ones(rows, 5))
        assert buffer.rows["x"].untyped_storage().nbytes() == allocated * 5 * 4
    assert ReplayBuffer(2**62).rows == {}


def test_rows_are_constants() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    buffer = ReplayBuffer(4)
    for _ in range(3):
        buffer.add(x=x * 2)
        assert not buffer.rows["x"].requires_grad
        assert not buffer.sample(2)["x"].requires_grad
    with torch.no_grad():
        x.zero_()
    assert torch.equal(buffer.rows["x"], torch.full((4, 2), 2.0))


def test_rows_of_any_strides_are_stored() -> None:
    x = torch.arange(24.0).reshape(4, 6).t()
    buffer = ReplayBuffer(5, policy="ring")
    buffer.add(x=x, one=torch.ones(1).expand(6))
    assert torch.equal(buffer.rows["x"], x[[5, 1, 2, 3, 4]])
    assert buffer.rows["one"].is_contiguous()


def test_rows_of_the_buffer_itself_can_be_added() -> None:
    buffer = run([0] * 5, "ring", 7)
    buffer.add(**buffer.rows)
    assert stored_rows(buffer) == [2, 3, 4, 3, 4, 0, 1]


def test_no_rows_change_nothing() -> None:
    nothing = samples(0)
    for policy in POLICIES:
        buffer = ReplayBuffer(8, policy=policy)
        buffer.add(**nothing)
        assert (len(buffer), buffer.seen) == (0, 0)
        buffer.add(**samples(20))
        with unchanged(buffer):
            buffer.add(**nothing)


def test_an_empty_buffer_takes_other_tensors() -> None:
    buffer = ReplayBuffer(4)
    buffer.add(x=torch.ones(0, 2))
    buffer.add(logits=torch.ones(6, 3))
    view = buffer.rows["logits"]
    buffer.clear()
    assert (len(buffer), buffer.seen, buffer.rows) == (0, 0, {})
    buffer.add(x=torch.zeros(2, 5).half())
    assert buffer.rows["x"].shape == (2, 5)
    assert torch.equal(view, torch.ones(4, 3))


def test_counts_are_of_what_is_stored() -> None:
    for policy in POLICIES:
        buffer = filled(90, 7, policy=policy)
        assert buffer.counts(5).tolist() == buffer.rows["y"].bincount(minlength=5).tolist()
        assert (len(buffer), buffer.seen) == (7, 90)


# ---- Sampling ----


@settings(deadline=None)
@given(size=st.integers(1, 20), n=st.integers(0, 25), seed=st.integers(0, 3))
def test_a_sample_is_of_different_rows(size: int, n: int, seed: int) -> None:
    buffer = ReplayBuffer(20)
    buffer.add(**samples(size))
    batch = buffer.sample(n, torch.Generator().manual_seed(seed))
    assert len(set(batch.slots.tolist())) == len(batch.slots) == min(n, size)
    assert list(batch) == ["x", "y", "task"]
    for name, rows in batch.items():
        assert torch.equal(rows, buffer.rows[name][batch.slots])


def test_every_sequence_of_rows_is_drawn_with_the_same_probability() -> None:
    buffer = filled(5)
    drawn = Counter(tuple(buffer.sample(3).slots.tolist()) for _ in range(6000))
    assert drawn.keys() == set(permutations(range(5), 3))
    counts = torch.tensor(list(drawn.values())).double()
    # Of 59 degrees of freedom: 99.99 % are below 108.
    assert float(((counts - 100).square() / 100).sum()) < 108


def test_rows_of_a_large_buffer_are_drawn_with_the_same_probability() -> None:
    buffer = ReplayBuffer(1000)
    buffer.add(row=torch.arange(1000))
    drawn = torch.cat([buffer.sample(40)["row"] for _ in range(1000)])
    counts = drawn.bincount(minlength=1000).double()
    # The mean of 1000 chi-squares has a standard deviation of 0.045.
    assert abs(chi_square(counts, 0.04, 1000) - 1) < 0.18


def test_a_mask_says_what_is_drawn_from() -> None:
    buffer = filled(50, 20)
    earlier = buffer.rows["task"] < 3
    among = earlier.nonzero()[:, 0].tolist()
    assert 2 < len(among) < 18
    counts: Counter[int] = Counter()
    for _ in range(3000):
        batch = buffer.sample(2, where=earlier)
        assert bool((batch["task"] < 3).all())
        counts.update(batch.slots.tolist())
    assert sorted(counts) == among
    share = torch.tensor([counts[slot] for slot in among]).double()
    assert chi_square(share, 2 / len(among), 3000) < 2.5
    assert sorted(buffer.sample(100, where=earlier).slots.tolist()) == among


def test_slots_of_a_masked_sample_are_those_of_the_buffer() -> None:
    buffer = filled(50, 20)
    batch = buffer.sample(3, where=buffer.rows["task"] == 4)
    for name, rows in batch.items():
        assert torch.equal(rows, buffer.rows[name][batch.slots])


def test_a_mask_of_all_slots_changes_nothing() -> None:
    first, second = filled(), filled()
    batches = first.sample(5), second.sample(5, where=torch.ones(8, dtype=torch.bool))
    assert torch.equal(batches[0].slots, batches[1].slots)


def test_nothing_to_draw_from_gives_no_rows() -> None:
    buffer = filled()
    nowhere = torch.zeros(8, dtype=torch.bool)
    for batch in (buffer.sample(4, where=nowhere), buffer.sample(0)):
        assert batch.slots.shape == (0,)
        assert batch.slots.dtype == torch.int64
        assert {name: rows.shape for name, rows in batch.items()} == {
            "x": (0, 2, 3),
            "y": (0,),
            "task": (0,),
        }
        assert batch["task"].dtype == torch.uint8


def test_a_generator_that_is_passed_is_drawn_from_instead() -> None:
    buffer = filled()
    with unchanged(buffer):
        drawn = [
            buffer.sample(np.int64(5), torch.Generator().manual_seed(seed)).slots.tolist()
            for seed in (1, 1, 2)
        ]
    assert drawn[0] == drawn[1] != drawn[2]
    before = buffer.state_dict()
    assert filled().sample(5).slots.tolist() == buffer.sample(5).slots.tolist()
    assert not same(before, buffer.state_dict())


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    for policy in POLICIES:
        filled(policy=policy).sample(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sample_is_a_copy() -> None:
    buffer = filled()
    with unchanged(buffer):
        batch = buffer.sample(8, torch.Generator())
        for rows in batch.values():
            rows.zero_()


def test_a_batch_is_a_dictionary_that_can_be_copied() -> None:
    batch = filled().sample(3)
    assert isinstance(batch, dict)
    copied: ReplayBatch
    for copied in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert same(copied, batch)
        assert torch.equal(copied.slots, batch.slots)


# ---- Writing back ----


def test_update_writes_into_slots() -> None:
    buffer = filled(50, 20, policy="class_balanced")
    before = {name: rows.clone() for name, rows in buffer.rows.items()}
    batch = buffer.sample(6, where=buffer.rows["task"] < 4)
    x = torch.randn(6, 2, 3, requires_grad=True)
    buffer.update(batch.slots, x=x)
    others = torch.ones(20, dtype=torch.bool)
    others[batch.slots] = False
    assert torch.equal(buffer.rows["x"][batch.slots], x.detach())
    assert not buffer.rows["x"].requires_grad
    assert torch.equal(buffer.rows["x"][others], before["x"][others])
    assert torch.equal(buffer.rows["y"], before["y"])
    with unchanged(buffer):
        buffer.update(batch.slots[:0], x=x[:0])


def test_tensors_may_have_any_name() -> None:
    buffer = ReplayBuffer(3)
    names = ("self", "slots", "where", "seen", "generator", "format", "rows.x", "a b")
    for _ in range(2):
        buffer.add(**{name: torch.full((2,), i) for i, name in enumerate(names)})
    buffer.update(torch.tensor([1]), **{name: torch.tensor([9]) for name in names})
    fresh = ReplayBuffer(3)
    fresh.load_state_dict(buffer.state_dict())
    assert {name: rows.tolist() for name, rows in fresh.rows.items()} == {
        name: [i, 9, i] for i, name in enumerate(names)
    }


# ---- Around it ----


class Counted(TorchDispatchMode):
    """Counts operators by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("policy", ["reservoir", "ring"])
def test_work_does_not_grow_with_the_batch(policy: str) -> None:
    buffer = filled(100, 100, policy=policy)
    calls = []
    for n in (4, 40):
        with Counted() as added:
            buffer.add(**samples(n))
        with Counted() as drawn:
            buffer.sample(n)
        assert added.calls["index_copy_"] == drawn.calls["index_select"] == 3
        calls.append((added.calls, drawn.calls))
    assert calls[0] == calls[1]


def test_buffer_written_in_inference_mode_serves_outside() -> None:
    buffer = ReplayBuffer(3, policy="ring")
    with torch.inference_mode():
        buffer.add(x=torch.ones(2, 4))
        inside = buffer.sample(2)["x"].clone()
    buffer.add(x=torch.full((3, 4), 2.0))
    weight = torch.ones(4, requires_grad=True)
    (buffer.sample(3)["x"] @ weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((4,), 6.0))
    assert torch.equal(inside, torch.ones(2, 4))


def test_default_device_does_not_reach_the_buffer() -> None:
    given = samples(50)
    for policy in POLICIES:
        expected = filled(policy=policy)
        with torch.device("meta"):
            buffer = ReplayBuffer(8, policy=policy)
            buffer.add(**given)
            batch = buffer.sample(4, where=buffer.rows["task"] < 5)
            buffer.update(batch.slots, x=batch["x"])
            copied = buffer.clone()
        assert torch.equal(batch.slots, expected.sample(4).slots)
        assert same(copied.state_dict(), expected.state_dict())


def test_to_returns_the_buffer_itself() -> None:
    buffer = filled()
    with unchanged(buffer):
        assert buffer.to("cpu") is buffer


def test_rows_taken_before_growth_keep_their_content() -> None:
    buffer = filled(4, 100)
    view: Tensor = buffer.rows["x"]
    copied = view.clone()
    buffer.add(**samples(90, seed=1))
    assert torch.equal(view, copied)
