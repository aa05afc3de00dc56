"""`MAS`: memory aware synapses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import mas_importance
from .base import Batches
from .quadratic import QuadraticPlugin
from .tables import Table


class MAS(QuadraticPlugin):
    """Memory aware synapses (Aljundi et al. 2018): strength sum Omega (theta - theta*)^2.

    When a task ends, the mean over its samples of |d ||f(x)||^2 / d theta| is added to Omega
    (:func:`clfast.ops.mas_importance`), and theta* is theta. No labels are needed.

    Args:
        model, strength: as of :class:`QuadraticPlugin`; lambda of the paper's Eq. 4.
    """

    def __init__(self, model: nn.Module, *, strength: float) -> None:
        super().__init__(model, strength)

    @torch.inference_mode(False)
    @torch.no_grad()
    def on_task_end(self, loader: Batches | None = None) -> None:
        """Adds the importances of the task that ended.

        Args:
            loader: its samples, batches x or (x, ...).

        Raises:
            TypeError, ValueError, RuntimeError: what the loader gives is of a wrong kind, nothing
                or not for this model; the penalty is as before.
        """

        fresh = self.mean_over(loader, _of_batch, labels=False)
        before = self._tables["importances"]
        importances = {name: before[name] + fresh[name] for name in before}
        self._end_task(importances=importances, anchors=self._values())


def _of_batch(network: nn.Module, x: Tensor, y: Tensor | None) -> Table:
    return mas_importance(network, x)
