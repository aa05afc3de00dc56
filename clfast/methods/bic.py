"""`BiC`: two numbers, found on samples kept apart, correct what new classes say too loudly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import integer, real
from ..memory import ExemplarMemory
from ..ops import bias_correct
from .network_parts import joined
from .phases import PhaseLearner

# After these shares of its epochs the learning rate of the correction falls to a tenth.
_DECAYS = (0.3, 0.6, 0.8, 0.9)


class Correction(NamedTuple):
    """Logits of the classes are scale · o + shift."""

    classes: list[int]
    scale: float
    shift: float


class BiC(PhaseLearner):
    """Bias correction (Wu et al., CVPR 2019, "Large scale incremental learning").

    Its loss is lambda · distillation + (1 - lambda) · cross-entropy, lambda = n_old / (n_old +
    n_new) in classes, the teacher's logits being corrected ones. When a phase has been learnt, two
    numbers are fitted that make beta · o + gamma of the logits of its classes (Eq. 4), on a
    balanced set of samples that no phase trains on: a share of the exemplars, which the phase of
    their class keeps apart from the start. (`on_task_end` draws them of the samples that were
    observed.)

    Args:
        features: from x [B, ...] to [B, d].
        head: from features to logits [B, C].
        optimizer: of the parameters of both.
        temperature: T, divides the logits of both networks; no factor T^2.
        held_out: the share of a class's exemplars that is kept apart, at least one.
        correction_epochs, correction_lr: steps on the whole set kept apart, of SGD with momentum
            0.9, whose rate falls to a tenth at 30, 60, 80 and 90 % of them.
        shift_weight: loss of shift_weight · gamma^2 / 2, as the authors' code has it.
        options: see `PhaseLearner`. (Herding is of features of unit length by default; the paper
            does not say.)

    Raises:
        TypeError, ValueError: as `PhaseLearner`; a budget of less than two exemplars a class.
    """

    correction: Correction | None
    """Of the network before, and of the network now while there are no new classes."""
    validation: ExemplarMemory
    """What is kept apart; part of the budget."""

    def __init__(
        self,
        features: nn.Module,
        head: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        temperature: float = 2.0,
        held_out: float = 0.1,
        correction_epochs: int = 200,
        correction_lr: float = 0.1,
        shift_weight: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(joined(features, head, "BiC"), optimizer, **options)
        self.temperature = real(temperature, "temperature", "BiC", least=0, open_ends="(")
        self.held_out = real(held_out, "held_out", "BiC", least=0, most=1, open_ends="()")
        self.correction_epochs = integer(correction_epochs, "correction_epochs", "BiC", least=0)
        self.correction_lr = real(correction_lr, "correction_lr", "BiC", least=0)
        self.shift_weight = real(shift_weight, "shift_weight", "BiC", least=0)
        if self.exemplars.per_class in (0, 1):
            raise ValueError(
                "BiC: exemplars must be at least 2 of each class, of which one is kept apart, "
                f"got {self.exemplars.per_class}"
            )
        self.validation = ExemplarMemory(
            self.exemplars.per_class, total=self.exemplars.total, dtype=self.exemplars.dtype
        )
        self.correction = None

    @property
    def memories(self) -> list[ExemplarMemory]:
        """Exemplars, and what is kept apart."""
        return [self.exemplars, self.validation]

    def _apart(self, count: int) -> int:
        """Of so many exemplars of a class, those that are kept apart; one stays at least."""
        return max(1, min(round(self.held_out * count), count - 1))

    def _trained(self, x: Tensor, y: Tensor) -> Tensor:
        count = self._share(y)
        if count < 2:
            raise ValueError(
                f"BiC: exemplars must be at least 2 of each class, of which one is kept apart, but "
                f"the budget for {len(self.seen)} classes gives {count}"
            )
        apart = self._apart(count)
        order = torch.randperm(len(y), generator=self.generator, device="cpu").to(y.device)
        held = torch.cat([order[y[order] == label][:apart] for label in y.unique()])
        self.validation.keep(apart)
        self.validation.put(x[held], y[held])
        kept = torch.ones(len(y), dtype=torch.bool, device=y.device)
        kept[held] = False
        return kept.nonzero()[:, 0]

    def _select(self, x: Tensor, y: Tensor, count: int) -> None:
        apart = self._apart(count)
        self.validation.keep(apart)
        super()._select(x, y, count - apart)

    def _end(self, x: Tensor, y: Tensor, where: str) -> None:
        new = sorted(self.seen - {*self.old_classes})
        first = not self.old_classes
        super()._end(x, y, where)
        self.correction = None if first or not new else self._fitted(new, where)

    def _fitted(self, new: list[int], where: str) -> Correction:
        """The correction of the network as it is now."""
        device = next(self.model.parameters()).device
        x, y = self.validation.x.to(device), self.validation.y.to(device)
        logits = torch.cat([super(BiC, self)._scores(part, where) for part in x.split(256)])
        classes = torch.tensor(new, device=device)
        scale = torch.ones((), dtype=logits.dtype, device=device, requires_grad=True)
        shift = torch.zeros((), dtype=logits.dtype, device=device, requires_grad=True)
        optimizer = torch.optim.SGD([scale, shift], lr=self.correction_lr, momentum=0.9)
        decays = [round(share * self.correction_epochs) for share in _DECAYS]
        for epoch in range(self.correction_epochs):
            if epoch in decays:
                optimizer.param_groups[0]["lr"] /= 10
            loss = F.cross_entropy(bias_correct(logits, classes, scale, shift), y)
            optimizer.zero_grad()
            (loss + self.shift_weight * shift.square() / 2).backward()
            optimizer.step()
        return Correction(new, float(scale.detach()), float(shift.detach()))

    def _corrected(self, logits: Tensor) -> Tensor:
        if self.correction is None:
            return logits
        classes = torch.tensor(self.correction.classes, device=logits.device)
        scale, shift = logits.new_tensor([self.correction.scale, self.correction.shift])
        return bias_correct(logits, classes, scale, shift)

    def _said(self, old: nn.Module, x: Tensor) -> Tensor:
        return self._corrected(super()._said(old, x))

    def _scores(self, x: Tensor, where: str) -> Tensor:
        logits = super()._scores(x, where)
        return self._corrected(logits) if self.seen == {*self.old_classes} else logits

    def _objective(
        self, x: Tensor, y: Tensor, old: nn.Module | None, where: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self._logits(x, where)
        self._known(y, logits, where)
        taught = 0.0 if old is None else len(self.old_classes) / len(self.seen)
        return self._distilled(logits, x, y, old, self.temperature, taught, 1 - taught)

    def _own_state(self) -> dict[str, Any]:
        correction = None if self.correction is None else self.correction._asdict()
        validation = self.validation.state_dict()
        return {**super()._own_state(), "correction": correction, "validation": validation}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        super()._load_own_state(state)
        self.validation.load_state_dict(state["validation"])
        correction = state["correction"]
        self.correction = None if correction is None else Correction(**correction)
