"""Modules with parts of their own for every task, and which task they are called for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .._arguments import integer


class TaskModule(nn.Module):
    """A module that has something of its own for every task.

    Tasks count from 0. When called it is of the task that the call names, else of ``task``, which
    `at_task` sets for a whole network, else of the newest. Threads that share a network and ask it
    for different tasks must take turns.
    """

    task: int | None = None

    @property
    def tasks(self) -> int:
        """How many there are."""
        raise NotImplementedError

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

    Blocks may stand in one another. Whether a module has the task is looked at when it is called.

    Raises:
        TypeError, ValueError: a task that is no integer, or negative.
    """
    if task is not None:
        task = integer(task, "task", "clfast.nn.at_task", least=0)
    before = [(m, m.task) for m in model.modules() if isinstance(m, TaskModule)]
    for module, _ in before:
        module.task = task
    try:
        yield
    finally:
        for module, was in before:
            module.task = was


def freeze(module: nn.Module) -> None:
    """No gradient reaches its parameters from now on, and none is left that a step could take."""
    module.requires_grad_(False)
    module.zero_grad(set_to_none=True)
