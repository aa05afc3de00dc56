"""`Finetune`, which only trains, and `LwF`, which is held to what the network said before."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .._arguments import boolean, real
from ..ops import soft_cross_entropy
from .classifier import Classifier
from .modes import evaluating
from .snapshot import SnapshotClassifier


class Finetune(Classifier):
    """A step of cross-entropy a batch, and nothing against forgetting: the lower bound."""

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        loss, _ = self._cross_entropy(x, y, where)
        self._step(loss, where)
        return {"loss": loss.detach()}


class LwF(SnapshotClassifier):
    """Learning without forgetting: held to what the network before says of the same batch.

    Li & Hoiem, "Learning without Forgetting". By default as the ARM authors' code has it: after the
    step on the batch a second step, on the cross-entropy with the old network's predictions of all
    classes, both networks in train mode. With ``joint=True`` as the paper has it, with one head:
    one step on cross-entropy + weight · distillation, in which the old network is in eval mode and
    only the classes seen before it was taken take part; the paper's temperature is 2.

    Args:
        model, optimizer, snapshot, teach_from: see `SnapshotClassifier`.
        weight: of the distillation.
        temperature: T, divides the logits of both networks; no factor T^2.
        joint: one step on both losses.
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
        joint: bool = False,
    ) -> None:
        super().__init__(model, optimizer, snapshot, teach_from)
        self.weight = real(weight, "weight", "LwF")
        self.temperature = real(temperature, "temperature", "LwF", least=0, open_ends="(")
        self.joint = boolean(joint, "joint", "LwF")

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        if not self.joint:
            return super()._learn(x, y, where)
        old = self._teacher()
        loss, logits = self._cross_entropy(x, y, where)
        losses = {"loss": loss.detach()}
        if old is not None and self.old_classes:
            classes = torch.tensor(self.old_classes, device=x.device)
            with torch.no_grad(), evaluating(old):
                target = old(x)[:, classes]
            distill = soft_cross_entropy(logits[:, classes], target, temperature=self.temperature)
            losses["distill"] = distill.detach()
            loss = loss + self.weight * distill
        self._step(loss, where)
        self._count(y)
        return losses

    def _taught(self, old: nn.Module, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        del y
        with torch.no_grad():
            target = old(x)
        loss = soft_cross_entropy(self.model(x), target, temperature=self.temperature)
        self._step(self.weight * loss, where)
        return {"distill": loss.detach()}
