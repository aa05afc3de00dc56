"""`SnapshotClassifier`: a classifier that keeps the network that it was before, to be taught by
it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._arguments import integer
from ..plugins.teacher import teacher_of
from .classifier import Classifier
from .protocol import Batches


class SnapshotClassifier(Classifier):
    """A classifier that has the network before beside the network now.

    Args:
        model, optimizer: see `Classifier`.
        snapshot: when the network before is taken: ``"task"``, at each ``on_task_end``; or every so
            many calls of ``observe``, before the step on the batch.
        teach_from: calls of ``observe`` before it teaches for the first time. Default: one task,
            that is the first ``on_task_end``, or ``snapshot`` calls.
    """

    old: nn.Module | None
    """The network before, in train mode as the authors of ARM have it; None before the first."""
    calls: int
    """Of ``observe``."""
    seen: set[int]
    """Classes of the batches so far."""
    old_classes: list[int]
    """Of those before the network before was taken."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        snapshot: Literal["task"] | int,
        teach_from: int | None,
    ) -> None:
        super().__init__(model, optimizer)
        name = type(self).__name__
        whole = isinstance(snapshot, int) and not isinstance(snapshot, bool)
        if snapshot != "task" and (not whole or snapshot < 1):
            raise ValueError(
                f"{name}: snapshot must be 'task' or an integer >= 1, got {snapshot!r}"
            )
        if teach_from is not None:
            teach_from = integer(teach_from, "teach_from", name, least=0)
        self.snapshot = snapshot
        self.teach_from = teach_from
        self.old = None
        self.calls = 0
        self.seen = set()
        self.old_classes = []

    def on_task_end(self, loader: Batches | None = None) -> None:
        """The network now becomes the network before, if ``snapshot="task"``."""
        del loader
        if self.snapshot == "task":
            self._take_snapshot()

    def _modules(self) -> list[nn.Module]:
        return [self.model] if self.old is None else [self.model, self.old]

    def _undo(self) -> Callable[[], None]:
        old, old_classes, calls, seen = self.old, self.old_classes, self.calls, set(self.seen)

        def undo() -> None:
            self.old, self.old_classes, self.calls, self.seen = old, old_classes, calls, seen

        return undo

    def _teacher(self) -> nn.Module | None:
        """The network before, taken now if it is time; None while it does not teach yet."""
        by_calls = isinstance(self.snapshot, int)
        if by_calls and self.calls % int(self.snapshot) == 0:
            self._take_snapshot()
        first = self.teach_from
        if first is None:
            first = int(self.snapshot) if by_calls else 0
        return self.old if self.calls >= first else None

    def _count(self, y: Tensor) -> None:
        self.calls += 1
        self.seen.update(y.tolist())

    def _take_snapshot(self) -> None:
        self.old = teacher_of(self.model).train()
        self.old_classes = sorted(self.seen)

    def _own_state(self) -> dict[str, Any]:
        old = None if self.old is None else self.old.state_dict()
        return {
            "calls": self.calls,
            "seen": sorted(self.seen),
            "old_classes": self.old_classes,
            "old": old,
        }

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self.calls = integer(state["calls"], "calls", type(self).__name__, least=0)
        self.seen = set(state["seen"])
        self.old_classes = state["old_classes"]
        old: nn.Module | None = None
        if state["old"] is not None:
            old = teacher_of(self.model).train()
            old.load_state_dict(state["old"])
        self.old = old


class TaughtAfterwards(SnapshotClassifier):
    """A step on the batch, then what the network before has to teach."""

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        old = self._teacher()
        loss, _ = self._cross_entropy(x, y, where)
        self._step(loss, where)
        losses = {"loss": loss.detach()}
        self._count(y)
        if old is None:
            return losses
        return losses | self._taught(old, x, y, where)

    @abstractmethod
    def _taught(self, old: nn.Module, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        """Learn from the network before; losses by name."""
