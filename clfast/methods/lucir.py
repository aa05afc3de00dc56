"""`LUCIR`: classes old and new on one scale, by a cosine head."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import integer, real
from .._modes import evaluating
from ..nn import CosineLinear
from ..ops import class_means, margin_ranking_loss
from ..optim import protect
from .exemplar_selection import features_of
from .network_parts import joined, parts
from .phases import PhaseLearner


class LUCIR(PhaseLearner):
    """Hou et al., CVPR 2019, "Learning a unified classifier incrementally via rebalancing".

    Its loss is cross-entropy over classes seen + less_forget · sqrt(n_old / n_new) · mean(1 -
    cos(f, f_old)) + ranking · `margin_ranking_loss` of old samples against new classes (Eq. 6, 8
    and 10). Embeddings of old classes stay as they are, to the bit, while a phase is learnt (a
    fine-tuning at its end trains all); those of new ones begin as the mean of their features
    (`fit_task`), of the mean length of the old ones.

    Args:
        features: from x [B, ...] to [B, d]; the paper's last block has no ReLU, see ``last_relu``
            of ``clfast.nn.resnet32`` and ``resnet18``.
        head: from features to logits [B, C].
        optimizer: of the parameters of both.
        less_forget: lambda_base.
        ranking: weight of the margin ranking.
        margin, k: of the margin ranking: m and K.
        options: see `PhaseLearner`.

    Raises:
        TypeError, ValueError: as `PhaseLearner`; a head of another kind.
    """

    def __init__(
        self,
        features: nn.Module,
        head: CosineLinear,
        optimizer: torch.optim.Optimizer,
        *,
        less_forget: float = 5.0,
        ranking: float = 1.0,
        margin: float = 0.5,
        k: int = 2,
        **options: Any,
    ) -> None:
        if not isinstance(head, CosineLinear):
            raise TypeError(f"LUCIR: head must be a CosineLinear, got {type(head).__name__}")
        super().__init__(joined(features, head, "LUCIR"), optimizer, **options)
        self.less_forget = real(less_forget, "less_forget", "LUCIR", least=0)
        self.ranking = real(ranking, "ranking", "LUCIR", least=0)
        self.margin = real(margin, "margin", "LUCIR", least=0)
        self.k = integer(k, "k", "LUCIR", least=1)

    def _head(self) -> CosineLinear:
        head = parts(self.model, "LUCIR").head
        assert isinstance(head, CosineLinear)
        return head

    def _objective(
        self, x: Tensor, y: Tensor, old: nn.Module | None, where: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        head = self._head()
        features = self._logits(x, where, parts(self.model, where).features)
        cosines = head.cosines(features)
        logits = head.sigma * cosines
        self._known(y, logits, where)
        loss = F.cross_entropy(self._of_seen(logits), y)
        losses = {"loss": loss.detach()}
        new = sorted(self.seen - {*self.old_classes})
        if old is None or not self.old_classes or not new:
            return loss, losses
        teacher = parts(old, where).features
        with torch.no_grad(), evaluating(teacher):
            target = teacher(x)
        forgotten = (1 - F.cosine_similarity(features, target)).mean()
        new_classes = torch.tensor(new, device=x.device)
        ranked = margin_ranking_loss(cosines, y, new_classes, margin=self.margin, k=self.k)
        losses |= {"less_forget": forgotten.detach(), "ranking": ranked.detach()}
        weight = self.less_forget * math.sqrt(len(self.old_classes) / len(new))
        return loss + weight * forgotten + self.ranking * ranked, losses

    def _held(self, old: nn.Module | None) -> AbstractContextManager[Any]:
        if old is None or not self.old_classes:
            return nullcontext()
        weight = self._head().weight
        rows = torch.zeros(weight.shape, dtype=torch.bool, device="cpu")
        rows[self.old_classes] = True
        return protect(self._stepper(), {weight: rows.to(weight.device)})

    @torch.no_grad()
    def _welcome(self, x: Tensor, y: Tensor, classes: list[int]) -> None:
        if not self.old_classes:
            return
        head = self._head()
        features = features_of(parts(self.model, "LUCIR"), x, "LUCIR.fit_task")
        means = class_means(features, y, head.out_features).to(head.weight)
        length = head.weight[self.old_classes].norm(dim=1).mean()
        head.weight[classes] = length * means[classes]
