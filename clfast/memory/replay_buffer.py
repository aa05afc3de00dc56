"""`ReplayBuffer`: past samples, with whatever belongs to them, drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import _arguments
from . import checks
from .base import Memory
from .config import ReplayConfig
from .content import Content
from .policies import POLICIES, uniforms
from .state import check_stream, check_tensors, require
from .table import Table, indices, on

_LABEL = "y"
_PREFIX = "rows."  # of rows in a file: their names are the user's


class ReplayBatch(dict[str, Tensor]):
    """Rows that were drawn, by the names they were added under; `slots` [m] int64, where they are.

    A slot keeps its row until the next `add`.
    """

    def __init__(self, rows: Mapping[str, Tensor], slots: Tensor) -> None:
        super().__init__(rows)
        self.slots = slots


class ReplayBuffer(Memory):
    """The memory of experience replay: samples of the stream, from which batches are drawn.

    A sample is a row of each of the tensors that `add` is called with: `x`, `y`, and if wanted the
    task, logits, or anything else. The first rows decide which these are, with their dtypes and
    shapes; only `y`, the class label, means something to the buffer. Rows are constants: no
    gradient flows into or out of it.

    Rows that belong together have a *slot*. Slots are filled in order of arrival; when all
    `capacity` of them are filled, the policy says what happens. Adding a batch gives exactly the
    buffer that adding its rows one at a time gives, under every policy. Storage is allocated as
    rows come, doubling up to the capacity.

    Args:
        capacity: the most rows the buffer holds, at least 1.
        policy: what a row replaces when the buffer is full. "reservoir": a random one, so that all
            rows of the stream are stored with the same probability (Vitter 1985, algorithm R).
            "class_balanced": classes share the buffer as evenly as the stream allows (Chrysakis and
            Moens 2020, CBRS); needs `y`, int64 labels of at least 0. "ring": the oldest row; row t
            of the stream, from 0, is in slot t mod capacity.
        device: where the rows live.
        generator: CPU generator that the policy and `sample` draw from; None makes one of the
            buffer's own with seed 0. Its state is saved and restored with the buffer.

    Raises:
        TypeError, ValueError: an argument is not of the kinds above.
    """

    _KIND = ReplayConfig
    _config: ReplayConfig

    def __init__(
        self,
        capacity: int,
        *,
        policy: str = "reservoir",
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(ReplayConfig(capacity, policy), device, generator)

    def _empty(self, device: torch.device, generator: torch.Generator) -> Content:
        return _ReplayContent(self._config, device, generator)

    @property
    def capacity(self) -> int:
        """The most rows the buffer holds."""
        return self._config.capacity

    @property
    def seen(self) -> int:
        """Rows ever added, stored or not."""
        return self._content.seen

    @property
    def rows(self) -> dict[str, Tensor]:
        """All rows by slot, [len, ...] by name: views, to be read only, until the next change.

        Empty before the first `add`.
        """
        return self._content.rows.columns

    def add(self, /, **tensors: Tensor) -> None:
        """Store samples; when the buffer is full, the policy says which, and in place of which.

        Args:
            tensors: [n, ...] each, of bool, uint8, int8, int16, int32, int64, float16, bfloat16,
                float32 or float64, on any device; stored in their dtype. n may be 0, or more than
                the capacity. While the buffer is empty they may be any; later ones have the names,
                dtypes and row shapes of those stored.

        Raises:
            TypeError: not a dense tensor, another dtype than the one stored, or one not as above.
            ValueError: no tensor; names other than those stored; wrong shape; numbers of rows that
                differ; under "class_balanced", no `y`, or one that holds a negative label. The
                buffer is as before.
        """
        where = "ReplayBuffer.add"
        if not tensors:
            raise ValueError(f"{where}: tensors must be given by name, as add(x=x, y=y)")
        stored = self._content.rows.allocated if len(self) else {}
        if stored and stored.keys() != tensors.keys():
            raise ValueError(
                f"{where}: tensors must be {', '.join(stored)} as the rows that are stored, "
                f"got {', '.join(tensors)}"
            )
        checks.check_rows(tensors, stored, where)
        if self._content.label is not None:
            if _LABEL not in tensors:
                raise ValueError(f"{where}: y must be given, policy {self._config.policy} needs it")
            checks.check_labels(tensors[_LABEL], _LABEL, len(tensors[_LABEL]), where)
        if not len(self):
            self._content.rows.create(tensors)
        with torch.no_grad():
            self._content.add(tensors)

    def sample(
        self, n: int, generator: torch.Generator | None = None, *, where: Tensor | None = None
    ) -> ReplayBatch:
        """Draw n different rows, each set of them with the same probability, in random order.

        Draws are made on the CPU and are the same for buffers on any device. With a mask on a GPU
        the call waits for it.

        Args:
            n: at least 0; of fewer rows, all are drawn.
            generator: CPU generator to draw from instead of the buffer's.
            where: bool [len], the slots to draw from, as `buffer.rows["task"] != task`; None for
                all. There may be none of them.

        Returns:
            `ReplayBatch` of m = min(n, rows to draw from) rows: a dictionary of copies [m, ...] by
            name, in which no gradient flows, and its `slots` [m] int64, all on the buffer's device.

        Raises:
            TypeError, ValueError: an argument is not of these kinds; an empty buffer.
        """
        at = "ReplayBuffer.sample"
        n = _arguments.integer(n, "n", at, least=0)
        content, size = self._content, len(self)
        drawn_from = content.generator
        if generator is not None:
            drawn_from = _arguments.cpu_generator(generator, at)
        if not size:
            raise ValueError(f"{at}: the buffer is empty; add rows first")
        device = content.rows.device
        if where is None:
            slots = on(device, _draw(n, size, drawn_from))
        else:
            checks.check_mask(where, "where", size, at)
            among = where.nonzero()[:, 0].to(device)
            slots = among.index_select(0, on(device, _draw(n, len(among), drawn_from)))
        return ReplayBatch(content.rows.gather(slots), slots)

    @torch.no_grad()
    def update(self, slots: Tensor, /, **tensors: Tensor) -> None:
        """Write new tensors into rows that are stored, as logits that were computed anew.

        Args:
            slots: [m] int64, different slots, as of a sample since which nothing was added.
            tensors: [m, ...] each, on any device, of the dtype and row shape under whose name they
                are stored; the others stay.

        Raises:
            TypeError: not a dense tensor, another dtype.
            ValueError: a name under which nothing is stored, or `y` under "class_balanced", which
                knows the rows by it; wrong shape; slots that are not filled. The buffer is as
                before.
        """
        where = "ReplayBuffer.update"
        checks.check_slots(slots, len(self), where)
        stored = self.rows
        unknown = [name for name in tensors if name not in stored]
        if unknown:
            raise ValueError(
                f"{where}: {unknown[0]} is not stored; there are {', '.join(stored) or 'no rows'}"
            )
        checks.check_rows(tensors, stored, where)
        for name, given in tensors.items():
            if len(given) != len(slots):
                raise ValueError(
                    f"{where}: {name} must have {len(slots)} rows, one a slot, "
                    f"got shape {list(given.shape)}"
                )
        if self._content.label in tensors:
            raise ValueError(f"{where}: y must stay, policy {self._config.policy} goes by it")
        self._content.rows.overwrite(slots.to(self.device), tensors)

    def counts(self, num_classes: int) -> Tensor:
        """Stored rows of each class: [num_classes] int64 on the buffer's device.

        Raises TypeError or ValueError if `y` is not stored, is not int64 [len], or holds a label
        below 0 or of `num_classes` or more.
        """
        where = "ReplayBuffer.counts"
        labels = torch.empty(0, dtype=torch.int64, device=self.device)
        if len(self):
            if _LABEL not in self.rows:
                raise ValueError(f"{where}: y is not stored; there are {', '.join(self.rows)}")
            labels = self.rows[_LABEL]
            checks.check_labels(labels, _LABEL, len(self), where)
        highest = int(labels.max()) if len(labels) else -1
        num_classes = checks.class_count(num_classes, highest, where)
        return torch.bincount(labels, minlength=num_classes)


class _ReplayContent(Content):
    """Rows of whatever names, and what is known of the stream."""

    def __init__(
        self, config: ReplayConfig, device: torch.device, generator: torch.Generator
    ) -> None:
        policy = POLICIES[config.policy](config.capacity, generator)
        rows = Table(device, limit=config.capacity)
        super().__init__(rows, _LABEL if policy.needs_labels else None, policy, generator)
        self._capacity = config.capacity

    def saved_rows(self) -> dict[str, Any]:
        rows = self.rows.columns
        # Readers of a file give its tensors in an order of their own.
        return {"names": list(rows), **{_PREFIX + name: column for name, column in rows.items()}}

    def restore(self, saved: Mapping[str, Any], where: str) -> None:
        parts = dict(saved)
        names = parts.pop("names", None)
        require(isinstance(names, list), "names must be a list", where)
        columns = [f"{_PREFIX}{name}" for name in names]
        found = sorted(name for name in parts if str(name).startswith(_PREFIX))
        require(sorted(columns) == found, f"names are {names}, but rows are {found}", where)
        rows = {name: parts.pop(name) for name in columns}
        tensors = check_tensors(parts, self.stream_state(), where)
        try:
            checks.check_rows(rows, {}, where)
        except TypeError as error:
            raise ValueError(str(error)) from error
        size = len(next(iter(rows.values()))) if rows else 0
        labels = None
        if self.label is not None:
            labels = rows.get(_PREFIX + self.label, tensors["seen_labels"][:0])
            sound = labels.dtype == torch.int64 and labels.shape == (size,)
            require(sound, f"{_PREFIX}{self.label} must be int64 [{size}]", where)
        check_stream(tensors, size, labels, self._capacity, where)
        if rows:
            given = {name.removeprefix(_PREFIX): column.detach() for name, column in rows.items()}
            self.rows.create(given)
            self.rows.append(given)
        self.restore_stream(tensors)


def _draw(n: int, size: int, generator: torch.Generator) -> Tensor:
    """[min(n, size)] different int64 numbers from 0 to size-1, in random order, on the CPU.

    The first of a permutation; where that would take long, the first n different ones of numbers
    that are drawn with replacement.
    """
    n = min(n, size)
    if 2 * n > size or size < 2048:  # where few are wanted, it is no slower there
        # Shortened where it is: a slice is a view, and more to make than the numbers.
        return torch.randperm(size, device="cpu", generator=generator).resize_(n)
    drawn: dict[int, None] = {}
    while len(drawn) < n:  # rarely twice: about size ln(size / (size - n)) < 1.4 n are needed
        numbers = (uniforms(n + n // 2, generator) * size).long()
        drawn.update(dict.fromkeys(numbers.tolist()))
    return indices(drawn)[:n]
