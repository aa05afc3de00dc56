"""`ImageReplay`: a learner that rehearses on images which it recalls, in place of a buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .._arguments import boolean, integer, real
from ..ops import soft_cross_entropy
from . import checks
from .image_recall import ImageRecall, RecallOptions
from .protocol import Batches
from .snapshot import TaughtAfterwards


class Recalled(NamedTuple):
    """M recalled images and what the old network says of them."""

    images: Tensor  # [M, ...]
    old_logits: Tensor  # [M, C], at least in float32


class ImageReplay(TaughtAfterwards):
    """A step on the batch; then images are recalled, and a step brings the network now back to what
    the one before said of these images, and of the batch (Algorithm 1 of the ARM paper).

    Args:
        model, optimizer, snapshot, teach_from: see `SnapshotClassifier`.
        replay_weight, distill_weight: lambda_0 of the recalled images and of the batch.
        replay_mean: ``"separate"``, a mean over each; or ``"joint"``, one over both.
        repeats: recall and replay so often a call.
        refine_from_scratch: with more than one repeat, each begins with images of the batch; else
            with those that the repeat before ended with.
        generator: on the CPU, draws images and noise; None: torch's global one.
        recall: how images are recalled, the fields of the learner's options.
    """

    _OPTIONS: ClassVar[type[RecallOptions]]
    _RECALL: ClassVar[type[ImageRecall]]

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        snapshot: Literal["task"] | int = "task",
        teach_from: int | None = None,
        replay_weight: float = 1.0,
        distill_weight: float = 1.0,
        replay_mean: Literal["separate", "joint"] = "separate",
        repeats: int = 1,
        refine_from_scratch: bool = False,
        generator: torch.Generator | None = None,
        **recall: Any,
    ) -> None:
        super().__init__(model, optimizer, snapshot, teach_from)
        name = type(self).__name__
        known = [field.name for field in fields(self._OPTIONS) if field.init]
        for option in recall:
            if option not in known:
                raise TypeError(
                    f"{name}: there is no option {option}; of recall: {', '.join(known)}"
                )
        if replay_mean not in ("separate", "joint"):
            raise ValueError(f"{name}: replay_mean must be separate or joint, got {replay_mean!r}")
        self.replay_weight = real(replay_weight, "replay_weight", name)
        self.distill_weight = real(distill_weight, "distill_weight", name)
        self.replay_mean = replay_mean
        self.repeats = integer(repeats, "repeats", name, least=1)
        self.refine_from_scratch = boolean(refine_from_scratch, "refine_from_scratch", name)
        self._recall = self._RECALL(self._OPTIONS(**recall), generator, name)

    def recall(
        self, x: Tensor, y: Tensor, *, past_classes: Iterable[int] | None = None
    ) -> Recalled:
        """Recalled images and the old network's logits, for use in another loop.

        Runs in train mode. Parameters, gradients and modes stay as they are; running statistics
        move as in ``observe``. Such a loop calls ``on_task_end`` itself, with
        ``snapshot="task"``.

        Args:
            x, y: as of ``observe``.
            past_classes: for learners that ask for images of them, the classes learnt before;
                default: those that ``observe`` has seen and the batch does not show.

        Raises:
            RuntimeError: there is no old network yet.
            TypeError, ValueError: as `observe`; no past class is known.
        """
        where = f"{type(self).__name__}.recall"
        if self.old is None:
            raise RuntimeError(
                f"{where}: there is no network from before yet; with snapshot='task' on_task_end() "
                "takes it after the first task, with a number of steps observe() does"
            )
        self._recall.check(x, where)
        with self._guarded(where):
            with torch.no_grad(), self._recall.passes(x.device):
                classes = self._logits(x, where, self.old).shape[1]
            checks.check_labels(y, len(x), classes, x.device, where)
            known = self.seen if past_classes is None else set(past_classes)
            drawn = self._recall.draw(self.model, x, y, known)
            images = self._recall.begin(x, drawn)
            images, _ = self._recall.refine(self.old, self.model, images, drawn)
            with torch.no_grad(), self._recall.counted(drawn, self.old):
                logits = self._recall.logits(self.old, images)
        return Recalled(images[drawn.copies], logits[drawn.copies])

    def teach(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """What ``observe`` does after its step on the batch, for a loop that took that step.

        Such a loop calls ``on_task_end`` itself, with ``snapshot="task"``.

        Args:
            x, y: as of ``observe``.

        Returns:
            The losses by name; none while no network from before teaches.

        Raises:
            ValueError: with another ``snapshot``, which is taken before the step.
            TypeError, ValueError: as `observe`; all is as before.
        """
        where = f"{type(self).__name__}.teach"
        if self.snapshot != "task":
            raise ValueError(
                f"{where}: snapshot is {self.snapshot}, which observe() takes before its own step; "
                "make the learner with snapshot='task'"
            )
        return self._learnt(x, y, self._learn_afterwards, where)

    def _learn_afterwards(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        self._recall.check(x, where)
        # Whether there is an output for each is the business of the step that was taken.
        checks.check_labels(y, len(x), torch.iinfo(torch.int64).max, x.device, where)
        old = self._teacher()
        self._count(y)
        return {} if old is None else self._taught(old, x, y, where)

    def on_task_end(self, loader: Batches | None = None) -> None:
        """The network now becomes the network before, if ``snapshot="task"``; whether the model
        treats equal images equally is tried out again."""
        super().on_task_end(loader)
        self._recall.forget()

    def _undo(self) -> Callable[[], None]:
        undo, state = super()._undo(), self._recall.random_state()

        def undo_all() -> None:
            undo()
            self._recall.restore(state)

        return undo_all

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        self._recall.check(x, where)
        return super()._learn(x, y, where)

    def _cross_entropy(self, x: Tensor, y: Tensor, where: str) -> tuple[Tensor, Tensor]:
        with self._recall.passes(x.device):
            return super()._cross_entropy(x, y, where)

    def _taught(self, old: nn.Module, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        weights = self._replay_weights(len(x))
        images: Tensor | None = None
        losses: dict[str, Tensor] = {}
        for _ in range(self.repeats):
            if images is None or self.refine_from_scratch:
                drawn = self._recall.draw(self.model, x, y, self.seen)
                images = self._recall.begin(x, drawn)
            images, of_recall = self._recall.refine(old, self.model, images, drawn)
            with torch.no_grad():
                target, target_here = self._recall.logits_of_both(old, images, x, drawn)
            recalled, here = self._recall.logits_of_both(self.model, images, x, drawn)
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
        generator, saved = self._recall.generator, state["generator"]
        if (generator is None) != (saved is None):
            raise ValueError("one learner was made with a generator, the other without")
        if generator is not None:
            generator.set_state(saved)
