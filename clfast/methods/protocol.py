"""What every continual learner offers, whatever its method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor

Batches: TypeAlias = "Iterable[tuple[Tensor, Tensor]]"
"""Batches (x [B, ...], y [B] int64), as a DataLoader or a stream of `clfast.streams` gives them."""


def pairs(
    loader: Batches, where: str, *, progress: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a loader, with a progress bar if asked for; TypeError for what is no pair."""
    if progress:
        from rich.progress import track

        loader = track(loader, description=where)
    if not isinstance(loader, Iterable):
        raise TypeError(f"{where}: loader must give pairs (x, y), got {type(loader).__name__}")
    for batch in loader:
        try:
            x, y = batch
        except (TypeError, ValueError):
            raise TypeError(f"{where}: loader must give pairs (x, y)") from None
        yield x, y


class Predictor(ABC):
    """What can be asked of every learner at any moment.

    Predicting changes nothing: no parameter, no buffer, no memory, no mode, no random state.
    """

    @abstractmethod
    def predict(self, x: Tensor) -> Tensor:
        """The class of every sample: [B, ...] -> [B] int64.

        Raises:
            TypeError, ValueError: bad input, named.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Copies of all that was learnt: tensors, numbers, text and containers of these.

        ``torch.save`` writes it and ``torch.load`` with ``weights_only=True`` reads it. Arguments
        of the constructor are not in it.
        """

    @abstractmethod
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` of a learner made alike returned, bit for bit.

        Raises:
            ValueError: a part is missing, unknown or does not fit; nothing was loaded.
        """


class TaskLearner(Predictor):
    """A classifier that takes all samples of a task at once, and goes over them as it needs."""

    @abstractmethod
    def fit_task(self, loader: Batches) -> dict[str, float]:
        """Learn the next task.

        Args:
            loader: gives all its samples, once: x [B, ...], y [B] int64.

        Returns:
            The losses by name, means over the last epoch.

        Raises:
            TypeError, ValueError: bad input, named; the learner is as before.
            RuntimeError: learning failed; the learner is as before.
        """


class Learner(Predictor):
    """A classifier that learns from a stream, batch by batch, and predicts at any moment.

    An online run is ``for x, y in stream: learner.predict(x); learner.observe(x, y)``. Where the
    stream has tasks, ``on_task_end`` is called between them.

    Learners that also train on a whole task at once, as `HAT` does, add ``fit_task(loader)``.
    """

    @abstractmethod
    def observe(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Learn from a batch.

        Args:
            x: [B, ...], what the model takes. B may be 0 where the learner has a memory for keys:
                then nothing is learnt. The others refuse an empty batch.
            y: [B] int64 class labels.

        Returns:
            The losses by name, means over the batch; 0 for an empty one.

        Raises:
            TypeError, ValueError: bad input, named; model and memory are as before.
        """

    def on_task_end(self, loader: Batches | None = None) -> None:
        """Told between tasks; `loader` gives the samples of the task that ended.

        Most learners need nothing here: the default does nothing.
        """
        del loader
