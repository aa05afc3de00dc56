"""Which slots of a full memory new rows take.

A memory appends while it is not full; from then on a policy decides. Every row of the stream uses
at most one random number, drawn in stream order, so a batch leaves the memory exactly as the same
rows added one at a time: how a stream is cut into batches does not matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import insort
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor


class Classes(NamedTuple):
    """What a policy that needs labels is told of them.

    labels: of the rows that arrive, in stream order.
    seen: rows of each class that came before, stored or not.
    stored: [capacity] labels in the memory, by slot.
    """

    labels: list[int]
    seen: Counter[int]
    stored: Tensor


class Policy(ABC):
    """Gives a slot of a full memory, or none, to each row that arrives.

    capacity: number of slots, all of them filled.
    generator: CPU generator for the policies that draw.
    """

    needs_labels: ClassVar[bool] = False

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        self.capacity = capacity
        self._generator = generator

    @abstractmethod
    def replace(self, arriving: range, classes: Classes | None) -> dict[int, int]:
        """Which of the next rows of the stream are stored: by slot, the number of the row, from 0,
        that has it after them all. Where a slot comes twice, the later row takes it.

        arriving: their positions in the stream, from 0.
        classes: None only where the policy needs no labels.

        Numbers are Python's: for the few rows of a batch every call of torch would cost more.
        """

    def state(self) -> dict[str, Tensor]:
        """What the policy knows beyond the memory's content and counts."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most know nothing
        """Take over what `state` returned; called on a new policy only."""


class Ring(Policy):
    """The oldest row goes: row t of the stream (from 0) takes slot t mod capacity."""

    def replace(self, arriving: range, classes: Classes | None) -> dict[int, int]:
        return {t % self.capacity: row for row, t in enumerate(arriving)}


class Reservoir(Policy):
    """Every row of the stream is stored with the same probability.

    Algorithm R of Vitter, "Random sampling with a reservoir", ACM TOMS 11(1), 1985: row t of the
    stream (from 1) draws j uniformly from 0 … t-1 and takes slot j if j < capacity.
    """

    def replace(self, arriving: range, classes: Classes | None) -> dict[int, int]:
        draws = uniforms(len(arriving), self._generator).tolist()
        capacity, before = self.capacity, arriving.start + 1
        return {
            slot: row for row, u in enumerate(draws) if (slot := int(u * (before + row))) < capacity
        }


class ClassBalanced(Policy):
    """Classes share the memory as evenly as the stream allows.

    Class-balancing reservoir sampling (CBRS), algorithm 1 of Chrysakis and Moens, "Online continual
    learning from imbalanced data", ICML 2020. A class is *largest* if no class has more rows in the
    memory, and *full* once it has been largest at a time when the memory was full. A row of a class
    that is not full replaces a random row of the largest classes; a row of a full class that has
    m rows stored, and is the n-th of its class in the stream, replaces a random one of the m with
    probability m/n.

    Being largest counts only from the moment when the memory is full: otherwise the class of the
    very first row would be full with one row stored. By the algorithm, a full class that has lost
    its last row (more classes than slots) does not come back.
    """

    needs_labels = True

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        super().__init__(capacity, generator)
        self._full: set[int] = set()
        # Derived from the stored labels, so both are kept in ascending order: a memory that was
        # loaded builds the same lists and goes on with the same choices.
        self._slots: dict[int, list[int]] = {}
        self._largest: list[int] = []

    def replace(self, arriving: range, classes: Classes | None) -> dict[int, int]:
        assert classes is not None
        if not self._slots:
            self._index(classes.stored)
        draws = uniforms(len(arriving), self._generator).tolist()
        arrived: Counter[int] = Counter()
        taken = {}
        # One row after the other, in plain Python: each may change which class is the largest.
        for row, (label, u) in enumerate(zip(classes.labels, draws, strict=True)):
            arrived[label] += 1
            if label in self._full:
                own = self._slots.get(label, [])
                at = int(u * (classes.seen[label] + arrived[label]))
                if at < len(own):
                    taken[own[at]] = row
            else:
                taken[self._claim(label, u)] = row
        return taken

    def state(self) -> dict[str, Tensor]:
        return {"full_classes": torch.tensor(sorted(self._full), dtype=torch.int64, device="cpu")}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._full = set(state["full_classes"].tolist())

    def _claim(self, label: int, u: float) -> int:
        """Take a random slot of the largest classes for `label`, which is not full."""
        size = len(self._slots[self._largest[0]])
        which, at = divmod(int(u * (size * len(self._largest))), size)
        loser = self._largest.pop(which)
        slot = self._slots[loser].pop(at)
        own = self._slots.setdefault(label, [])
        insort(own, slot)
        if len(own) == size:
            insort(self._largest, label)
            self._full.add(label)
        if not self._largest:
            self._find_largest()
        return slot

    def _index(self, stored: Tensor) -> None:
        for slot, label in enumerate(stored.tolist()):
            self._slots.setdefault(label, []).append(slot)
        self._find_largest()

    def _find_largest(self) -> None:
        size = max(map(len, self._slots.values()))
        self._largest = sorted(label for label, own in self._slots.items() if len(own) == size)
        self._full.update(self._largest)


POLICIES: dict[str, type[Policy]] = {
    "ring": Ring,
    "reservoir": Reservoir,
    "class_balanced": ClassBalanced,
}


def uniforms(count: int, generator: torch.Generator) -> Tensor:
    """[count] float64 numbers u from 0 to 1, on the CPU.

    They have 53 random bits: u < 1 and, for every n < 2^53, floor(u * n) < n also after rounding.
    """
    return torch.rand(count, dtype=torch.float64, device="cpu", generator=generator)
