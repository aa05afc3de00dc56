"""What the tests of the replay buffer share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from memory_helpers import same
from torch import Tensor

from clfast.memory import ReplayBuffer


def samples(n: int, seed: int = 0, classes: int = 3) -> dict[str, Tensor]:
    """Images, labels, and the place of each in the stream, where `task` is a fifth of it."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(n, 2, 3, generator=generator),
        "y": torch.randint(classes, (n,), generator=generator),
        "task": torch.arange(n, dtype=torch.uint8) // max(1, n // 5),
    }


def filled(n: int = 50, capacity: int = 8, **options: Any) -> ReplayBuffer:
    """A buffer after a stream of n samples."""
    buffer = ReplayBuffer(capacity, **options)
    buffer.add(**samples(n))
    return buffer


@contextmanager
def unchanged(buffer: ReplayBuffer) -> Iterator[None]:
    """After the block, the buffer is bit for bit as before."""
    before = buffer.state_dict()
    yield
    assert same(before, buffer.state_dict())
