"""Continual-learning metrics: all of them are read off one matrix of accuracies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._arguments import integer


class AccuracyMatrix:
    """R [T, T]: R[i, j] is the accuracy on the test set of task j after training on task i.

    Tasks count from 0, accuracies are fractions in [0, 1]. Fill it with `matrix[i, j] = accuracy`
    while a stream runs; `set_before(j, accuracy)` keeps the accuracies before any training, which
    only `forward_transfer` needs. Every metric takes `after`, the last task to count (by default
    the last one whose row R[i, :i + 1] is complete), and raises ValueError when an entry that its
    formula needs has not been recorded.
    """

    def __init__(self, num_tasks: int) -> None:
        num_tasks = integer(num_tasks, "num_tasks", "AccuracyMatrix", least=1)
        self._values: NDArray[np.float64] = np.full((num_tasks, num_tasks), np.nan)
        self._before: NDArray[np.float64] = np.full(num_tasks, np.nan)

    @property
    def num_tasks(self) -> int:
        """T."""
        return len(self._before)

    @property
    def values(self) -> NDArray[np.float64]:
        """A copy of R [T, T], NaN where nothing is recorded."""
        return np.array(self._values)

    @property
    def before(self) -> NDArray[np.float64]:
        """A copy of the accuracies before training [T], NaN where nothing is recorded."""
        return np.array(self._before)

    def __setitem__(self, entry: tuple[int, int], accuracy: float) -> None:
        after, task = _pair(entry)
        self._values[self._index(after), self._index(task)] = _fraction(accuracy)

    def __getitem__(self, entry: tuple[int, int]) -> float:
        after, task = _pair(entry)
        value = float(self._values[self._index(after), self._index(task)])
        if np.isnan(value):
            raise ValueError(f"AccuracyMatrix: accuracy [{after}, {task}] is not recorded")
        return value

    def set_before(self, task: int, accuracy: float) -> None:
        """Record the accuracy on `task` of the model before any training.

        Raises TypeError or ValueError for a task or an accuracy that is none.
        """
        self._before[self._index(task)] = _fraction(accuracy)

    def average_accuracy(
        self, after: int | None = None, *, weights: Sequence[float] | None = None
    ) -> float:
        """A_i = mean over j <= i of R[i, j] (Lopez-Paz & Ranzato 2017).

        `weights` [T], the numbers of test samples, make it the accuracy on all samples of the tasks
        so far, which differs where tasks differ in size. In [0, 1]. Raises ValueError for weights
        that are not so, and where an accuracy of row i is not recorded.
        """
        last = self._last(after)
        row = [self[last, task] for task in range(last + 1)]
        if weights is None:
            return fmean(row)
        if len(weights) != self.num_tasks or not all(weight > 0 for weight in weights):
            raise ValueError(
                f"AccuracyMatrix: weights must be {self.num_tasks} positive numbers, "
                f"got {list(weights)}"
            )
        weighted = sum(weight * value for weight, value in zip(weights, row, strict=False))
        return weighted / sum(weights[: last + 1])

    def average_incremental_accuracy(
        self, after: int | None = None, *, weights: Sequence[float] | None = None
    ) -> float:
        """Mean of A_0, ..., A_i (Rebuffi et al. 2017); theirs has `weights`, see A_i.

        In [0, 1]. Raises ValueError as `average_accuracy` does.
        """
        steps = range(self._last(after) + 1)
        return fmean(self.average_accuracy(step, weights=weights) for step in steps)

    def forgetting(
        self, after: int | None = None, *, since: Literal["best", "learned"] = "best"
    ) -> float:
        """Mean drop of accuracy on the tasks before the last, in [-1, 1]; lower is better.

        * `since="best"`: mean over j < i of (max over l < i of R[l, j]) - R[i, j] (Chaudhry et
          al. 2018). Accuracies recorded before task j was trained, l < j, count where they exist.
        * `since="learned"`: mean over j < i of R[j, j] - R[i, j], which is -`backward_transfer`.

        Raises ValueError for another `since`, for fewer than two tasks, and where an accuracy that
        the formula needs is not recorded.
        """
        if since == "learned":
            return -self.backward_transfer(after)
        if since != "best":
            raise ValueError(f'AccuracyMatrix: since must be "best" or "learned", got {since!r}')
        last = self._last(after, at_least=1)
        drops = []
        for task in range(last):
            early = self._values[:task, task]
            past = [*early[~np.isnan(early)], *(self[step, task] for step in range(task, last))]
            drops.append(float(max(past)) - self[last, task])
        return fmean(drops)

    def forgetting_rate(self, after: int | None = None) -> float:
        """R[0, 0] - R[i, 0]: the drop on the test set of the first task (Liu et al. 2020,
        "Mnemonics Training", section 5.1), in [-1, 1]; lower is better.

        Raises ValueError for fewer than two tasks, and where one of both is not recorded.
        """
        return self[0, 0] - self[self._last(after, at_least=1), 0]

    def backward_transfer(self, after: int | None = None) -> float:
        """BWT = mean over j < i of R[i, j] - R[j, j] (Lopez-Paz & Ranzato 2017).

        In [-1, 1]; higher is better. Raises ValueError for fewer than two tasks, and where an
        accuracy that the formula needs is not recorded.
        """
        last = self._last(after, at_least=1)
        return fmean(self[last, task] - self[task, task] for task in range(last))

    def forward_transfer(self, after: int | None = None) -> float:
        """FWT = mean over 0 < j <= i of R[j - 1, j] - b[j], b before training (the same paper).

        In [-1, 1]; higher is better. Raises ValueError for fewer than two tasks, and where an
        accuracy that the formula needs, `set_before`'s among them, is not recorded.
        """
        last = self._last(after, at_least=1)
        if np.isnan(self._before[1 : last + 1]).any():
            raise ValueError(
                "AccuracyMatrix: forward_transfer needs the accuracies before training, "
                f"set_before(task, accuracy) for tasks 1 to {last}"
            )
        return fmean(
            self[task - 1, task] - float(self._before[task]) for task in range(1, last + 1)
        )

    def to_json(self) -> str:
        """The matrix as JSON, null where nothing is recorded."""
        return json.dumps({"accuracy": _nullable(self._values), "before": _nullable(self._before)})

    @classmethod
    def from_json(cls, text: str) -> AccuracyMatrix:
        """The matrix that `to_json` wrote, bit for bit; ValueError for anything else."""
        try:
            read = json.loads(text)
            values, before = (np.array(read[key], dtype=float) for key in ("accuracy", "before"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"AccuracyMatrix.from_json: not an accuracy matrix: {error}") from None
        if before.ndim != 1 or len(before) == 0 or values.shape != (len(before), len(before)):
            raise ValueError(
                f"AccuracyMatrix.from_json: accuracy has shape {values.shape}, "
                f"before {before.shape}; expected (T, T) and (T,)"
            )
        for value in (*values.flat, *before):
            if not np.isnan(value):
                _fraction(value)
        matrix = cls(len(before))
        matrix._values, matrix._before = values, before
        return matrix

    def _index(self, task: int) -> int:
        number = integer(task, "task", "AccuracyMatrix", least=-(2**63))
        if not 0 <= number < self.num_tasks:
            raise ValueError(f"AccuracyMatrix: task must be in 0..{self.num_tasks - 1}, got {task}")
        return number

    def _last(self, after: int | None, at_least: int = 0) -> int:
        if after is None:
            lower = np.tri(self.num_tasks, dtype=bool)
            complete = np.flatnonzero((~np.isnan(self._values) | ~lower).all(axis=1))
            if len(complete) == 0:
                raise ValueError("AccuracyMatrix: no row is complete")
            after = int(complete[-1])
        if self._index(after) < at_least:
            raise ValueError("AccuracyMatrix: transfer and forgetting need two tasks or more")
        return after


def _pair(entry: tuple[int, int]) -> tuple[int, int]:
    if not (isinstance(entry, tuple) and len(entry) == 2):
        raise TypeError(f"AccuracyMatrix: an entry is [after, task], got {entry!r}")
    return entry


def _fraction(accuracy: float) -> float:
    try:
        value = float(accuracy)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"AccuracyMatrix: accuracy must be a number: {error}") from None
    if not 0 <= value <= 1:
        raise ValueError(f"AccuracyMatrix: accuracy must be a fraction in [0, 1], got {value}")
    return value


def _nullable(values: NDArray[np.float64]) -> Any:
    return np.where(np.isnan(values), None, values).tolist()  # type: ignore[call-overload]
