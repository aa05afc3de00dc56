"""`RWalk`: Riemannian walk."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from .. import _arguments
from ..ops import rwalk_importance_
from .base import Batches
from .fisher import Fisher, FisherTargets
from .path import Gradient, PathIntegral
from .tables import grouped


class RWalk(PathIntegral):
    """Riemannian walk (Chaudhry et al. 2018): strength sum (F + s) (theta - theta*)^2.

    The path integral omega is :class:`SI`'s. When a task ends, F <- decay F + (1 - decay) F_t with
    the Fisher information of its samples, the scores s become the mean of themselves and
    max(0, omega / (F delta^2 + damping)) (:func:`clfast.ops.rwalk_importance_`), delta being how
    far the task has moved a parameter, and theta* is theta. The paper keeps F by batches of the
    training; here it is that of the end of the task, as in FACIL.

    Args:
        model, strength: as of :class:`QuadraticPlugin`; lambda of the paper.
        decay: from 0 to 1.
        damping: > 0.
        gradient: as of :class:`SI`.
        targets, generator: as of :class:`EWC`.
    """

    _TABLES: ClassVar[tuple[str, ...]] = ("omegas", "fishers", "scores")
    _NOT_NEGATIVE: ClassVar[tuple[str, ...]] = ("importances", "fishers", "scores")

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: float,
        decay: float = 0.5,
        damping: float = 0.1,
        gradient: Gradient = "task",
        targets: FisherTargets = "labels",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, strength, gradient)
        where = type(self).__name__
        self._decay = _arguments.real(decay, "decay", where, least=0, most=1)
        self._damping = _arguments.real(damping, "damping", where, least=0, open_ends="(")
        self._fisher = Fisher(targets, generator, where)
        self._generator = generator

    @torch.inference_mode(False)
    @torch.no_grad()
    def on_task_end(self, loader: Batches | None = None) -> None:
        """As of :class:`EWC`."""
        self._check_path()
        fresh, values = self._fisher.of_task(self, loader), self._values()
        anchors, before = self._tables["anchors"], self._tables["fishers"]
        fishers = {name: torch.lerp(fresh[name], before[name], self._decay) for name in before}
        deltas = {name: values[name] - anchors[name] for name in values}
        scores = {name: score.clone() for name, score in self._tables["scores"].items()}
        for names in grouped(scores):
            lists = ([table[n] for n in names] for table in (self._omegas, fishers, deltas))
            rwalk_importance_([scores[n] for n in names], *lists, damping=self._damping)
        self._end_task(
            importances={name: fishers[name] + scores[name] for name in scores},
            anchors=values,
            omegas=self._no_path(),
            fishers=fishers,
            scores=scores,
        )
