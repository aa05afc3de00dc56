"""Modules with parts of their own for every task, and which task they are called for."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._arguments import integer

_TURN = threading.RLock()


class TaskModule(nn.Module):
    """A module that has something of its own for every task.

    Tasks count from 0. When called it is of the task that the call names, else of ``task``, which
    `at_task` sets for a whole network, else of the newest.
    """

    task: int | None = None

    @property
    @abstractmethod
    def tasks(self) -> int:
        """How many there are."""

    def _at(self, task: int | None = None) -> int:
        """The task of a call; TypeError or ValueError for one that is not there."""
        task = self.task if task is None else task
        if task is None:
            return self.tasks - 1
        where = type(self).__name__
        number = integer(task, "task", where, least=0)
        if number >= self.tasks:
            raise ValueError(f"{where}: task must be in 0..{self.tasks - 1}, got {number}")
        return number


@contextmanager
def at_task(model: nn.Module, task: int | None) -> Iterator[None]:
    """Inside, every `TaskModule` in ``model`` is of ``task``; None: of its newest.

    Blocks may stand in one another; threads take turns. Whether a module has the task is looked at
    when it is called.

    Raises:
        TypeError, ValueError: a task that is no integer, or negative.
    """
    if task is not None:
        task = integer(task, "task", "clfast.nn.at_task", least=0)
    with _TURN:
        before = [(m, m.task) for m in model.modules() if isinstance(m, TaskModule)]
        for module, _ in before:
            module.task = task
        try:
            yield
        finally:
            for module, was in before:
                module.task = was


class TaskParts(TaskModule):
    """A module for every task, of which only the newest is trained.

    No gradient reaches the others. A state with another number of tasks can be loaded.
    """

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList([first])

    @property
    def tasks(self) -> int:
        """How many there are."""
        return len(self.parts)

    def _begin(self, make: Callable[[], nn.Module]) -> None:
        """On the CPU, where generators draw, whatever torch's default device is."""
        with torch.device("cpu"):
            part = make()
        last = self.parts[-1]
        like = next(last.parameters())
        part.to(like.device, like.dtype).train(self.training)
        last.requires_grad_(False)
        last.zero_grad(set_to_none=True)  # else an optimizer would still take a step
        self.parts.append(part)

    @abstractmethod
    def _part_of(self, weight: Tensor) -> nn.Module:
        """A part whose weight is of this shape."""

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """As many parts as the state has, before they are loaded one by one."""
        names = [f"{prefix}parts.{i}.weight" for i in range(len(state_dict))]
        weights = [state_dict[name] for name in names if name in state_dict]
        while weights and self.tasks > len(weights):
            del self.parts[-1]
        for weight in weights[self.tasks :]:
            self._begin(partial(self._part_of, weight))
        self.parts[-1].requires_grad_(True)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
