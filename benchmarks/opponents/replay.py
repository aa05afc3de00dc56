"""What a replay buffer is measured against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

Rows = tuple[Tensor, Tensor]


def stored_by_loop(x: Tensor, y: Tensor, batch: int, capacity: int) -> Rows:
    """Algorithm R a sample at a time, as most libraries have it."""
    kept = torch.empty(capacity, *x.shape[1:]), torch.empty(capacity, dtype=torch.int64)
    seen = 0
    for images, labels in zip(x.split(batch), y.split(batch), strict=True):
        for image, label in zip(images, labels, strict=True):
            slot = seen if seen < capacity else int(torch.randint(seen + 1, ()))
            if slot < capacity:
                kept[0][slot] = image
                kept[1][slot] = label
            seen += 1
    return kept


def stored_by_batches(x: Tensor, y: Tensor, batch: int, capacity: int) -> Rows:
    """All draws of a batch at once; of rows with one slot the last is the one that stays."""
    kept = torch.empty(capacity, *x.shape[1:]), torch.empty(capacity, dtype=torch.int64)
    seen = 0
    for images, labels in zip(x.split(batch), y.split(batch), strict=True):
        times = torch.arange(seen, seen + len(images))
        slots = (torch.rand(len(images), dtype=torch.float64) * (times + 1)).long()
        slots = torch.where(times < capacity, times, slots)
        last = {slot: i for i, slot in enumerate(slots.tolist()) if slot < capacity}
        rows, at = torch.tensor(list(last.values())), torch.tensor(list(last))
        if len(rows):
            kept[0][at] = images[rows]
            kept[1][at] = labels[rows]
        seen += len(images)
    return kept


def drawn_by_permutation(x: Tensor, y: Tensor, n: int) -> Rows:
    slots = torch.randperm(len(x))[:n]
    return x.index_select(0, slots), y.index_select(0, slots)


def drawn_by_keys(x: Tensor, y: Tensor, n: int) -> Rows:
    """The n largest of random keys."""
    slots = torch.rand(len(x)).topk(n).indices
    return x.index_select(0, slots), y.index_select(0, slots)


class Endless:
    """Batches of a DataLoader, from its beginning again when it has ended."""

    def __init__(self, loader: DataLoader[tuple[Tensor, ...]]) -> None:
        self._loader = loader
        self._batches: Iterator[list[Tensor]] = iter(())

    def __call__(self) -> Rows:
        batch = next(self._batches, None)
        if batch is None:
            self._batches = iter(self._loader)
            batch = next(self._batches)
        x, y = batch
        return x, y


def loader_over_list(x: Tensor, y: Tensor, n: int) -> Endless:
    """A list of samples, as buffers of libraries are."""
    samples: Any = list(zip(x.unbind(), y.tolist(), strict=True))
    return Endless(DataLoader(samples, batch_size=n, shuffle=True, drop_last=True))


def loader_over_tensors(x: Tensor, y: Tensor, n: int) -> Endless:
    """Without the collation of single samples: a batch is one element."""
    data = TensorDataset(x, y)
    sampler = torch.utils.data.BatchSampler(RandomSampler(data), n, drop_last=True)
    return Endless(DataLoader(data, sampler=sampler, batch_size=None))
