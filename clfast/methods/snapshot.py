"""`SnapshotClassifier`: a classifier that is taught by the network that it was before."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._arguments import integer
from .classifier import Classifier
from .protocol import Batches


class SnapshotClassifier(Classifier):
    """A step on the batch, then what the network before has to teach.

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

    def on_task_end(self, loader: Batches | None = None) -> None:
        """The network now becomes the network before, if ``snapshot="task"``."""
        del loader
        if self.snapshot == "task":
            self._take_snapshot()

    @abstractmethod
    def _taught(self, old: nn.Module, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        """Learn from the network before; losses by name."""

    def _modules(self) -> list[nn.Module]:
        return [self.model] if self.old is None else [self.model, self.old]

    def _undo(self) -> Callable[[], None]:
        old, calls = self.old, self.calls

        def undo() -> None:
            self.old, self.calls = old, calls

        return undo

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        if isinstance(self.snapshot, int) and self.calls % self.snapshot == 0:
            self._take_snapshot()
        loss = self._cross_entropy(x, y, where)
        self._step(loss, where)
        losses = {"loss": loss.detach()}
        self.calls += 1
        if self.old is None or self.calls <= self._first_call():
            return losses
        try:
            return losses | self._taught(self.old, x, y, where)
        except RuntimeError as error:
            if not str(error).startswith("clfast::"):
                raise
            raise ValueError(f"{where}: {error}") from error

    def _first_call(self) -> int:
        if self.teach_from is not None:
            return self.teach_from
        return self.snapshot if isinstance(self.snapshot, int) else 0

    def _take_snapshot(self) -> None:
        self.old = copy.deepcopy(self.model).requires_grad_(False).train()

    def _own_state(self) -> dict[str, Any]:
        return {"calls": self.calls, "old": None if self.old is None else self.old.state_dict()}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self.calls = state["calls"]
        old: nn.Module | None = None
        if state["old"] is not None:
            old = copy.deepcopy(self.model).requires_grad_(False).train()
            old.load_state_dict(state["old"])
        self.old = old
