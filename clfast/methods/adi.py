"""`ADI`: rehearsal on images of past classes, as the ARM paper compares to.

Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", with adaptive
inversion, in the form that Ji et al. ("Automatic Recall Machines") gave it: their code, in which
images begin as those of the batch and both networks are in train mode. :mod:`.deep_inversion` is
the form of Yin et al. themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn import batch_moments
from ..ops import divergence
from .image_recall import Drawn, ImageRecall, Objective, RecallOptions
from .image_replay import ImageReplay


@dataclass(frozen=True)
class AdiOptions(RecallOptions):
    statistics_weight: float = 0.1
    """Of the distance to the old network's running statistics."""


class PastClassImages(ImageRecall):
    """Each image shall be of a class drawn from those that the batch does not show."""

    def draw(self, model: nn.Module, x: Tensor, y: Tensor, seen: set[int]) -> Drawn:
        past = seen - set(y.tolist()) or seen
        if not past:
            raise ValueError("no class has been learnt before; recall() takes past_classes")
        classes = torch.tensor(sorted(past), device="cpu")
        rows = self._rows(len(x))
        chosen = torch.randint(len(classes), rows.shape, generator=self.generator, device="cpu")
        if not self._copies_are_run_once(model, x):
            return Drawn(
                rows, None, torch.arange(len(rows), device="cpu"), classes[chosen].to(x.device)
            )
        pairs, copies, counts = (rows * len(classes) + chosen).unique(
            return_inverse=True, return_counts=True
        )
        rows, chosen = pairs // len(classes), pairs % len(classes)
        return Drawn(rows, counts.to(x.device), copies, classes[chosen].to(x.device))


class InvertedImages(PastClassImages):
    """Images that the old network takes for their classes and for its own data, and on which the
    two networks disagree."""

    options: AdiOptions

    def objective(self, old: nn.Module, new: nn.Module, drawn: Drawn) -> Objective:
        o = self.options
        counts = drawn.multiplicity

        def value_and_gradient(images: Tensor) -> tuple[Tensor, Tensor]:
            images = images.detach().requires_grad_()
            with statistics_distances(old, counts) as distances:
                before = self.logits(old, images)
            each = F.cross_entropy(before, drawn.classes, reduction="none")
            each = each + o.divergence_weight * (1 - divergence(before, self.logits(new, images)))
            loss = each.mean() if counts is None else (each * counts).sum() / counts.sum()
            if distances:
                loss = loss + o.statistics_weight * torch.stack(distances).mean()
            return loss.detach(), torch.autograd.grad(loss, images)[0]

        return value_and_gradient


@contextmanager
def statistics_distances(
    model: nn.Module, multiplicity: Tensor | None, *, unbiased: bool = True
) -> Iterator[list[Tensor]]:
    """The list gets, from a forward pass inside, the distance of each batch normalisation's batch
    to its running statistics before this batch: ‖mean - running mean‖ + ‖var - running var‖."""
    distances: list[Tensor] = []

    def measure(norm: nn.modules.batchnorm._BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        mean, variance = batch_moments(inputs[0], multiplicity, unbiased=unbiased)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        distances.append((mean - norm.running_mean).norm() + (variance - norm.running_var).norm())

    tracking = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    hooks = [module.register_forward_pre_hook(measure) for module in tracking]
    try:
        yield distances
    finally:
        for hook in hooks:
            hook.remove()


class ADI(ImageReplay):
    """Adaptive inversion (the ARM authors' baseline).

    As :class:`ARM`, but images are made for classes: of each the old network shall say one of the
    classes learnt before that are not in the batch, its batch normalisations shall see the
    statistics that they know, and the two networks shall disagree.

    minimised: CE(a, class) + w_D (1 - D(a, b)) + w_S mean over layers of (‖μ - μ_run‖ +
    ‖σ² - σ²_run‖) + prior, with a and b the logits of the old and of the new network.

    Args:
        model, optimizer, snapshot, teach_from, images, steps, lr, replay_weight, distill_weight,
            replay_mean, repeats, refine_from_scratch, start, dedup, bn_track_recall, image_shape,
            autocast, cuda_graph, generator: see :class:`ARM`. The defaults are the authors' for
            CIFAR-10; for MNIST they use distill_weight=0.5. A graph needs the same number of images
            again, which ``dedup`` lets vary here more than there.
        divergence_weight: w_D, 1 by default; 8 for a snapshot before every batch.
        statistics_weight: w_S, 0.1 by default; without batch normalisation it means nothing.
        tv_weight, l2_weight: of the image prior, see :func:`clfast.ops.image_prior`.

    Raises:
        TypeError, ValueError: as :class:`ARM`.
    """

    _OPTIONS = AdiOptions
    _RECALL = InvertedImages
