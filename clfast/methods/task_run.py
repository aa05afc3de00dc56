"""A task that a generative classifier is learning, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Progress(NamedTuple):
    """Where `fit_task` is, after a batch; everything counts from 0."""

    task: int
    epoch: int
    batch: int
    step: int  # batches of this task so far
    steps: int  # batches of this task in all


@dataclass
class Run:
    """A task that is being learnt."""

    optimizers: dict[str, torch.optim.Optimizer]
    replay: Tensor  # [past classes, R, channels, size, size] in [-1, 1]
    size: int  # samples of the task
    samples: int  # their fingerprint
    order: Tensor  # [N] int64, of this epoch
    sums: Tensor  # of the losses of this epoch
    means: list[list[float]] = field(default_factory=list)  # of the losses, by epoch
    epoch: int = 0
    batch: int = 0

    def state_dict(self) -> dict[str, Any]:
        steps = {name: each.state_dict() for name, each in self.optimizers.items()}
        return {**vars(self), "optimizers": steps}
