"""The loop: tasks of batches (inputs, labels, not_aug_inputs), and an evaluation that writes into
the logits that it is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Dataset:
    """Of one task."""

    def __init__(self, train_loader: list[Any]) -> None:
        self.train_loader = train_loader


def train(model: Any, tasks: list[list[tuple[Tensor, ...]]], epochs: int = 1) -> list[float]:
    losses = []
    for batches in tasks:
        dataset = Dataset(batches)
        model.net.train()
        model.meta_begin_task(dataset)
        for epoch in range(epochs):
            for batch in batches:
                losses.append(model.meta_observe(*batch[:3], epoch=epoch, trace=None))
        model.meta_end_task(dataset)
    return losses


@torch.no_grad()
def evaluate(model: Any, x: Tensor, y: Tensor, masked: slice | None = None) -> float:
    status = model.net.training
    model.net.eval()
    outputs = model(x)
    if masked is not None:
        outputs[:, masked] = -float("inf")
    model.net.train(status)
    return float((outputs.argmax(1) == y).float().mean())
