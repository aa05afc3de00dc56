"""Accuracies of a generative classifier, and the epoch that DGM's authors report."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..methods import GenerativeClassifier
from ..methods.task_run import Progress

Samples = tuple[Tensor, Tensor]
"""Images uint8 [N, Ch, size, size] and labels [N] int64."""
_EVERY = 2  # epochs


def accuracy(learner: GenerativeClassifier, samples: Samples) -> dict[str, Any]:
    """Of the images of all classes so far: "accuracy", and "by_class", of labels that ascend."""
    x, y = samples
    by_class = {
        label: float((learner.predict(x[y == label]).cpu() == label).float().mean())
        for label in sorted(learner.classes)
    }
    counts = [int((y == label).sum()) for label in by_class]
    right = sum(a * n for a, n in zip(by_class.values(), counts, strict=True))
    return {"accuracy": right / sum(counts), "by_class": list(by_class.values())}


class BestEpoch:
    """The epoch of a task whose critic classifies validation images best, and how it does on test
    images: what DGM's authors report of a task. They look every second epoch, and so is it here,
    and after the last.

    Validation images are real ones of all classes so far, which a learner that keeps none has not:
    nothing that it learns depends on them.

    Args:
        validation, test: images of all classes.
    """

    def __init__(self, validation: Samples, test: Samples) -> None:
        self._validation, self._test = validation, test
        self._task = -1
        self._curve: list[list[float]] = []
        self._best: dict[str, Any] = {}

    def after_epoch(self, learner: GenerativeClassifier, at: Progress, epochs: int) -> None:
        """Look at the learner after the last batch of an epoch."""
        if at.task != self._task:
            self._task, self._curve, self._best = at.task, [], {}
        if at.epoch % _EVERY and at.epoch != epochs - 1:
            return
        found = accuracy(learner, self._validation)["accuracy"]
        if not self._curve or found > max(before for _, before in self._curve):
            self._best = {"epoch": at.epoch, **accuracy(learner, self._test)}
        self._curve.append([at.epoch, found])

    def record(self) -> dict[str, Any]:
        """Of the last task: "validation", epochs and accuracies, and "best", the "epoch" that had
        the best of these first, with its test "accuracy" and "by_class"."""
        return {"validation": self._curve, "best": self._best}

    def state_dict(self) -> dict[str, Any]:
        return {"task": self._task, "curve": self._curve, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._task, self._curve, self._best = state["task"], state["curve"], state["best"]
