"""`Finetune`, which only trains, and `LwF`, which is held to what the network said before."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._arguments import boolean, real
from ..ops import soft_cross_entropy
from .classifier import Classifier
from .phases import PhaseLearner
from .snapshot import TaughtAfterwards


class Finetune(Classifier):
    """A step of cross-entropy a batch, and nothing against forgetting: the lower bound."""

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        loss, _ = self._cross_entropy(x, y, where)
        self._step(loss, where)
        return {"loss": loss.detach()}


class LwF(TaughtAfterwards, PhaseLearner):
    """Learning without forgetting: held to what the network before says of the same samples.

    Li & Hoiem, "Learning without Forgetting". By default ``observe`` is as the ARM authors' code
    has it: after the step on the batch a second step, on the cross-entropy with the old network's
    predictions of all classes, both networks in train mode. With ``joint=True`` as the paper has
    it, with one head: one step on cross-entropy + weight · distillation, in which the old network
    is in eval mode and only the classes seen before it was taken take part; the paper's temperature
    is 2. `fit_task` always takes that one step, and leaves out classes not seen yet; with
    ``exemplars`` it is the LwF of Mnemonics' table 1.

    Args:
        model, optimizer, snapshot, teach_from: see `SnapshotClassifier`.
        weight: of the distillation.
        temperature: T, divides the logits of both networks; no factor T^2.
        joint: ``observe`` takes one step on both losses.
        options: see `PhaseLearner`; by default there are no exemplars. ``replay`` is not for it.
    """

    _PER_CLASS = 0

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
        **options: Any,
    ) -> None:
        super().__init__(model, optimizer, snapshot=snapshot, teach_from=teach_from, **options)
        self.weight = real(weight, "weight", "LwF")
        self.temperature = real(temperature, "temperature", "LwF", least=0, open_ends="(")
        self.joint = boolean(joint, "joint", "LwF")
        if self.replay:
            raise ValueError("LwF: replay must be 0: observe learns from the batch alone")

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        x = self._inputs(x)
        if not self.joint:
            return super()._learn(x, y, where)
        losses = self._train_on(x, y, self._teacher(), where)
        self.calls += 1
        return losses

    def _objective(
        self, x: Tensor, y: Tensor, old: nn.Module | None, where: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self._logits(x, where)
        self._known(y, logits, where)
        return self._distilled(logits, x, y, old, self.temperature, self.weight)

    def _taking_part(self) -> list[int]:
        # A stream that is only observed may bring any class next.
        return super()._taking_part() if self.phases or self._run is not None else []

    def _taught(self, old: nn.Module, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        del y
        with torch.no_grad():
            target = old(x)
        loss = soft_cross_entropy(self.model(x), target, temperature=self.temperature)
        self._step(self.weight * loss, where)
        return {"distill": loss.detach()}
