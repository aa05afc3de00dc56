"""How a learner goes through a phase, and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._arguments import integer, real

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""From a batch [B, ...], floating point, and a generator on the CPU to another of its shape."""


@dataclass(frozen=True)
class Phase:
    """A phase of class-incremental learning; the defaults are LUCIR's on CIFAR-100, which Mnemonics
    takes over (section 5.1), where learning rates begin at 0.1. (Mnemonics fine-tunes besides.)

    Raises:
        TypeError, ValueError: a value that cannot be.
    """

    epochs: int = 160
    """Over new samples and exemplars together."""
    batch: int = 128
    """At most; all batches of an epoch have this size or one near it, none is left with less."""
    milestones: Sequence[int] = (80, 120)
    """After so many epochs of a phase its learning rates are multiplied by `factor`."""
    factor: float = 0.1
    augment: Augmentation | None = None
    """Of each batch that is trained on; None: samples as they are."""
    finetune_epochs: int = 0
    """Over the exemplars alone, old and new, of which each class has the same number; on
    classification alone. Batch normalisation takes the statistics of each batch, and its running
    ones stay those of samples. (In eval mode, where it holds no weight to a scale, these steps can
    undo what was learnt.)"""
    finetune_lr: float = 0.01
    """Of all parameter groups."""

    def __post_init__(self) -> None:
        integer(self.epochs, "epochs", "Phase", least=1)
        integer(self.batch, "batch", "Phase", least=1)
        integer(self.finetune_epochs, "finetune_epochs", "Phase", least=0)
        real(self.factor, "factor", "Phase", least=0, open_ends="(")
        real(self.finetune_lr, "finetune_lr", "Phase", least=0, open_ends="(")
        milestones: object = self.milestones
        if not isinstance(milestones, Sequence):
            kind = type(milestones).__name__
            raise TypeError(f"Phase: milestones must be a sequence of integers, got {kind}")
        for milestone in self.milestones:
            integer(milestone, "milestones", "Phase", least=0)
        if self.augment is not None and not callable(self.augment):
            raise TypeError(f"Phase: augment must be callable, got {type(self.augment).__name__}")

    def lr_factor(self, epoch: int) -> float:
        """Of learning rates in an epoch, from 0."""
        return float(self.factor) ** sum(epoch >= milestone for milestone in self.milestones)


class PhaseProgress(NamedTuple):
    """Where `fit_task` is, after an epoch."""

    phase: int  # from 0
    epoch: int  # epochs of this phase that are done
    epochs: int  # of this phase


@dataclass
class PhaseRun:
    """A phase that is being learnt."""

    classes: list[int]  # new ones, ascending
    size: int  # samples that came
    samples: int  # their fingerprint
    rows: Tensor  # [n] int64, those of them that are trained on
    lrs: list[float]  # of the parameter groups, as the phase began
    epoch: int = 0  # epochs that are done
    losses: dict[str, float] = field(default_factory=dict)  # of the last epoch

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))
