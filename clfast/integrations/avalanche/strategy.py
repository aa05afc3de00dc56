"""What the adapters take from a strategy of Avalanche, without an import of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader

from ..._arguments import one_of
from ...plugins.base import Batches

NOT_BEGUN = (
    "{}: no experience has begun; pass it to the strategy as plugins=[...], before strategy.train"
)


class Strategy(Protocol):
    """Of ``avalanche.training.templates.SupervisedTemplate``, what is used here."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    experience: Any
    mbatch: Any
    loss: Tensor
    train_mb_size: int


def mini_batch(strategy: Strategy, where: str) -> list[Tensor]:
    """x, y, and the task labels where the stream has them, which makes 2 or 3 tensors."""
    batch = strategy.mbatch
    found = list(batch) if isinstance(batch, Sequence) else [batch]
    if len(found) not in (2, 3) or not all(isinstance(part, Tensor) for part in found):
        kinds = ", ".join(type(part).__name__ for part in found)
        raise TypeError(
            f"{where}: strategy.mbatch must be tensors x, y or x, y, task labels, got ({kinds}); "
            "use a benchmark of samples (x, y) or (x, y, task label)"
        )
    return found


def check_not_joined(strategy: Strategy, where: str) -> None:
    """RuntimeError where the mini-batch has more samples than the strategy takes of the experience:
    those of a replay, which would be stored once more, as the task's that is under way."""
    most = min(strategy.train_mb_size, len(trained_on(strategy)))
    count = len(strategy.mbatch[0])
    if count > most:
        raise RuntimeError(
            f"{where}: it stores each mini-batch, and this one has {count} samples, more than the "
            f"{most} of the experience, as beside a replay plugin, whose samples would be stored "
            'again; store when an experience has ended ("experience"), or take the replay plugin '
            "out"
        )


Often: TypeAlias = Literal["experience", "iteration"]
"""When samples are stored: at an experience's end, or each mini-batch after its step, for streams
that are seen once."""


class Stores:
    """Keeps samples as often as it was asked to."""

    _often: Often

    def _store_every(self, often: Often, argument: str) -> None:
        one_of(often, ("experience", "iteration"), argument, type(self).__name__)
        self._often = often

    def before_forward(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        if self._often == "iteration":
            check_not_joined(strategy, type(self).__name__)

    def after_training_iteration(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        if self._often == "iteration":
            x, y, *_ = mini_batch(strategy, type(self).__name__)
            self._keep(x, y)

    @abstractmethod
    def _keep(self, x: Tensor, y: Tensor) -> None:
        """Samples x [N, ...] and their labels y [N]."""


class _Joined(ConcatDataset[Any]):
    """Data sets of one benchmark."""

    def __init__(self, datasets: list[Any]) -> None:
        super().__init__(datasets)
        self.collate_fn = getattr(datasets[0], "collate_fn", None)


def trained_on(strategy: Strategy) -> Any:
    """The data set of the strategy's experience, or of all those that JointTraining has joined,
    whose ``strategy.experience`` is the first."""
    joined = getattr(strategy, "_experiences", None) or [strategy.experience]
    datasets = [experience.dataset for experience in joined]
    return _Joined(datasets) if len(datasets) > 1 else datasets[0]


def samples(strategy: Strategy, dataset: Any, size: int | None) -> Batches:
    """Batches of a data set in an order of their own, for it may be sorted by class.

    size: of a batch; None: the strategy's of training.
    """
    return _loader(dataset, size or strategy.train_mb_size)


def pairs_of(dataset: Any, size: int) -> Batches:
    """Batches x, y of a data set, without its task labels."""
    return ((x, y) for x, y, *_ in _loader(dataset, size))


def _loader(dataset: Any, size: int) -> DataLoader[Any]:
    # With torch's global generator the draws of the strategy would be other ones.
    options: dict[str, Any] = {
        "shuffle": len(dataset) > 0,
        "generator": torch.Generator().manual_seed(0),
        "collate_fn": getattr(dataset, "collate_fn", None),
    }
    return DataLoader(dataset, size, **options)


def columns(batches: Iterable[Sequence[Tensor]], where: str) -> list[Tensor]:
    """All batches as one: x, y, and the task labels where there are any."""
    read = [list(batch) for batch in batches]
    if not read:
        raise ValueError(f"{where}: the experience has no samples; leave it out of the stream")
    return [torch.cat(parts) for parts in zip(*read, strict=True)]


def check_one_head(model: nn.Module, where: str) -> None:
    """RuntimeError for a model whose forward wants task labels, a MultiTaskModule of Avalanche."""
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(model).__mro__}
    if "avalanche.MultiTaskModule" in names:
        raise RuntimeError(
            f"{where}: strategy.model is a MultiTaskModule, which wants task labels with its "
            "inputs, but the passes here are of inputs alone; use a model with one head for all "
            "classes"
        )


Made = TypeVar("Made")


class OfModel:
    """Makes something for the model of the strategy, when its first experience begins, and sees
    that it is that model's later on."""

    def __init__(self) -> None:
        self._model: nn.Module | None = None

    def of(self, strategy: Strategy, make: Callable[[nn.Module], Made], made: Made | None) -> Made:
        """What was made for the model, or what ``make`` makes of it.

        Raises:
            RuntimeError: the strategy has another model by now.
        """
        if made is None:
            made = make(strategy.model)
            self._model = strategy.model
        elif strategy.model is not self._model:
            raise RuntimeError(
                f"{type(self).__name__}: strategy.model was replaced by another model, as "
                "GDumbPlugin does in each experience, or this plugin has served another strategy, "
                "and what is known of the model before says nothing about this one; take one of "
                "the two plugins out, or a new plugin for a new strategy"
            )
        return made

    def _begun(self, made: Made | None) -> Made:
        if made is None:
            raise RuntimeError(NOT_BEGUN.format(type(self).__name__))
        return made
