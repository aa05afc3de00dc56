"""`HerdingBuffer` and `MnemonicsBuffer`: storage policies for Avalanche's ReplayPlugin."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ... import _arguments
from ...methods import Mnemonics
from ...methods.attachment import attached
from ...methods.exemplar_selection import Exemplars, ExemplarSelection, Herding
from .strategy import Strategy, check_one_head, columns, samples, trained_on


class ExemplarBuffer:
    """Exemplars of each class, as many of each, by any selection of :mod:`clfast.methods`.

    Of as many classes as were seen each has ``max_size // classes`` exemplars, or all its samples
    where it has fewer. When an experience has ended, those of its classes are selected from its
    samples, and from what is stored where a class comes again; of others the first stay, which the
    selection may adjust. It is what ``ReplayPlugin(mem_size, storage_policy=...)`` asks for,
    ``max_size`` being ``mem_size``; ``task_balanced_dataloader`` is not for it.

    Images are stored as the experience's data set gives them, and are no longer transformed then;
    a class has one task label, where the stream has any.

    Args:
        max_size: of all classes together, at least 1.
        head: name of the model's output layer, a Linear or what gives the logits of features in
            its place; its input are the features that a selection judges by.
        selection: makes the exemplars.
        seed: of all choices.

    Attributes:
        exemplars: all that are stored, as :class:`clfast.methods.Exemplars`; None before the first
            experience has ended.

    Raises:
        TypeError, ValueError: an argument that cannot be, here; a model without the head, a class
            more than exemplars, a class that comes with another task label, and what the selection
            refuses, when an experience has ended. The buffer is as before.
        RuntimeError: then, for a model that wants task labels, a MultiTaskModule.
    """

    exemplars: Exemplars | None

    def __init__(
        self, max_size: int, head: str, selection: ExemplarSelection, *, seed: int = 0
    ) -> None:
        where = type(self).__name__
        if not isinstance(head, str):
            raise TypeError(f"{where}: head must be a layer's name, got {type(head).__name__}")
        given: object = selection
        if not isinstance(given, ExemplarSelection):
            kind = type(given).__name__
            raise TypeError(f"{where}: selection must be an ExemplarSelection, got {kind}")
        self.max_size = _arguments.integer(max_size, "max_size", where, least=1)
        self.selection = selection
        self.exemplars = None
        self._head = head
        seed = _arguments.integer(seed, "seed", where, least=0)
        self._generator = torch.Generator().manual_seed(seed)
        self._tasks: dict[int, int] = {}  # task labels of classes, where the stream has them
        self._kind: Callable[[int], Any] = int  # of labels in the stream's samples

    @property
    def buffer(self) -> StoredSamples:
        """A data set of samples like the stream's."""
        if self.exemplars is None:
            return StoredSamples(torch.empty(0), [], [], self._kind)
        labels = self.exemplars.y.tolist()
        tasks = [self._tasks[label] for label in labels if label in self._tasks]
        return StoredSamples(self.exemplars.x, labels, tasks, self._kind)

    def update(self, strategy: Strategy, **kwargs: Any) -> None:
        """Takes in the samples that were trained on: of ``strategy.experience``, or of all that
        JointTraining has joined."""
        del kwargs
        self._take(strategy, trained_on(strategy))

    def pre_adapt(self, agent: Strategy, exp: Any) -> None:
        """Nothing is done before an experience."""

    def post_adapt(self, agent: Strategy, exp: Any) -> None:
        """Takes in the samples of an experience."""
        self._take(agent, exp.dataset)

    def _take(self, agent: Strategy, dataset: Any) -> None:
        where = type(self).__name__
        device = agent.device
        check_one_head(agent.model, where)
        x, y, *task = columns(samples(agent, dataset, None), where)
        found = self._tasks | self._labelled(y, task, where)
        x, y = x.to(device), y.to(device)
        old, new = self._parted(y.unique())
        if new is not None:
            x, y = torch.cat([x, new.x.to(device)]), torch.cat([y, new.y.to(device)])
        kept = [] if old is None else old.y.unique().tolist()
        count = self._count(len(kept) + len(y.unique()), where)
        network = _network(agent.model, self._head, where)
        parts = [] if old is None else [self._adjusted(network, _first(old, count), device)]
        parts += self._selected(network, x, y, count)
        labels = torch.cat([part.y.cpu() for part in parts])
        order = labels.argsort(stable=True)
        images = torch.cat([part.x.cpu() for part in parts])
        self.exemplars = Exemplars(images[order], labels[order])
        label = dataset[0][1]
        self._kind = torch.tensor if isinstance(label, Tensor) else type(label)
        self._tasks = found

    def resize(self, strategy: Strategy, new_size: int) -> None:
        """Another ``max_size``; where that is less, the first exemplars of each class stay."""
        del strategy
        where = f"{type(self).__name__}.resize"
        size = _arguments.integer(new_size, "new_size", where, least=1)
        before, self.max_size = self.max_size, size
        if self.exemplars is None:
            return
        try:
            count = self._count(len(self.exemplars.y.unique()), where)
        except ValueError:
            self.max_size = before
            raise
        self.exemplars = _first(self.exemplars, count)

    def _labelled(self, y: Tensor, task: list[Tensor], where: str) -> dict[int, int]:
        """The task labels of classes, of which each has one."""
        pairs = set(zip(y.tolist(), task[0].tolist(), strict=True)) if task else set()
        found = dict(pairs)
        for label, t in sorted(pairs):
            before = self._tasks.get(label, found[label])
            if before != t:
                raise ValueError(
                    f"{where}: samples of class {label} have the task labels {before} and {t}, but "
                    "exemplars of a class have one; number classes over all tasks, not from zero "
                    "in each, or use a stream without task labels"
                )
        return found

    def _parted(self, classes: Tensor) -> tuple[Exemplars | None, Exemplars | None]:
        """What is stored of other classes, and of these."""
        if self.exemplars is None:
            return None, None
        of_these = torch.isin(self.exemplars.y, classes.cpu())
        old, new = (
            Exemplars(self.exemplars.x[rows], self.exemplars.y[rows])
            for rows in (~of_these, of_these)
        )
        return old if len(old) else None, new if len(new) else None

    def _count(self, classes: int, where: str) -> int:
        """Of a class."""
        if self.max_size < classes:
            raise ValueError(
                f"{where}: max_size is {self.max_size}, but there are {classes} classes; make it "
                "at least one exemplar a class"
            )
        return self.max_size // classes

    def _adjusted(self, network: _Network, old: Exemplars, device: torch.device) -> Exemplars:
        moved = Exemplars(old.x.to(device), old.y.to(device))
        return self.selection.adjust(network, moved, generator=self._generator)

    def _selected(self, network: _Network, x: Tensor, y: Tensor, count: int) -> list[Exemplars]:
        """Classes of as many exemplars together."""
        classes, sizes = y.unique(return_counts=True)
        sizes = sizes.clamp(max=count)
        found = []
        for size in sizes.unique().tolist():
            rows = torch.isin(y, classes[sizes == size])
            found.append(
                self.selection.select(network, x[rows], y[rows], size, generator=self._generator)
            )
        return found


class HerdingBuffer(ExemplarBuffer):
    """The samples whose features' mean follows that of their class, see
    :class:`clfast.methods.Herding`; all classes in one call.

    Args:
        max_size, head, seed: see `ExemplarBuffer`.
        normalize: see :class:`clfast.methods.Herding`.
    """

    def __init__(self, max_size: int, head: str, *, normalize: bool = True, seed: int = 0) -> None:
        super().__init__(max_size, head, Herding(normalize=normalize), seed=seed)


class MnemonicsBuffer(ExemplarBuffer):
    """Exemplars that are trained, see :class:`clfast.methods.Mnemonics`.

    Args:
        max_size, head, seed: see `ExemplarBuffer`.
        options: of :class:`clfast.methods.Mnemonics`, by keyword or the objective by place.
    """

    def __init__(self, max_size: int, head: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(max_size, head, Mnemonics(**options), seed=seed)


class StoredSamples(Dataset[tuple[Any, ...]]):
    """Samples (x, y) or (x, y, task label), with labels of the kind that the stream's have."""

    def __init__(
        self, x: Tensor, labels: list[int], tasks: list[int], kind: Callable[[int], Any]
    ) -> None:
        self._x, self._kind = x, kind
        self.targets, self.targets_task_labels = labels, tasks

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        found = self._x[row], self._kind(self.targets[row])
        if not self.targets_task_labels:
            return found
        return *found, self.targets_task_labels[row]


class _Network(NamedTuple):
    features: nn.Module
    head: nn.Module


def _network(model: nn.Module, head: str, where: str) -> _Network:
    """Copies of what comes before a layer, and of the layer."""
    layers = dict(model.named_modules())
    if not head or head not in layers:
        raise ValueError(
            f"{where}: strategy.model has no layer {head!r}; there are "
            f"{', '.join(name for name in layers if name)}"
        )
    features = copy.deepcopy(model)
    attachment = attached(features)
    if attachment is not None:
        attachment.detach()
    layer = features.get_submodule(head)
    features.set_submodule(head, nn.Identity())
    return _Network(features, layer)


def _first(exemplars: Exemplars, count: int) -> Exemplars:
    """So many of each class."""
    rows = torch.cat(
        [(exemplars.y == label).nonzero()[:count, 0] for label in exemplars.y.unique()]
    )
    return Exemplars(exemplars.x[rows], exemplars.y[rows])
