"""Memories on a GPU; named after its ops' family, so that `make gpu-check` finds it."""

from __future__ import annotations

import pickle

import pytest
import torch
from memory_helpers import POLICIES, stream

from clfast.memory import KeyValueMemory


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("policy", POLICIES)
def test_rows_on_a_gpu_are_the_same(policy: str) -> None:
    keys, values = stream(90)
    on_cpu = KeyValueMemory(4, capacity=8, policy=policy)
    on_gpu = KeyValueMemory(4, capacity=8, policy=policy, device="cuda")
    on_cpu.add(keys, values)
    on_gpu.add(keys.cuda(), values.cuda())
    assert on_gpu.keys.device.type == "cuda"
    assert torch.equal(on_gpu.keys.cpu(), on_cpu.keys)
    assert torch.equal(on_gpu.values.cpu(), on_cpu.values)
    assert torch.equal(on_gpu.seen(3).cpu(), on_cpu.seen(3))
    assert torch.equal(on_gpu.counts(3).cpu(), on_cpu.counts(3))
    assert pickle.loads(pickle.dumps(on_gpu)).device == on_gpu.device
    nearest = on_gpu.search(on_gpu.keys.clone(), 1).indices[:, 0]
    assert nearest.tolist() == list(range(8))
    assert torch.equal(on_gpu.to("cpu").keys, on_cpu.keys)
