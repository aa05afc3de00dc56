"""Replay buffers on a GPU; named after its ops' family, so that `make gpu-check` finds it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from memory_helpers import POLICIES, same
from replay_helpers import samples
from torch import Tensor

from clfast.memory import ReplayBuffer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def on_gpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cuda() for name, tensor in tensors.items()}


@contextmanager
def without_waiting() -> Iterator[None]:
    """What waits for the GPU in the block raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("given_on", ["cpu", "cuda"])
def test_rows_on_a_gpu_are_the_same(policy: str, given_on: str) -> None:
    ours = ReplayBuffer(8, policy=policy, device="cuda")
    expected = ReplayBuffer(8, policy=policy)
    for seed in range(4):
        given = samples(13, seed)
        expected.add(**given)
        ours.add(**{name: tensor.to(given_on) for name, tensor in given.items()})
    assert all(rows.device == ours.device for rows in ours.rows.values())
    assert torch.equal(ours.counts(3).cpu(), expected.counts(3))
    mask = expected.rows["task"] > 1
    for where in (None, mask):
        drawn = ours.sample(3, where=None if where is None else where.cuda())
        batch = expected.sample(3, where=where)
        assert torch.equal(drawn.slots.cpu(), batch.slots)
        assert same({name: rows.cpu() for name, rows in drawn.items()}, batch)
        ours.update(drawn.slots, x=-drawn["x"])
        expected.update(batch.slots, x=-batch["x"])
    assert pickle.loads(pickle.dumps(ours)).device == ours.device
    assert pickle.loads(pickle.dumps(ReplayBuffer(3, device="cuda"))).device == ours.device
    assert same(ours.to("cpu").state_dict(), expected.state_dict())


@pytest.mark.parametrize("policy", ["reservoir", "ring"])
def test_neither_adding_nor_sampling_waits_for_the_gpu(policy: str) -> None:
    buffer = ReplayBuffer(20, policy=policy, device="cuda")
    given = on_gpu(samples(16))
    for _ in range(3):
        with without_waiting():
            buffer.add(**given)
            buffer.sample(5)


def test_a_buffer_on_the_cpu_takes_rows_from_a_gpu() -> None:
    buffer, expected = ReplayBuffer(8, policy="ring"), ReplayBuffer(8, policy="ring")
    for seed in range(2):
        buffer.add(**on_gpu(samples(13, seed)))
        expected.add(**samples(13, seed))
    assert same(buffer.state_dict(), expected.state_dict())
