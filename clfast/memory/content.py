"""What a memory holds: its rows, the counts of its stream, and the policy that joins the two."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from .config import Config
from .indexes import make_index
from .policies import POLICIES, surviving_rows
from .rows import Rows, squared_norms


class Content:
    """Everything in a memory that changes; arguments are checked by the memory.

    generator: CPU generator that the policy draws from.
    """

    def __init__(self, config: Config, device: torch.device, generator: torch.Generator) -> None:
        self.rows = Rows(config.dim, config.dtype, device, limit=config.capacity)
        self.seen: Counter[int] = Counter()
        self.generator = generator
        self._capacity = config.capacity
        self.index = make_index(config, device, "KeyValueMemory")
        # A memory without bound is never full: there is nothing to decide.
        self._policy = (
            None if config.capacity is None else POLICIES[config.policy](config.capacity, generator)
        )

    def add(self, keys: Tensor, values: Tensor, sq_norms: Tensor) -> None:
        """Append while there is room, then let the policy replace rows."""
        labels = values.tolist()
        room = len(keys)
        if self._capacity is not None:
            room = min(room, self._capacity - len(self.rows))
        self.rows.append(keys[:room], values[:room], sq_norms[:room])
        self.seen.update(labels[:room])
        rest = labels[room:]
        if self._policy is None or not rest:
            return
        slots = self._policy.replace(rest, self.seen, self.rows.values)
        self.seen.update(rest)
        survivors = surviving_rows(slots)
        slots = slots[survivors].to(keys.device)
        chosen = (survivors + room).to(keys.device)
        self.rows.overwrite(slots, keys[chosen], values[chosen], sq_norms[chosen])
        self.index.overwritten(slots)

    def seen_tensors(self) -> tuple[Tensor, Tensor]:
        """Labels ever added, ascending, and how often each came: two [P] int64, on the CPU."""
        labels = sorted(self.seen)
        counts = [self.seen[label] for label in labels]
        return (
            torch.tensor(labels, dtype=torch.int64, device="cpu"),
            torch.tensor(counts, dtype=torch.int64, device="cpu"),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be saved; keys and values are views of the rows.

        Norms are left out: they follow from the keys.
        """
        labels, counts = self.seen_tensors()
        return {
            "keys": self.rows.keys,
            "values": self.rows.values,
            "seen_labels": labels,
            "seen_counts": counts,
            "generator": self.generator.get_state(),
            **(self._policy.state() if self._policy else {}),
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Fill an empty content with checked `tensors`; sets the generator."""
        keys = tensors["keys"].contiguous()
        self.rows.append(keys, tensors["values"], squared_norms(keys))
        labels, counts = tensors["seen_labels"].tolist(), tensors["seen_counts"].tolist()
        self.seen = Counter(dict(zip(labels, counts, strict=True)))
        if self._policy is not None:
            self._policy.restore(tensors)
        self.generator.set_state(tensors["generator"].cpu())
