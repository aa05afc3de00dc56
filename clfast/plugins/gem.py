"""`GEM`: gradient episodic memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import _arguments
from .._wrapped import distributed
from ..memory import ReplayBuffer
from ..ops import gem_project
from .gradients import vector
from .rehearsal import RehearsalPlugin


class GEM(RehearsalPlugin):
    """A step that, to first order, does not raise the loss on the memory of any past task.

    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", see
    :func:`clfast.ops.gem_project`. Each task has a ring of its last samples, and
    ``after_backward`` takes a gradient on all of each past one.

    Args:
        model: see :class:`RehearsalPlugin`.
        per_task: samples stored of a task.
        margin: gamma >= 0, by which gradients shall agree; 0.5 in the authors' experiments.
    """

    _PARTS: ClassVar[tuple[str, ...]] = ("memories",)

    memories: dict[int, ReplayBuffer]
    """Of the tasks so far, by their number."""

    def __init__(self, model: nn.Module, *, per_task: int, margin: float = 0.5) -> None:
        super().__init__(model)
        where = type(self).__name__
        self.per_task = _arguments.integer(per_task, "per_task", where, least=1)
        self.margin = _arguments.real(margin, "margin", where, least=0)
        self.memories = {}

    def _rehearse(self, weights: Sequence[nn.Parameter], scale: float) -> Tensor | None:
        own = [weight.grad for weight in weights if weight.grad is not None]
        losses, of_memories = [], []
        for rows in self._past():
            loss, slopes = self._against(rows, weights, scale)
            if self._overflown(own, slopes, scale):
                return loss
            of_memories.append(vector(slopes, scale))
            if loss is not None:
                losses.append(loss)
        if not of_memories:
            return None
        projected = gem_project(vector(own, scale), torch.stack(of_memories), self.margin) * scale
        for grad, part in zip(own, projected.split([g.numel() for g in own]), strict=True):
            grad.copy_(part.view_as(grad))
        return torch.stack(losses).mean() if losses else None

    def _past(self) -> list[Mapping[str, Tensor] | None]:
        """The rings of past tasks. Processes must go through the same ones, so that with several
        of them there is an entry for each task; one without samples says nothing."""
        rings = {task: ring.rows for task, ring in self.memories.items() if task != self.task}
        if distributed(self.model) is None:
            return list(rings.values())
        return [rings.get(task) for task in range(self.task)]

    def _place(self) -> torch.device:
        return next(self.model.parameters()).device

    def _keep(self, x: Tensor, y: Tensor) -> None:
        ring = self.memories.get(self.task) or self._new_ring()
        ring.add(x=x, y=y)
        self.memories[self.task] = ring

    def _new_ring(self) -> ReplayBuffer:
        return ReplayBuffer(self.per_task, policy="ring", device=self._place())

    def _saved_samples(self) -> Callable[[], None]:
        memories = dict(self.memories)

        def put_back() -> None:
            self.memories = memories

        return put_back

    def __deepcopy__(self, memo: dict[int, Any]) -> GEM:
        """With rings of its own: nobody else has those of a plugin."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        rings = {task: ring.clone() for task, ring in self.memories.items()}
        twin.__dict__ = copy.deepcopy({**self.__dict__, "memories": {}}, memo)
        twin.memories = rings
        return twin

    def _own_state(self) -> dict[str, Any]:
        return {"memories": {task: ring.state_dict() for task, ring in self.memories.items()}}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        given = state["memories"]
        if not isinstance(given, Mapping):
            raise ValueError(f"memories must be a mapping, got {type(given).__name__}")
        for task in given:
            if type(task) is not int or not 0 <= task <= state["task"]:
                raise ValueError(f"memories must be of tasks 0 to {state['task']}, got {task!r}")
        rings = {task: self._new_ring() for task in given}
        for task, ring in rings.items():
            ring.load_state_dict(given[task])
            if ring.rows.keys() != {"x", "y"}:
                raise ValueError(f"memory {task} must hold x and y, got {', '.join(ring.rows)}")
        self.memories = rings
