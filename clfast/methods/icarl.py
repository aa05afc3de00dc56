"""`ICaRL`: the nearest mean of exemplars decides, and old outputs teach new ones."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import boolean, one_of, real
from .._modes import evaluating
from ..ops import class_means, nearest_class_mean
from . import checks
from .exemplar_selection import features_of
from .network_parts import joined, parts
from .phases import PhaseLearner


class ICaRL(PhaseLearner):
    """iCaRL (Rebuffi et al., CVPR 2017): predicts the class whose exemplars' mean feature is
    nearest, and learns with what the network before says of old classes in place of their labels.

    Means are of features of unit length, of exemplars and of their mirror images, and of unit
    length again. They are kept while parameters, buffers and exemplars stay; changes through
    ``.data``, which autograd does not see either, go unnoticed. Before there are exemplars the head
    predicts.

    Args:
        features: from x [B, ...] to [B, d].
        head: from features to logits [B, C].
        optimizer: of the parameters of both.
        loss: "sigmoid", the paper's: binary cross-entropy, mean over samples and classes seen, of
            each output with 1 for the label, 0 for the others, and sigmoid outputs of the network
            before for the classes before (Algorithm 3). Or "softmax", as LUCIR's and Mnemonics'
            authors run iCaRL: cross-entropy + weight · distillation of the classes before.
        weight, temperature: of the distillation of "softmax"; no factor T^2.
        mirror: means are of mirror images [..., ::-1] too, for samples [Ch, H, W].
        options: see `PhaseLearner`.

    Raises:
        TypeError, ValueError: as `PhaseLearner`.
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        loss: Literal["sigmoid", "softmax"] = "sigmoid",
        weight: float = 1.0,
        temperature: float = 2.0,
        mirror: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(joined(features, head, "ICaRL"), optimizer, **options)
        one_of(loss, ("sigmoid", "softmax"), "loss", "ICaRL")
        self.loss = loss
        self.weight = real(weight, "weight", "ICaRL", least=0)
        self.temperature = real(temperature, "temperature", "ICaRL", least=0, open_ends="(")
        self.mirror = boolean(mirror, "mirror", "ICaRL")
        self._means: Tensor | None = None  # [C, d]
        self._means_of: list[tuple[Tensor, int]] = []  # of what they are: tensors and versions

    def predict(self, x: Tensor) -> Tensor:
        """The class with the nearest mean: [B, ...] -> [B] int64.

        Raises as `Classifier.predict`.
        """
        where = "ICaRL.predict"
        if not len(self.exemplars):
            return super().predict(x)
        return nearest_class_mean(
            self._features(x, where), self._class_means(where), metric="cosine"
        )

    def predict_log_proba(self, x: Tensor) -> Tensor:
        """The log-softmax of -||f - mean||^2, f of unit length: [B, C], -inf for classes without
        exemplars. Raises as `Classifier.predict`."""
        where = "ICaRL.predict_log_proba"
        if not len(self.exemplars):
            return super().predict_log_proba(x)
        means, features = self._class_means(where), F.normalize(self._features(x, where))
        scores = 2 * features @ means.T  # + 2, which is the same for all
        return scores.masked_fill(~means.any(1), -torch.inf).log_softmax(1)

    def class_means(self) -> Tensor:
        """[C, d], of unit length; zeros for classes without exemplars.

        Raises:
            RuntimeError: there are no exemplars.
        """
        if not len(self.exemplars):
            raise RuntimeError("ICaRL.class_means: there are no exemplars")
        return self._class_means("ICaRL.class_means").clone()

    @torch.no_grad()
    def _class_means(self, where: str) -> Tensor:
        now = self._state_of_means()
        same = len(now) == len(self._means_of) and all(
            a is b and v == w for (a, v), (b, w) in zip(now, self._means_of, strict=True)
        )
        if self._means is None or not same:
            device = next(self.model.parameters()).device
            x, y = self.exemplars.x.to(device), self.exemplars.y.to(device)
            network = parts(self.model, where)
            features = features_of(network, x, where)
            if self.mirror and x.dim() == 4:
                features = torch.cat([features, features_of(network, x.flip(-1), where)])
                y = y.repeat(2)
            outputs = self._outputs(self._inputs(x[:1]), where)
            self._means, self._means_of = class_means(features, y, outputs), now
        return self._means

    def _state_of_means(self) -> list[tuple[Tensor, int]]:
        network = [*self.model.parameters(), *self.model.buffers()]
        return [(t, t._version) for t in (*network, self.exemplars.x, self.exemplars.y)]

    @torch.no_grad()
    def _features(self, x: Tensor, where: str) -> Tensor:
        checks.check_samples(x, where)
        features = parts(self.model, where).features
        with evaluating(features):
            found = self._logits(self._inputs(x), where, nn.Sequential(features, nn.Flatten()))
        checks.check_finite(found, where)
        return found

    def _objective(
        self, x: Tensor, y: Tensor, old: nn.Module | None, where: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self._logits(x, where)
        self._known(y, logits, where)
        if self.loss == "softmax":
            return self._distilled(logits, x, y, old, self.temperature, self.weight)
        seen = torch.tensor(sorted(self.seen), device=x.device)
        targets = F.one_hot(y, logits.shape[1]).to(logits)
        if old is not None and self.old_classes:
            before = torch.tensor(self.old_classes, device=x.device)
            targets[:, before] = self._said(old, x)[:, before].sigmoid()
        loss = F.binary_cross_entropy_with_logits(logits[:, seen], targets[:, seen])
        return loss, {"loss": loss.detach()}
