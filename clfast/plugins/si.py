"""`SI`: synaptic intelligence."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from .. import _arguments
from .base import Batches
from .path import Gradient, PathIntegral


class SI(PathIntegral):
    """Synaptic intelligence (Zenke et al. 2017): strength sum Omega (theta - theta*)^2.

    In every step omega -= g delta, with g the gradient at its beginning and delta what it moved a
    parameter by; when a task ends, Omega += omega / ((theta - theta*)^2 + damping) (Eq. 5), omega
    begins anew and theta* is theta. Both ``after_backward`` and ``after_step`` are needed, in the
    first task, too. Omega is negative where a parameter moved against its gradients.

    Args:
        model, strength: as of :class:`QuadraticPlugin`; c of the paper.
        damping: > 0, xi of the paper.
        gradient: g is that of the "task"'s loss alone, as in the paper's derivation, or the
            "total" one with the penalty's, as in some implementations (van de Ven's).

    Example:
        >>> si = SI(model, strength=0.1)
        >>> for loader in tasks:
        ...     for x, y in loader:
        ...         optimizer.zero_grad()
        ...         F.cross_entropy(model(x), y).backward()
        ...         si.after_backward()
        ...         optimizer.step()
        ...         si.after_step()
        ...     si.on_task_end()
    """

    _NOT_NEGATIVE: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        model: nn.Module,
        *,
        strength: float,
        damping: float = 0.1,
        gradient: Gradient = "task",
    ) -> None:
        super().__init__(model, strength, gradient)
        where = type(self).__name__
        self._damping = _arguments.real(damping, "damping", where, least=0, open_ends="(")

    @torch.inference_mode(False)
    @torch.no_grad()
    def on_task_end(self, loader: Batches | None = None) -> None:
        """Adds the importances of the task that ended; the loader is not looked at.

        Raises:
            RuntimeError: an importance is not finite, the parameters are not those of before, or
                have moved without a step that was seen; the penalty is as it was.
        """
        self._check_path()
        before, anchors = self._tables["importances"], self._tables["anchors"]
        values = self._values()
        importances = {
            name: before[name] + omega / ((values[name] - anchors[name]) ** 2 + self._damping)
            for name, omega in self._omegas.items()
        }
        self._end_task(importances=importances, anchors=values, omegas=self._no_path())
