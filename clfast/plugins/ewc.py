"""`EWC` and `OnlineEWC`: elastic weight consolidation."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from .. import _arguments
from .base import Batches
from .fisher import Fisher, FisherTargets
from .quadratic import QuadraticPlugin


class EWC(QuadraticPlugin):
    """Elastic weight consolidation (Kirkpatrick et al. 2017): strength / 2 sum_t F_t (theta -
    theta*_t)^2 over the tasks t so far.

    F_t is the diagonal of the Fisher information when task t ends, by the gradients of single
    samples (:func:`clfast.ops.per_sample_fisher`), and theta*_t the parameters then. All tasks
    together are one penalty, with sum_t F_t around the mean of theta*_t weighted by F_t, up to a
    constant; where F is 0 the mean is the parameter as it is.

    Args:
        model, strength: as of :class:`QuadraticPlugin`; lambda of the paper.
        targets: whose gradients: of the samples' "labels" (the empirical Fisher information), of
            one label a sample that is drawn from the model ("sample"), or the mean over all classes
            weighted by the model ("exact", as many backward passes as classes).
        generator: on the CPU, for "sample"; torch's own where there is none.

    Example:
        >>> ewc = EWC(model, strength=1000.0)
        >>> for loader in tasks:
        ...     for x, y in loader:
        ...         optimizer.zero_grad()
        ...         F.cross_entropy(model(x), y).backward()
        ...         ewc.after_backward()
        ...         optimizer.step()
        ...     ewc.on_task_end(loader)
    """

    _FACTOR: ClassVar[float] = 0.5

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: float,
        targets: FisherTargets = "labels",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, strength)
        self._fisher = Fisher(targets, generator, type(self).__name__)
        self._generator = generator

    @torch.inference_mode(False)
    @torch.no_grad()
    def on_task_end(self, loader: Batches | None = None) -> None:
        """Adds the task that ended to the penalty.

        Args:
            loader: its samples, batches (x, y, ...); labels are looked at where ``targets`` is
                "labels".

        Raises:
            TypeError, ValueError, RuntimeError: what the loader gives is of a wrong kind, nothing
                or not for this model; the penalty is as before.
        """
        fisher, values = self._fisher.of_task(self, loader), self._values()
        importances, anchors = {}, {}
        for name, before in self._tables["importances"].items():
            importances[name] = before + fisher[name]
            share = (fisher[name] / importances[name]).nan_to_num(nan=1.0)
            anchors[name] = torch.lerp(self._tables["anchors"][name], values[name], share)
        self._end_task(importances=importances, anchors=anchors)


class OnlineEWC(QuadraticPlugin):
    """EWC with one running Fisher information (Schwarz et al. 2018, "Progress & Compress"):
    strength / 2 sum gamma F (theta - theta*)^2.

    When a task ends, F <- gamma F + F_t and theta* <- theta. As in the paper, gamma is a factor of
    the penalty, too.

    Args:
        model, strength, targets, generator: as of :class:`EWC`.
        gamma: from 0 to 1, how much of earlier tasks is kept.
    """

    _FACTOR: ClassVar[float] = 0.5

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: float,
        gamma: float = 1.0,
        targets: FisherTargets = "labels",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, strength)
        self._fisher = Fisher(targets, generator, type(self).__name__)
        self._generator = generator
        self._gamma = _arguments.real(gamma, "gamma", type(self).__name__, least=0, most=1)

    @torch.inference_mode(False)
    @torch.no_grad()
    def on_task_end(self, loader: Batches | None = None) -> None:
        """As of :class:`EWC`."""
        fisher, before = self._fisher.of_task(self, loader), self._tables["importances"]
        # What is kept is gamma F.
        importances = {name: self._gamma * (before[name] + fisher[name]) for name in before}
        self._end_task(importances=importances, anchors=self._values())
