"""Tasks, and class-incremental streams: a data set split by class into a sequence of tasks."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, overload

import torch

from .._arguments import integer, one_of
from .online import Data, LabelledDataset, as_dataset, as_generator


@dataclass(frozen=True)
class Task:
    """One task of a stream: its index from 0, the classes in it, its train and test samples.

    Both data sets are map-style (pairs of a sample and its label), have `y` [N] int64 and, for
    array data, `x` [N, ...].
    """

    index: int
    classes: tuple[int, ...]
    train: LabelledDataset
    test: LabelledDataset


class TaskStream(Sequence[Task]):
    """A fixed sequence of tasks."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tuple(tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Task, ...]: ...
    def __getitem__(self, index: int | slice) -> Task | tuple[Task, ...]:
        return self._tasks[index]


class SplitStream(TaskStream):
    """Class-incremental tasks: each holds all samples of its classes, in the order of the data.

    `train` and `test` are pairs (x [N, ...], y [N]) or map-style data sets, with the same classes.
    Exactly one of these says how to split:

    * `num_tasks`: that many tasks of equal size;
    * `classes_per_task`: tasks of that size;
    * `class_lists`: the classes of each task. They may leave classes out, and repeat them in a
      later task (`[half, everything]`: pre-train on half of the classes, go on with all).

    With the first two, `first_task_classes` gives the first task a size of its own (half of the
    classes first, then 5 phases: `first_task_classes=50, num_tasks=6`), and the classes come in
    ascending order, in `class_order`, or shuffled by `generator` (a torch.Generator or a seed).

    `relabel=True` replaces each label by the position of its class in the order of arrival, as
    growing heads need it. The attribute `class_order` lists the labels of the data in that order:
    `class_order[new]` is the old label. `relabel="task"` replaces it by the position in its task,
    as a head for every task needs it (task-incremental learning): each task has labels 0, 1, ....

    Raises ValueError or TypeError for empty data, labels that are not a vector of N non-negative
    integers, classes that differ between train and test, a class or a size that does not exist,
    a split that does not come out even, and another `relabel`.
    """

    def __init__(
        self,
        train: Data,
        test: Data,
        *,
        num_tasks: int | None = None,
        classes_per_task: int | None = None,
        class_lists: Sequence[Sequence[int]] | None = None,
        first_task_classes: int | None = None,
        class_order: Sequence[int] | None = None,
        generator: torch.Generator | int | None = None,
        relabel: bool | Literal["task"] = False,
    ) -> None:
        train_set = as_dataset(train, "SplitStream: train")
        test_set = as_dataset(test, "SplitStream: test")
        classes: list[int] = torch.unique(train_set.y).tolist()
        if unshared := set(classes) ^ set(torch.unique(test_set.y).tolist()):
            raise ValueError(f"SplitStream: train and test do not share classes {sorted(unshared)}")

        one_of(relabel, (False, True, "task"), "relabel", "SplitStream")
        if sum(way is not None for way in (num_tasks, classes_per_task, class_lists)) != 1:
            raise ValueError(
                "SplitStream: give exactly one of num_tasks, classes_per_task, class_lists"
            )
        if class_lists is not None:
            if any(way is not None for way in (first_task_classes, class_order, generator)):
                raise ValueError(
                    "SplitStream: class_lists says it all; "
                    "give no first_task_classes, class_order or generator with it"
                )
            lists = _checked_lists(class_lists, classes)
        else:
            sizes = _task_sizes(len(classes), num_tasks, classes_per_task, first_task_classes)
            order = iter(_ordered(classes, class_order, generator))
            lists = [[next(order) for _ in range(size)] for size in sizes]

        self.class_order: tuple[int, ...] = tuple(dict.fromkeys(chain.from_iterable(lists)))
        arrival = {old: new for new, old in enumerate(self.class_order)}
        tasks = []
        for index, task in enumerate(lists):
            label = {old: old for old in task}
            if relabel == "task":
                label = {old: new for new, old in enumerate(task)}
            elif relabel:
                label = arrival
            tasks.append(
                Task(
                    index,
                    tuple(label[old] for old in task),
                    _of_classes(train_set, task, label),
                    _of_classes(test_set, task, label),
                )
            )
        super().__init__(tasks)


def _ordered(
    classes: list[int],
    class_order: Sequence[int] | None,
    generator: torch.Generator | int | None,
) -> list[int]:
    if class_order is not None and generator is not None:
        raise ValueError("SplitStream: give class_order or generator, not both")
    if class_order is not None:
        order = _class_ids(class_order, "class_order")
        if sorted(order) != classes:
            raise ValueError("SplitStream: class_order must hold every class of train once")
        return order
    if generator is not None:
        shuffle = torch.randperm(
            len(classes), generator=as_generator(generator, "SplitStream"), device="cpu"
        )
        return [classes[i] for i in shuffle.tolist()]
    return classes


def _task_sizes(
    num_classes: int, num_tasks: int | None, classes_per_task: int | None, first: int | None
) -> list[int]:
    head = [] if first is None else [integer(first, "first_task_classes", "SplitStream", least=1)]
    rest = num_classes - sum(head)
    if num_tasks is not None:
        asked = f"num_tasks={num_tasks}"
        tasks = integer(num_tasks, "num_tasks", "SplitStream", least=1) - len(head)
        tail = [rest // max(tasks, 1)] * tasks
    else:
        asked = f"classes_per_task={classes_per_task}"
        size = integer(classes_per_task or 0, "classes_per_task", "SplitStream", least=1)
        tail = [size] * (rest // size)
    if rest < 1 or sum(tail) != rest:
        after_first = f" with first_task_classes={first}" if head else ""
        raise ValueError(
            f"SplitStream: {asked}{after_first} does not split {num_classes} classes evenly"
        )
    return head + tail


def _checked_lists(class_lists: Sequence[Sequence[int]], classes: list[int]) -> list[list[int]]:
    try:
        class_lists = list(class_lists)
    except TypeError:
        kind = type(class_lists).__name__
        raise TypeError(f"SplitStream: class_lists must be lists of classes, got {kind}") from None
    if len(class_lists) == 0:
        raise ValueError("SplitStream: class_lists holds no task")
    lists = []
    for index, given in enumerate(class_lists):
        name = f"class_lists[{index}]"
        task = _class_ids(given, name)
        if not task or len(set(task)) != len(task):
            raise ValueError(f"SplitStream: {name} must hold different classes, got {task}")
        if unknown := set(task) - set(classes):
            raise ValueError(
                f"SplitStream: {name} asks for classes {sorted(unknown)}, which are not in the data"
            )
        lists.append(task)
    return lists


def _class_ids(labels: Sequence[int], name: str) -> list[int]:
    try:
        return [operator.index(label) for label in labels]
    except TypeError:
        raise TypeError(f"SplitStream: {name} must hold ints, got {labels}") from None


def _of_classes(
    data: LabelledDataset, classes: list[int], label: dict[int, int]
) -> LabelledDataset:
    y = data.y
    indices = torch.isin(y, torch.tensor(classes, device=y.device)).nonzero().squeeze(1)
    new_y = torch.tensor([label[old] for old in y[indices].tolist()], device=y.device)
    return data.subset(indices, new_y)
