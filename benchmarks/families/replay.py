"""`ReplayBuffer`: storing a stream, and drawing batches from what was stored."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from clfast.memory import ReplayBuffer

from ..case import Case, Variant, Work
from ..opponents import replay as opponents
from ..opponents.replay import Rows

N = 32
DIGIT, CIFAR = (1, 8, 8), (3, 32, 32)


class Stream(NamedTuple):
    """A sample's label is its number; its image begins with it."""

    x: Tensor  # [S, ...]
    y: Tensor  # [S]


def _stream(samples: int, image: tuple[int, ...], generator: Generator) -> Stream:
    x, y = torch.rand(samples, *image, generator=generator), torch.arange(samples)
    x.view(samples, -1)[:, 0] = y
    return Stream(x, y)


def _wrong(output: Rows, expected: tuple[Tensor, int], x: Stream) -> float:
    """The share of places without a sample of the stream that is nowhere else."""
    images, labels = output
    stream, count = expected
    if len(images) != count or len(labels) != count:
        return float("inf")
    right = (labels >= 0) & (labels < len(stream))
    found = stream[labels.clamp(0, len(stream) - 1)]
    right &= (images.double() == found).flatten(1).all(1)
    return 1 - len(labels[right].unique()) / count


def _size(image: tuple[int, ...]) -> str:
    return "x".join(map(str, image))


def add(image: tuple[int, ...], batches: int, capacity: int) -> Case:
    """A stream from its first batch on, so that all who compete store and drop as many samples."""
    samples = batches * N

    def ours(x: Tensor, y: Tensor) -> Rows:
        buffer = ReplayBuffer(capacity)
        for images, labels in zip(x.split(N), y.split(N), strict=True):
            buffer.add(x=images, y=labels)
        return buffer.rows["x"], buffer.rows["y"]

    size = 4 * prod(image)
    return Case(
        op="ReplayBuffer.add",
        size={"image": _size(image), "batches": batches, "N": N, "capacity": capacity},
        inputs=lambda generator: _stream(samples, image, generator),
        oracle=lambda x: (x.x.double(), min(samples, capacity)),
        error=_wrong,
        tolerance=0.0,
        # Rows that are dropped need not be read.
        work=lambda _: Work(min(samples, capacity) * size, min(samples, capacity) * size),
        variants=(
            Variant("clfast", "clfast", ours, lambda x: tuple(x)),
            Variant("a sample at a time", "loop", opponents.stored_by_loop, _given(N, capacity)),
            Variant("a batch at a time", "torch", opponents.stored_by_batches, _given(N, capacity)),
        ),
        small=capacity < 10,
    )


def _given(*more: int) -> Any:
    return lambda x: (*x, *more)


def sample(image: tuple[int, ...], capacity: int) -> Case:
    def full(x: Stream) -> tuple[ReplayBuffer]:
        buffer = ReplayBuffer(capacity)
        buffer.add(x=x.x, y=x.y)
        return (buffer,)

    def ours(buffer: ReplayBuffer) -> Rows:
        batch = buffer.sample(N)
        return batch["x"], batch["y"]

    def loader(make: Any) -> Any:
        return lambda x: (make(*x, N),)

    size = 4 * prod(image)
    return Case(
        op="ReplayBuffer.sample",
        size={"image": _size(image), "n": N, "stored": capacity},
        inputs=lambda generator: _stream(capacity, image, generator),
        oracle=lambda x: (x.x.double(), N),
        error=_wrong,
        tolerance=0.0,
        work=lambda _: Work(N * size, N * size),
        variants=(
            Variant("clfast", "clfast", ours, full),
            Variant("permutation", "torch", opponents.drawn_by_permutation, _given(N)),
            Variant("random keys", "torch", opponents.drawn_by_keys, _given(N)),
            Variant(
                "DataLoader over a list",
                "library",
                lambda loader: loader(),
                loader(opponents.loader_over_list),
            ),
            Variant(
                "DataLoader over tensors",
                "library",
                lambda loader: loader(),
                loader(opponents.loader_over_tensors),
            ),
        ),
        small=capacity < 50,
    )


CASES = [
    add(DIGIT, batches=2, capacity=5),
    *(add(image, batches=64, capacity=500) for image in (DIGIT, CIFAR)),
    add(CIFAR, batches=640, capacity=500),
    sample(DIGIT, 40),
    *(sample(image, stored) for image in (DIGIT, CIFAR) for stored in (200, 5000)),
]
