"""Copies, clones, pickles and state dictionaries of KeyValueMemory."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from memory_helpers import POLICIES, filled, same, snapshot, stream

from clfast.memory import KeyValueMemory


def test_copies_of_a_model_share_the_memory() -> None:
    model = torch.nn.Linear(4, 3)
    model.memory = filled(3)  # type: ignore[assignment]
    assert copy.deepcopy(model).memory is model.memory
    assert copy.copy(model.memory) is model.memory


@pytest.mark.parametrize("policy", POLICIES)
def test_clone_is_equal_and_independent(policy: str) -> None:
    memory = filled(50, capacity=8, policy=policy)
    cloned = memory.clone()
    assert same(snapshot(cloned), snapshot(memory))
    before = snapshot(memory)
    more = stream(50, seed=1)
    cloned.add(*more)
    assert same(snapshot(memory), before)
    memory.add(*more)
    assert same(snapshot(cloned), snapshot(memory))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pickle_goes_on_bit_for_bit(policy: str, dtype: torch.dtype) -> None:
    memory = filled(50, capacity=8, policy=policy, dtype=dtype)
    copied = pickle.loads(pickle.dumps(memory))
    assert same(snapshot(copied), snapshot(memory))
    more = stream(50, seed=1)
    memory.add(*more)
    copied.add(*more)
    assert same(snapshot(copied), snapshot(memory))


def test_pickle_holds_the_rows_and_no_spare_room() -> None:
    memory = filled(0, 64)
    keys, values = stream(130, 64)
    for row in range(130):
        memory.add(keys[row : row + 1], values[row : row + 1])
    assert memory.keys.untyped_storage().nbytes() == 256 * 64 * 4
    assert len(pickle.dumps(memory)) < 150 * 64 * 4 + 10_000


def test_state_dict_is_a_snapshot_that_torch_save_takes() -> None:
    memory = filled(50, capacity=8, policy="class_balanced")
    before = snapshot(memory)
    file = io.BytesIO()
    torch.save(memory.state_dict(), file)
    state = memory.state_dict()
    memory.add(*stream(50, seed=1))
    memory.load_state_dict(state)
    assert same(snapshot(memory), before)
    file.seek(0)
    fresh = KeyValueMemory(4, capacity=8, policy="class_balanced")
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert same(snapshot(fresh), before)


def test_loading_sets_the_generator_that_was_given() -> None:
    generator = torch.Generator().manual_seed(5)
    memory = KeyValueMemory(4, capacity=5, policy="reservoir", generator=generator)
    memory.load_state_dict(filled(20, capacity=5, policy="reservoir").state_dict())
    expected = filled(20, capacity=5, policy="reservoir")
    more = stream(60, seed=1)
    memory.add(*more)
    expected.add(*more)
    assert same(snapshot(memory), snapshot(expected))
    assert torch.equal(generator.get_state(), expected.state_dict()["generator"])
