"""`Fisher`: how a plugin estimates the Fisher information of a task."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from .. import _arguments
from ..ops import per_sample_fisher
from .base import Batches
from .quadratic import QuadraticPlugin
from .tables import Table

FisherTargets: TypeAlias = Literal["labels", "sample", "exact"]


class Fisher:
    """The mean over a task's samples of :func:`clfast.ops.per_sample_fisher`."""

    def __init__(
        self, targets: FisherTargets, generator: torch.Generator | None, where: str
    ) -> None:
        _arguments.one_of(targets, ("labels", "sample", "exact"), "targets", where)
        if generator is not None:
            _arguments.cpu_generator(generator, where)
            if targets != "sample":
                raise ValueError(
                    f'{where}: generator draws labels of targets="sample"; leave it out with '
                    f'targets="{targets}"'
                )
        self._targets, self._generator = targets, generator

    def of_task(self, plugin: QuadraticPlugin, loader: Batches | None) -> Table:
        return plugin.mean_over(loader, self._of_batch, labels=self._targets == "labels")

    def _of_batch(self, network: nn.Module, x: Tensor, y: Tensor | None) -> Table:
        targets = y if self._targets == "labels" else self._targets
        assert targets is not None
        return per_sample_fisher(network, x, targets, generator=self._generator)
