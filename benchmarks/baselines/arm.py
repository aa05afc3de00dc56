"""A step of ARM in plain PyTorch: Algorithm 1 of Ji et al. as the authors' code runs it.

All M images are run, copies included, and every gradient is autograd's. The forms differ in their
losses:

* ``VECTORISED``: each term is a few operations on all rows.
* `compiled`: the same under ``torch.compile``.
* ``AS_PUBLISHED``: what the authors' code does within the algorithm. The soft cross-entropy is a
  loop over all classes, the term that keeps images away from present classes a loop over those; the
  mean prediction is bounded by a boolean mask; and in each of the S steps every term and their sum
  are read by ``item()``. What their experiment does beside it is left out: the record of all these
  numbers, accuracies of recalled images by class, copies of predictions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..opponents.recall import (
    cross_entropy_as_published,
    prior_value,
    recall_terms_as_published,
    recall_value,
)


class Losses(NamedTuple):
    """Scalars that autograd differentiates, with the weights of the authors' commands."""

    recall: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """Of old logits [M, C], new logits [M, C], present classes [P] and images [M, Ch, H, W]."""
    replay: Callable[[Tensor, Tensor], Tensor]
    """Of logits [M, C] and the logits [M, C] of their targets."""


def _recall(old: Tensor, new: Tensor, present: Tensor, images: Tensor) -> Tensor:
    return recall_value(old, new, present) + prior_value(images)


def _replay(logits: Tensor, target_logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, target_logits.softmax(1))


def _recall_as_published(old: Tensor, new: Tensor, present: Tensor, images: Tensor) -> Tensor:
    terms = [*recall_terms_as_published(old, new, present), prior_value(images)]
    loss = torch.stack(terms).sum()
    for metric in (*terms, loss):
        metric.item()
    return loss


VECTORISED = Losses(_recall, _replay)
AS_PUBLISHED = Losses(_recall_as_published, cross_entropy_as_published)


def compiled() -> Losses:
    """``VECTORISED`` under ``torch.compile``."""
    return Losses(*(torch.compile(loss, fullgraph=True, dynamic=False) for loss in VECTORISED))


class PlainARM:
    """`clfast.methods.ARM` with ``snapshot="task"``, without its checks and without its savings.

    Args:
        model: from x [B, ...] to logits [B, C].
        optimizer: of the model's parameters.
        losses: one of the forms.
        images, steps, lr: M, S and eta_1.
        image_shape: [Ch, H, W] where x comes as vectors.
        generator: on the CPU, draws as that of `clfast.methods.ARM`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        losses: Losses,
        *,
        images: int = 100,
        steps: int = 10,
        lr: float = 10.0,
        image_shape: tuple[int, int, int] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.model, self.optimizer, self.losses = model, optimizer, losses
        self.images, self.steps, self.lr = images, steps, lr
        self.image_shape, self.generator = image_shape, generator
        self.old: nn.Module | None = None

    def on_task_end(self) -> None:
        """The network now becomes the network before."""
        self.old = copy.deepcopy(self.model).requires_grad_(False).train()

    @torch.enable_grad()
    def observe(self, x: Tensor, y: Tensor) -> None:
        """A step on the batch; and, once there is a network before, recall and replay."""
        self.model.train()
        self._step(F.cross_entropy(self.model(x), y))
        if self.old is None:
            return
        images = self._recalled(self.old, x, y.unique())
        with torch.no_grad():
            target, target_here = self.old(images), self.old(x)
        replay = self.losses.replay(self.model(images), target)
        distill = self.losses.replay(self.model(x), target_here)
        self._step(replay + distill)

    def _recalled(self, old: nn.Module, x: Tensor, present: Tensor) -> Tensor:
        images = x[self._draw(len(x)).to(x.device)]
        shape = (len(images), *(self.image_shape or images.shape[1:]))
        for _ in range(self.steps):
            images.requires_grad_()
            loss = self.losses.recall(
                *(old(images), self.model(images), present, images.view(shape))
            )
            (slope,) = torch.autograd.grad(loss, images)
            images = (images - self.lr * slope).detach()
        return images

    def _draw(self, batch: int) -> Tensor:
        if self.images > batch:
            return torch.randint(batch, (self.images,), generator=self.generator)
        return torch.randperm(batch, generator=self.generator)[: self.images]

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
