"""Batch normalisation with statistics of every task."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import integer, real
from .tasks import TaskParts


class TaskBatchNorm2d(TaskParts):
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
        where = type(self).__name__
        eps = real(eps, "eps", where, least=0)
        momentum = real(momentum, "momentum", where, least=0, most=1)
        channels = integer(channels, "channels", where, least=1)
        super().__init__(nn.BatchNorm2d(channels, eps, momentum))
        self.eps, self.momentum = eps, momentum

    def add_task(self, channels: int | None = None) -> None:
        """Begin a task with a norm as ``nn.BatchNorm2d`` makes it, and leave the others as they
        are from now on.

        Args:
            channels: of the task; None: as many as the one before.

        Raises:
            TypeError, ValueError: channels that is no integer >= 1.
        """
        if channels is None:
            channels = self._of(self.tasks - 1).num_features
        channels = integer(channels, "channels", f"{type(self).__name__}.add_task", least=1)
        self._begin(lambda: nn.BatchNorm2d(channels, self.eps, self.momentum))

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

    def _of(self, task: int) -> nn.BatchNorm2d:
        norm = self.parts[task]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm

    def _part_of(self, weight: Tensor) -> nn.Module:
        return nn.BatchNorm2d(len(weight), self.eps, self.momentum)
