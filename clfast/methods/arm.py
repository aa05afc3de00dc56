"""`ARM`: rehearsal without a buffer, on images that the networks themselves recall.

Ji, Henriques, Tuytelaars, Vedaldi: "Automatic Recall Machines: Internal Replay, Continual Learning
and the Brain". Where the authors' code differs from the paper, the code is the default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..nn.chain import linear_chains
from ..ops import recall_gradients
from ..ops.recall import Divergence
from .image_recall import Drawn, ImageRecall, Objective, RecallOptions
from .image_replay import ImageReplay


@dataclass(frozen=True)
class ArmOptions(RecallOptions):
    """Weights of the loss as in :func:`clfast.ops.recall_loss`."""

    divergence: Divergence = "ag"
    not_local_old: float = 1.0
    not_local_new: float = 0.1
    diversity: float = 16.0
    sharpness: float = 0.1

    def check(self, where: str) -> None:
        super().check(where)
        if self.divergence not in ("ag", "js", "ce"):
            raise ValueError(f"{where}: divergence must be ag, js or ce, got {self.divergence!r}")


Pair: TypeAlias = "tuple[Tensor, Tensor]"
Gradient: TypeAlias = "Callable[[list[Tensor]], Tensor]"


class DisagreeingImages(ImageRecall):
    """Images on which two networks disagree (Eq. 8)."""

    options: ArmOptions

    def draw(self, model: nn.Module, x: Tensor, y: Tensor, seen: set[int]) -> Drawn:
        del seen
        rows = self._rows(len(x))
        if not self._copies_are_run_once(model, x):
            return Drawn(rows, None, torch.arange(len(rows), device="cpu"), y.unique())
        distinct, copies, counts = rows.unique(return_inverse=True, return_counts=True)
        return Drawn(distinct, counts.to(x.device), copies, y.unique())

    def objective(self, old: nn.Module, new: nn.Module, drawn: Drawn) -> Objective:
        o = self.options
        vjp = self._vjp(old, new)

        def value_and_gradient(images: Tensor) -> tuple[Tensor, Tensor]:
            logits, gradient = vjp(images)
            loss, *slopes = recall_gradients(
                *(*logits, drawn.classes),
                divergence_weight=o.divergence_weight,
                not_local_old=o.not_local_old,
                not_local_new=o.not_local_new,
                diversity=o.diversity,
                sharpness=o.sharpness,
                divergence=o.divergence,
                multiplicity=drawn.multiplicity,
            )
            return loss, gradient(slopes)

        return value_and_gradient

    def _vjp(self, old: nn.Module, new: nn.Module) -> Callable[[Tensor], tuple[Pair, Gradient]]:
        """From images [K, ...] to both networks' logits [K, C], without a graph, and a call that
        takes gradients by them to the gradient by the images."""

        def by_autograd(images: Tensor) -> tuple[Pair, Gradient]:
            images = images.detach().requires_grad_()
            logits = self.logits(old, images), self.logits(new, images)
            plain = logits[0].detach(), logits[1].detach()
            return plain, lambda slopes: torch.autograd.grad(logits, images, slopes)[0]

        chains = None if self.options.autocast is not None else linear_chains(old, new)
        if chains is None:
            return by_autograd

        def by_chains(images: Tensor) -> tuple[Pair, Gradient]:
            if torch.is_autocast_enabled(images.device.type):
                return by_autograd(images)
            (of_old, of_new), gradient = chains.vjp(images)
            return (of_old, of_new), gradient

        return by_chains


class ARM(ImageReplay):
    """Automatic recall machine (Algorithm 1).

    A step on the batch; then S steps that change images of the batch until the network before and
    the network now disagree on them; then a step that brings the network now back to what the one
    before said of these images, and of the batch.

    Args:
        model: from x [B, ...] to logits [B, C]. It runs in train mode throughout a call of
            ``observe``, as in the authors' code.
        optimizer: of the model's parameters; takes both steps.
        snapshot: when the network before is taken: ``"task"``, at each ``on_task_end``; or every so
            many calls of ``observe``, before the step on the batch, as in the authors' code (1 is
            their unit lag, for which they set ``divergence_weight=8``).
        teach_from: calls of ``observe`` before the first recall. Default: one task, that is the
            first ``on_task_end``, or ``snapshot`` calls.
        images, steps, lr: M, S and eta_1 of the recall.
        replay_weight, distill_weight: lambda_0 of the recalled images and of the batch.
        replay_mean: ``"separate"`` means over recalled images and over the batch, as in the
            authors' code; ``"joint"`` one over both, as Algorithm 1 has it.
        divergence, divergence_weight, not_local_old, not_local_new, diversity, sharpness: of the
            recall loss, see :func:`clfast.ops.recall_loss`; tv_weight, l2_weight: of the image
            prior. The defaults (100, 10, 10; ag, 1, 1, 0.1, 16, 0.1; 1, 1) are the authors' for
            CIFAR-10; for MNIST they use images=10, lr=25.
        repeats: recall and replay so many times a call; ``refine_from_scratch``: each time from the
            batch, else from the images of the time before.
        start: images begin as images of the batch, or as uniform ``"noise"``.
        dedup: run every distinct image once, weighted by how often it was drawn: exact, and faster
            the more M exceeds the batch. A model whose layers treat equal images of a batch
            differently runs every copy, with one warning.
        bn_track_recall: recalled images move the running statistics of batch normalisation.
        image_shape: [Ch, H, W] where x comes as vectors.
        autocast: ``torch.bfloat16`` or ``torch.float16``: the networks' passes in ``observe`` and
            ``recall`` run under :class:`torch.autocast`; losses, images and parameters stay
            float32, and what is float64 stays that. Gradients are not scaled: in float16 small ones
            may become 0.
        cuda_graph: on CUDA, capture the S steps in a CUDA graph and replay it while networks,
            shapes and options repeat: from the second time on, anew for every network before. What
            cannot be captured, as a model for which the host waits, runs as without, with one
            warning; modules must do nothing on the host that matters. On the CPU it means nothing.
        generator: on the CPU, draws images and noise; None: torch's global one.

    Raises:
        TypeError, ValueError: as `Classifier`; options out of range.
    """

    _OPTIONS = ArmOptions
    _RECALL = DisagreeingImages
