"""`Finetune`, which only trains, and `LwF`, which is held to what the network said before."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .._arguments import real
from ..ops import soft_cross_entropy
from .classifier import Classifier
from .snapshot import SnapshotClassifier


class Finetune(Classifier):
    """A step of cross-entropy a batch, and nothing against forgetting: the lower bound."""

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        loss = self._cross_entropy(x, y, where)
        self._step(loss, where)
        return {"loss": loss.detach()}


class LwF(SnapshotClassifier):
    """Learning without forgetting, as the ARM paper compares to: after the step on a batch, a
    second step towards what the network before says of the same batch.

    Li & Hoiem, "Learning without Forgetting"; this variant is that of the ARM authors' code, in
    which both networks are in train mode and all classes take part.

    Args:
        model, optimizer, snapshot, teach_from: see `SnapshotClassifier`.
        weight: of the distillation.
        temperature: T, divides the logits of both networks; no factor T^2.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        snapshot: Literal["task"] | int = "task",
        teach_from: int | None = None,
        weight: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(model, optimizer, snapshot, teach_from)
        self.weight = real(weight, "weight", "LwF")
        self.temperature = real(temperature, "temperature", "LwF", least=0, open_ends="(")

    def _taught(self, old: nn.Module, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        del y
        with torch.no_grad():
            target = old(x)
        loss = soft_cross_entropy(self.model(x), target, temperature=self.temperature)
        self._step(self.weight * loss, where)
        return {"distill": loss.detach()}
