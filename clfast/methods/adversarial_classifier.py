"""`AdversarialClassifier`: a classifier whose generator is the opponent of its critic."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ..nn.critic import Critic
from ..optim import MaskedAdam
from .generative import GenerativeClassifier
from .generative_options import GenerativeOptions
from .images import Samples


class AdversarialClassifier(GenerativeClassifier):
    """A generator is trained against the critic; when a task ends, options say who classifies.

    The critic's layers serve its score, too, which is to tell real images from generated ones.
    While a task is learnt its classes are real and all others are generated, so that what the score
    needs separates them as well; and the last step before the end is adversarial. With
    ``classifier_epochs`` a network of its own classifies, and has seen generated images alone, of
    all classes.

    Args:
        channels, seed, device, dtype, options: as of `GenerativeMemory`.
    """

    options: GenerativeOptions

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        of_generator = MaskedAdam(self._learnt(), **self._adam(), **self._kept())
        return {**super()._optimizers(), "generator": of_generator}

    @abstractmethod
    def _learnt(self) -> list[nn.Parameter]:
        """The generator's, in this task."""

    def _kept(self) -> dict[str, Any]:
        """Of the generator: options of `MaskedAdam` by keyword."""
        return {}

    def _judged(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and logits that the generator learns from, to which the critic is constant."""
        critic = self._the_critic("fit_task")
        critic.requires_grad_(False)
        try:
            scores, logits = critic(images)
        finally:
            critic.requires_grad_(True)
        return scores, logits

    def _task_ended(self, samples: Samples, where: str) -> None:
        o = self.options
        if not o.recompute_statistics and not o.classifier_epochs:
            return
        remembered = self._remembered(samples.each)
        if o.recompute_statistics:
            old = remembered[: -len(samples.classes)].flatten(0, 1)
            self._recompute_statistics(torch.cat([samples.x, old]))
        if o.classifier_epochs:
            self._classifier = self._taught(remembered, where)

    def _recompute_statistics(self, x: Tensor) -> None:
        """Batch normalisation's, of the critic as it is: means over batches."""
        order = torch.randperm(len(x), generator=self._random, device=self.device)
        batches = order.tensor_split(-(-len(x) // self.options.batch))
        update_bn([x[rows] for rows in batches], self._the_critic("fit_task"))

    def _taught(self, images: Tensor, where: str) -> Critic:
        """A new network that has learnt to tell images [classes, R, ...] apart."""
        o, (classes, each) = self.options, images.shape[:2]
        x = images.flatten(0, 1)
        y = torch.arange(classes, device=self.device).repeat_interleave(each)
        classifier = self._critic(classes).train()
        optimizer = MaskedAdam(classifier.parameters(), **self._adam())
        for epoch in range(o.classifier_epochs):
            order = torch.randperm(len(x), generator=self._random, device=self.device)
            for rows in order.split(o.batch):
                loss = F.cross_entropy(classifier(x[rows])[1], y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if not math.isfinite(last := loss.item()):
                raise RuntimeError(
                    f"{where}: the loss of the classifier is {last} in epoch {epoch} of its "
                    f"own, after task {self.tasks - 1}; try a smaller lr"
                )
        optimizer.zero_grad()
        return classifier
