"""A loop with LwF, and a model that it has taught."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from rehearsal_cases import LR, Batch, network, tasks
from torch import nn

from clfast.plugins import LwF


def train(plugin: LwF, model: nn.Module, batches: list[Batch]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for x, y in batches:
        optimizer.zero_grad()
        plugin.before_backward(F.cross_entropy(model(x), y)).backward()
        plugin.after_backward()
        optimizer.step()
        plugin.after_step()


def taught(**options: Any) -> tuple[nn.Sequential, LwF]:
    """One task has ended."""
    model = network()
    plugin = LwF(model, **options)
    (batches,) = tasks(1)
    train(plugin, model, batches)
    plugin.on_task_end(batches)
    model.zero_grad()
    return model, plugin
