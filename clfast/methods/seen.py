"""`SeenClassifier`: outputs of classes that were not seen yet take no part."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._modes import evaluating
from ..plugins.teacher import distilled
from . import checks
from .exemplar_selection import as_inputs
from .snapshot import SnapshotClassifier


class SeenClassifier(SnapshotClassifier):
    """Has outputs for all classes from the start, of which those seen so far count; samples are
    floating point, or uint8, which stands for x / 255.

    Args: see `SnapshotClassifier`.
    """

    def _taking_part(self) -> list[int]:
        """Classes whose outputs count, ascending; none means all."""
        return sorted(self.seen)

    def _of_seen(self, logits: Tensor) -> Tensor:
        """Logits [B, C], -inf for classes that take no part."""
        classes = self._taking_part()
        if not classes or len(classes) == logits.shape[1]:
            return logits
        absent = torch.ones(logits.shape[1], dtype=torch.bool, device="cpu")
        absent[classes] = False
        return logits.masked_fill(absent.to(logits.device), -torch.inf)

    def _scores(self, x: Tensor, where: str) -> Tensor:
        checks.check_samples(x, where)
        return self._of_seen(super()._scores(self._inputs(x), where))

    def _known(self, y: Tensor, logits: Tensor, where: str) -> None:
        """Looks at labels of a batch, whose classes are seen from now on."""
        checks.check_labels(y, len(logits), logits.shape[1], logits.device, where)
        self.seen.update(y.tolist())

    def _said(self, old: nn.Module, x: Tensor) -> Tensor:
        """Logits of the network before, in eval mode."""
        with torch.no_grad(), evaluating(old):
            logits: Tensor = old(x)
        return logits

    def _distilled(
        self,
        logits: Tensor,
        x: Tensor,
        y: Tensor,
        old: nn.Module | None,
        temperature: float,
        weight: float,
        own: float = 1.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """own · cross-entropy of the classes that take part + weight · distillation of those
        before."""
        loss = F.cross_entropy(self._of_seen(logits), y)
        losses = {"loss": loss.detach()}
        loss = own * loss
        if old is not None and self.old_classes:
            distill = distilled(logits, self._said(old, x), self.old_classes, temperature)
            losses["distill"] = distill.detach()
            loss = loss + weight * distill
        return loss, losses

    def _outputs(self, x: Tensor, where: str) -> int:
        """C."""
        with torch.no_grad(), evaluating(self.model):
            return self._logits(x[:1], where).shape[1]

    def _inputs(self, x: Tensor) -> Tensor:
        return as_inputs(x, next(self.model.parameters()).dtype) if x.dtype == torch.uint8 else x
