"""What a memory holds: its rows, the counts of its stream, and the policy that joins the two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .policies import Classes, Policy
from .table import Table, indices, on


class Content(ABC):
    """Everything in a memory that changes; arguments are checked by the memory.

    label: the column of class labels; None where classes are not counted.
    policy: None for a memory without bound, which is never full: there is nothing to decide.
    generator: CPU generator that the policy draws from.
    seen: rows of the stream, stored or not; seen_of: those of each class, if they are counted.
    """

    def __init__(
        self, rows: Table, label: str | None, policy: Policy | None, generator: torch.Generator
    ) -> None:
        self.rows = rows
        self.seen = 0
        self.seen_of: Counter[int] = Counter()
        self.generator = generator
        self.label = label
        self._policy = policy

    @abstractmethod
    def saved_rows(self) -> dict[str, Any]:
        """The rows as they are saved; tensors are views."""

    @abstractmethod
    def restore(self, saved: Mapping[str, Any], where: str) -> None:
        """Fill an empty content with what `state` of another returned; sets the generator.

        Raises ValueError, opening with `where`, before anything has changed, if the parts do not
        fit together or do not fit this memory.
        """

    def add(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Append while there is room, then let the policy replace rows.

        rows: by the names of the columns, on any device. Returns the slots that were overwritten.
        """
        count = next(iter(rows.values())).shape[0]
        labels = [] if self.label is None else rows[self.label].tolist()
        room = count
        if self._policy is not None:
            room = min(count, self._policy.capacity - len(self.rows))
        if room:
            fitting = {name: given[:room] for name, given in rows.items()} if room < count else rows
            self.rows.append(fitting)
            self._count(room, labels[:room])
        if self._policy is None or room == count:
            return torch.empty(0, dtype=torch.int64, device=self.rows.device)
        if room:
            rows = {name: given[room:] for name, given in rows.items()}
            labels = labels[room:]
        arriving = range(self.seen, self.seen + count - room)
        taken = self._policy.replace(arriving, self._classes(labels))
        self._count(len(arriving), labels)
        if not taken:  # the usual thing late in a stream
            return torch.empty(0, dtype=torch.int64, device=self.rows.device)
        slots = on(self.rows.device, indices(taken))
        numbers = indices(taken.values())
        chosen = {device: on(device, numbers) for device in {r.device for r in rows.values()}}
        self.rows.overwrite(
            slots,
            {name: given.index_select(0, chosen[given.device]) for name, given in rows.items()},
        )
        return slots

    def to(self, device: torch.device) -> None:
        """Move the rows; nothing has changed if that fails."""
        self.rows.to(device)

    def seen_tensors(self) -> tuple[Tensor, Tensor]:
        """Labels ever added, ascending, and how often each came: two [P] int64, on the CPU."""
        labels = sorted(self.seen_of)
        counts = [self.seen_of[label] for label in labels]
        return (
            torch.tensor(labels, dtype=torch.int64, device="cpu"),
            torch.tensor(counts, dtype=torch.int64, device="cpu"),
        )

    def state(self) -> dict[str, Any]:
        """All of it, to be saved; rows are views."""
        return {**self.saved_rows(), **self.stream_state()}

    def stream_state(self) -> dict[str, Tensor]:
        """All but the rows."""
        if self.label is None:
            seen = {"seen": torch.tensor(self.seen, dtype=torch.int64, device="cpu")}
        else:
            seen = dict(zip(("seen_labels", "seen_counts"), self.seen_tensors(), strict=True))
        policy = self._policy.state() if self._policy else {}
        return {**seen, "generator": self.generator.get_state(), **policy}

    def restore_stream(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `stream_state` of another returned."""
        if self.label is None:
            self.seen = int(tensors["seen"])
        else:
            labels, counts = tensors["seen_labels"].tolist(), tensors["seen_counts"].tolist()
            self.seen_of = Counter(dict(zip(labels, counts, strict=True)))
            self.seen = self.seen_of.total()
        if self._policy is not None:
            self._policy.restore(tensors)
        self.generator.set_state(tensors["generator"].cpu())

    def _count(self, rows: int, labels: list[int]) -> None:
        self.seen += rows
        if labels:
            self.seen_of.update(labels)

    def _classes(self, labels: list[int]) -> Classes | None:
        if self.label is None:
            return None
        return Classes(labels, self.seen_of, self.rows[self.label])
