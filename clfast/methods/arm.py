"""`ARM`: rehearsal without a buffer, on images that the networks themselves recall.

Ji, Henriques, Tuytelaars, Vedaldi: "Automatic Recall Machines: Internal Replay, Continual Learning
and the Brain". Where the authors' code differs from the paper, the code is the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .._arguments import integer, real
from ..ops import soft_cross_entropy
from ..ops.recall import Divergence
from . import checks
from .image_recall import ImageRecall, RecallOptions
from .protocol import Batches
from .snapshot import SnapshotClassifier


class Recalled(NamedTuple):
    """M recalled images and what the old network says of them."""

    images: Tensor  # [M, ...]
    old_logits: Tensor  # [M, C]


class ARM(SnapshotClassifier):
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
            prior. Defaults of the authors for CIFAR-10; for MNIST they use images=10, lr=25.
        repeats: recall and replay so many times a call; ``refine_from_scratch``: each time from the
            batch, else from the images of the time before.
        start: images begin as images of the batch, or as uniform ``"noise"``.
        dedup: run every distinct image once, weighted by how often it was drawn: exact, and faster
            the more M exceeds the batch. A model whose layers treat equal images of a batch
            differently runs every copy, with one warning.
        bn_track_recall: recalled images move the running statistics of batch normalisation.
        image_shape: [Ch, H, W] where x comes as vectors.
        generator: on the CPU, draws images and noise; None: torch's global one.

    Raises:
        TypeError, ValueError: as `Classifier`; options out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        snapshot: Literal["task"] | int = "task",
        teach_from: int | None = None,
        images: int = 100,
        steps: int = 10,
        lr: float = 10.0,
        replay_weight: float = 1.0,
        distill_weight: float = 1.0,
        replay_mean: Literal["separate", "joint"] = "separate",
        divergence: Divergence = "ag",
        divergence_weight: float = 1.0,
        not_local_old: float = 1.0,
        not_local_new: float = 0.1,
        diversity: float = 16.0,
        sharpness: float = 0.1,
        tv_weight: float = 1.0,
        l2_weight: float = 1.0,
        repeats: int = 1,
        refine_from_scratch: bool = False,
        start: Literal["batch", "noise"] = "batch",
        dedup: bool = True,
        bn_track_recall: bool = True,
        image_shape: tuple[int, int, int] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, optimizer, snapshot, teach_from)
        options = RecallOptions(
            images=images,
            steps=steps,
            lr=lr,
            divergence=divergence,
            divergence_weight=divergence_weight,
            not_local_old=not_local_old,
            not_local_new=not_local_new,
            diversity=diversity,
            sharpness=sharpness,
            tv_weight=tv_weight,
            l2_weight=l2_weight,
            start=start,
            dedup=dedup,
            bn_track_recall=bn_track_recall,
            image_shape=image_shape,
        )
        options.check("ARM")
        if replay_mean not in ("separate", "joint"):
            raise ValueError(f"ARM: replay_mean must be separate or joint, got {replay_mean!r}")
        given: object = generator
        if given is not None and not isinstance(given, torch.Generator):
            raise TypeError(f"ARM: generator must be a torch.Generator, got {type(given).__name__}")
        self.replay_weight = real(replay_weight, "replay_weight", "ARM")
        self.distill_weight = real(distill_weight, "distill_weight", "ARM")
        self.replay_mean = replay_mean
        self.repeats = integer(repeats, "repeats", "ARM", least=1)
        self.refine_from_scratch = refine_from_scratch
        self._recall = ImageRecall(options, generator)

    def recall(self, x: Tensor, y: Tensor) -> Recalled:
        """Recalled images and the old network's logits, for use in another loop.

        Runs in train mode. Parameters, gradients and modes stay as they are; running statistics
        move as in ``observe``.

        Raises:
            RuntimeError: there is no old network yet.
            TypeError, ValueError: as `observe`.
        """
        where = "ARM.recall"
        if self.old is None:
            raise RuntimeError(
                f"{where}: there is no network from before yet; call on_task_end() after the first "
                "task, or observe() with snapshot=<number of steps>"
            )
        self._recall.check(x, where)
        with self._guarded():
            with torch.no_grad():
                classes = self.old(x).shape[1]
            checks.check_labels(y, len(x), classes, x.device, where)
            drawn = self._recall.draw(self.model, x)
            images = self._recall.begin(x, drawn)
            images, _ = self._recall.refine(self.old, self.model, images, drawn, y.unique())
            with torch.no_grad(), self._recall.counted(drawn, self.old):
                logits = self.old(images)
        return Recalled(images[drawn.copies], logits[drawn.copies])

    def on_task_end(self, loader: Batches | None = None) -> None:
        """The network now becomes the network before, if ``snapshot="task"``; whether the model
        treats equal images equally is tried out again."""
        super().on_task_end(loader)
        self._recall.forget()

    def _undo(self) -> Callable[[], None]:
        undo, generator = super()._undo(), self._recall.generator
        if generator is None:
            return undo
        state = generator.get_state()

        def undo_all() -> None:
            undo()
            generator.set_state(state)

        return undo_all

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        self._recall.check(x, where)
        return super()._learn(x, y, where)

    def _taught(self, old: nn.Module, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        present = y.unique()
        weights = self._replay_weights(len(x))
        images: Tensor | None = None
        losses: dict[str, Tensor] = {}
        for _ in range(self.repeats):
            if images is None or self.refine_from_scratch:
                drawn = self._recall.draw(self.model, x)
                images = self._recall.begin(x, drawn)
            images, of_recall = self._recall.refine(old, self.model, images, drawn, present)
            with torch.no_grad():
                with self._recall.counted(drawn, old):
                    target = old(images)
                target_here = old(x)
            with self._recall.counted(drawn, self.model):
                recalled = self.model(images)
            here = self.model(x)
            replay = soft_cross_entropy(recalled, target, multiplicity=drawn.multiplicity)
            distill = soft_cross_entropy(here, target_here)
            self._step(weights[0] * replay + weights[1] * distill, where)
            losses = {
                "recall": of_recall,
                "replay": replay.detach(),
                "distill": distill.detach(),
            }
        return losses

    def _replay_weights(self, batch: int) -> tuple[float, float]:
        if self.replay_mean == "separate":
            return self.replay_weight, self.distill_weight
        recalled = self._recall.options.images
        both = recalled + batch
        return self.replay_weight * recalled / both, self.distill_weight * batch / both

    def _own_state(self) -> dict[str, Any]:
        generator = self._recall.generator
        state = None if generator is None else generator.get_state()
        return {**super()._own_state(), "generator": state}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        super()._load_own_state(state)
        if self._recall.generator is not None:
            self._recall.generator.set_state(state["generator"])
