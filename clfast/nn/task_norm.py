"""Batch normalisation with statistics of every task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import integer, real
from .tasks import TaskModule, freeze


class TaskBatchNorm2d(TaskModule):
    """An ``nn.BatchNorm2d`` for every task, as DGM has them beside its masks (Ostapenko et al.,
    "Learning to Remember", in the authors' code).

    Only the newest is trained. The others are as `add_task` found them, for ever: in train mode,
    too, they normalise by their running statistics and do not move them, and their weights take no
    gradient. A state with another number of tasks can be loaded.

    Args:
        channels: of the first task.
        eps, momentum: of every norm, as in ``nn.BatchNorm2d``.

    Raises:
        TypeError, ValueError: channels below 1; eps or momentum out of range.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        where = type(self).__name__
        self.eps = real(eps, "eps", where, least=0)
        self.momentum = real(momentum, "momentum", where, least=0, most=1)
        self.norms = nn.ModuleList([self._norm(channels, where)])

    @property
    def tasks(self) -> int:
        """How many there are."""
        return len(self.norms)

    def add_task(self, channels: int | None = None) -> None:
        """Begin a task with a norm as ``nn.BatchNorm2d`` makes it, and leave the others as they
        are from now on.

        Args:
            channels: of the task; None: as many as the one before.

        Raises:
            TypeError, ValueError: channels that is no integer >= 1.
        """
        where = f"{type(self).__name__}.add_task"
        last = self._of(self.tasks - 1)
        norm = self._norm(last.num_features if channels is None else channels, where)
        freeze(last)
        self.norms.append(norm.to(last.weight.device, last.weight.dtype))

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        """Normalise x [B, C, H, W], C as the task has it; None: the task of `TaskModule`.

        Raises:
            TypeError, ValueError: a task that is not there; x of another shape. Nothing moves.
        """
        index = self._at(task)
        norm = self._of(index)
        if x.dim() != 4 or x.shape[1] != norm.num_features:
            raise ValueError(
                f"{type(self).__name__}: x must be [B, {norm.num_features}, H, W] for task "
                f"{index}, got {list(x.shape)}"
            )
        if index == self.tasks - 1:
            result: Tensor = norm(x)
            return result
        mean, variance = norm.running_mean, norm.running_var
        return F.batch_norm(x, mean, variance, norm.weight, norm.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps}, momentum={self.momentum}"

    def _of(self, task: int) -> nn.BatchNorm2d:
        norm = self.norms[task]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm

    def _norm(self, channels: object, where: str) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(
            integer(channels, "channels", where, least=1), eps=self.eps, momentum=self.momentum
        ).train(self.training)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """As many norms as the state has, before they are loaded one by one."""
        means = [f"{prefix}norms.{i}.running_mean" for i in range(len(state_dict))]
        sizes = [len(state_dict[mean]) for mean in means if mean in state_dict]
        while sizes and len(self.norms) > len(sizes):
            del self.norms[-1]
        for channels in sizes[len(self.norms) :]:
            self.add_task(channels)
        if sizes:
            self._of(self.tasks - 1).requires_grad_(True)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
