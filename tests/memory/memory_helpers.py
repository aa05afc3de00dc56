"""What several tests of the memory share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from clfast.memory import KeyValueMemory

POLICIES = ("ring", "reservoir", "class_balanced")


def stream(
    n: int, dim: int = 4, classes: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Random keys and labels."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(n, dim, generator=generator).to(dtype)
    return keys, torch.randint(classes, (n,), generator=generator)


def numbered(labels: Tensor) -> Tensor:
    """Keys [n, 1] that tell the position in the stream, exact in float32."""
    return torch.arange(len(labels), dtype=torch.float32)[:, None]


def filled(n: int = 10, dim: int = 4, **options: Any) -> KeyValueMemory:
    """A memory after a stream of n rows."""
    memory = KeyValueMemory(dim, **options)
    memory.add(*stream(n, dim))
    return memory


def snapshot(memory: KeyValueMemory) -> dict[str, Any]:
    """Copies of all that can be seen of a memory."""
    return {**memory.state_dict(), "key_sq_norms": memory.key_sq_norms.clone()}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Equal bit for bit, dtypes included."""
    return first.keys() == second.keys() and all(
        entry.dtype == second[name].dtype and torch.equal(entry, second[name])
        if isinstance(entry, Tensor)
        else entry == second[name]
        for name, entry in first.items()
    )


@contextmanager
def unchanged(memory: KeyValueMemory) -> Iterator[None]:
    """After the block, the memory is bit for bit as before, and still takes rows."""
    before = snapshot(memory)
    yield
    assert same(before, snapshot(memory))


def from_threads(search: Callable[[], Tensor], count: int) -> list[Tensor]:
    """What ``search`` returns to each of several threads that call it together."""
    found: list[Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(search())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == count
    return found


def uniforms(n: int, seed: int = 0) -> list[float]:
    """What the policies draw: one number for each row after the memory is full."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, dtype=torch.float64, generator=generator).tolist()


def algorithm_r(rows: int, capacity: int, seed: int = 0) -> list[int]:
    """The row that each slot holds: reservoir sampling, row by row, as Vitter writes it."""
    slots = list(range(min(capacity, rows)))
    draws = uniforms(max(0, rows - capacity), seed)
    for t, u in enumerate(draws, start=capacity + 1):
        j = int(u * t)
        if j < capacity:
            slots[j] = t - 1
    return slots


def chi_square(counts: Tensor, probability: float, trials: int) -> float:
    """Of Bernoulli counts against a common probability, per row: 1 on average."""
    variance = trials * probability * (1 - probability)
    return float((counts - trials * probability).square().mean() / variance)
