"""SplitStream: class-incremental tasks over arrays and map-style data."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from clfast.streams import SplitStream


def data(classes: int, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Interleaved classes; x [N, 2] is (row, label)."""
    y = torch.arange(classes * per_class) % classes
    return torch.stack([torch.arange(len(y)), y], 1), y


TRAIN, TEST = data(10, 4), data(10, 2)


class Items(Dataset):
    """Map-style twin of (x, y), with torchvision's `targets` on request."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, targets: bool = False) -> None:
        self.x_, self.y_, self.reads = x, y, 0
        if targets:
            self.targets = y.tolist()

    def __len__(self) -> int:
        return len(self.y_)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        self.reads += 1
        return self.x_[i], int(self.y_[i])


@given(num_tasks=st.sampled_from([1, 2, 5, 10]), seed=st.none() | st.integers(0, 5))
def test_tasks_partition_classes_and_samples(num_tasks: int, seed: int | None) -> None:
    stream = SplitStream(TRAIN, TEST, num_tasks=num_tasks, generator=seed)
    assert len(stream) == num_tasks
    assert [task.index for task in stream] == list(range(num_tasks))
    assert sum((task.classes for task in stream), ()) == stream.class_order
    assert sorted(stream.class_order) == list(range(10))
    for part, (x, _) in (("train", TRAIN), ("test", TEST)):
        rows = torch.cat([getattr(task, part).x[:, 0] for task in stream])
        assert torch.equal(rows.sort().values, x[:, 0])
        for task in stream:
            samples = getattr(task, part)
            assert len(task.classes) == 10 // num_tasks
            assert set(samples.y.tolist()) == set(task.classes)
            assert torch.equal(samples.y, samples.x[:, 1])
            assert (samples.x[:, 0].diff() > 0).all()


def test_class_order_by_seed_generator_or_hand() -> None:
    def order(**how: object) -> tuple[int, ...]:
        return SplitStream(TRAIN, TEST, num_tasks=5, **how).class_order

    assert order() == tuple(range(10))
    assert order(generator=1) == order(generator=torch.Generator().manual_seed(1))
    assert order(generator=1) != order(generator=2)
    by_hand = (3, 1, 4, 5, 9, 2, 6, 8, 7, 0)
    assert order(class_order=by_hand) == by_hand
    stream = SplitStream(TRAIN, TEST, num_tasks=5, class_order=by_hand)
    assert [task.classes for task in stream] == [(3, 1), (4, 5), (9, 2), (6, 8), (7, 0)]


@pytest.mark.parametrize(
    ("how", "sizes"),
    [
        ({"classes_per_task": 2}, [2] * 5),
        ({"num_tasks": 6, "first_task_classes": 5}, [5, 1, 1, 1, 1, 1]),
        ({"classes_per_task": 3, "first_task_classes": 4}, [4, 3, 3]),
        ({"num_tasks": 2, "first_task_classes": 3}, [3, 7]),
        ({"class_lists": [[1, 2, 3], [7]]}, [3, 1]),
    ],
)
def test_sizes(how: dict[str, object], sizes: list[int]) -> None:
    assert [len(task.classes) for task in SplitStream(TRAIN, TEST, **how)] == sizes


def test_class_lists_may_repeat_classes() -> None:
    half, everything = SplitStream(TRAIN, TEST, class_lists=[[8, 1], range(10)])
    assert half.classes == (8, 1)
    assert half.train.y.tolist() == [1, 8] * 4
    assert torch.equal(everything.train.x, TRAIN[0])
    assert len(everything.test) == 20


def test_relabel_numbers_classes_by_arrival() -> None:
    order = (3, 1, 4, 5, 9, 2, 6, 8, 7, 0)
    stream = SplitStream(TRAIN, TEST, num_tasks=5, class_order=order, relabel=True)
    assert [task.classes for task in stream] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    for task in stream:
        for part in (task.train, task.test):
            assert [stream.class_order[label] for label in part.y] == part.x[:, 1].tolist()


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("relabel", [False, True])
def test_map_style_data_gives_the_tasks_of_the_arrays(targets: bool, relabel: bool) -> None:
    items = Items(*TRAIN, targets=targets)
    how = {"num_tasks": 5, "generator": 7, "relabel": relabel}
    lazy = SplitStream(items, Items(*TEST), **how)
    assert items.reads == (0 if targets else len(items))
    for task, expected in zip(lazy, SplitStream(TRAIN, TEST, **how), strict=True):
        assert task.classes == expected.classes
        assert torch.equal(task.train.y, expected.train.y)
        batches = DataLoader(task.train, batch_size=3)
        x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert torch.equal(x, expected.train.x)
        assert torch.equal(y, expected.train.y)
        assert not hasattr(task.train, "x")


def test_stream_is_a_sequence_of_frozen_tasks() -> None:
    stream = SplitStream(TRAIN, TEST, num_tasks=5)
    assert stream[-1].index == 4
    assert [task.index for task in stream[:2]] == [0, 1]
    with pytest.raises(IndexError):
        stream[5]
    with pytest.raises(dataclasses.FrozenInstanceError):
        stream[0].index = 3


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({}, ValueError, "exactly one of num_tasks, classes_per_task, class_lists"),
        ({"num_tasks": 5, "classes_per_task": 2}, ValueError, "exactly one of"),
        ({"num_tasks": 3}, ValueError, "num_tasks=3 does not split 10 classes evenly"),
        ({"num_tasks": 11}, ValueError, "num_tasks=11 does not split"),
        ({"num_tasks": 0}, ValueError, "num_tasks must be at least 1, got 0"),
        ({"num_tasks": 2.0}, TypeError, "num_tasks must be an integer, got float"),
        ({"classes_per_task": 4}, ValueError, "classes_per_task=4 does not split"),
        ({"classes_per_task": 0}, ValueError, "classes_per_task must be at least 1, got 0"),
        ({"num_tasks": 1, "first_task_classes": 5}, ValueError, "with first_task_classes=5"),
        ({"num_tasks": 2, "first_task_classes": 10}, ValueError, "with first_task_classes=10"),
        ({"num_tasks": 2, "first_task_classes": 0}, ValueError, "first_task_classes must be"),
        ({"num_tasks": 5, "class_order": [0, 1]}, ValueError, "class_order must hold every"),
        ({"num_tasks": 5, "class_order": [0] * 10}, ValueError, "class_order must hold every"),
        ({"num_tasks": 5, "class_order": [0.5] * 10}, TypeError, "class_order must hold ints"),
        ({"num_tasks": 5, "class_order": range(10), "generator": 0}, ValueError, "not both"),
        ({"num_tasks": 5, "generator": 0.5}, TypeError, "generator must be"),
        ({"class_lists": []}, ValueError, "class_lists holds no task"),
        ({"class_lists": [[1], []]}, ValueError, r"class_lists\[1\] must hold different"),
        ({"class_lists": [[1, 1]]}, ValueError, r"class_lists\[0\] must hold different"),
        ({"class_lists": [[1, 12]]}, ValueError, r"asks for classes \[12\]"),
        ({"class_lists": [[1]], "generator": 0}, ValueError, "class_lists says it all"),
    ],
)
def test_bad_splits(how: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"SplitStream: .*{message}"):
        SplitStream(TRAIN, TEST, **how)


def test_bad_data_is_named() -> None:
    with pytest.raises(ValueError, match=r"SplitStream: train and test do not share .*\[8, 9\]"):
        SplitStream(TRAIN, data(8, 2), num_tasks=2)
    with pytest.raises(TypeError, match="SplitStream: test y must be integers"):
        SplitStream(TRAIN, (TEST[0], TEST[1].float()), num_tasks=2)
    with pytest.raises(ValueError, match="SplitStream: train holds no samples"):
        SplitStream([], TEST, num_tasks=2)
    with pytest.raises(ValueError, match="SplitStream: train y must not be negative"):
        SplitStream([(0.0, -1), (0.0, 0)], TEST, num_tasks=2)


@pytest.mark.parametrize("joint", [False, True])
def test_targets_that_are_transformed_when_an_item_is_read(joint: bool) -> None:
    """torchvision's `targets` are what was read: tasks and items must agree on what comes out."""

    class Shifted(Items):
        def __init__(self) -> None:
            super().__init__(*TRAIN, targets=True)
            if joint:
                self.transforms = lambda x, y: (x, (y + 1) % 3)
                self.target_transform = None
            else:
                self.target_transform = lambda y: (y + 1) % 3

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            x, y = super().__getitem__(i)
            return x, (y + 1) % 3

    items = Shifted()
    stream = SplitStream(items, items, classes_per_task=1)
    for task in stream:
        for position in range(len(task.train)):
            x, label = task.train[position]
            at = next(i for i in range(len(items)) if torch.equal(items[i][0], x))
            assert int(label) == items[at][1] == stream.class_order[task.index]


def test_relabel_numbers_classes_in_each_task() -> None:
    order = [7, 3, 9, 0, 1, 2, 4, 5, 6, 8]
    stream = SplitStream(TRAIN, TEST, num_tasks=5, class_order=order, relabel="task")
    plain = SplitStream(TRAIN, TEST, num_tasks=5, class_order=order)
    assert stream.class_order == tuple(order)
    for task, same in zip(stream, plain, strict=True):
        assert task.classes == (0, 1)
        assert torch.equal(task.train.x, same.train.x)
        names = torch.tensor(order[2 * task.index : 2 * task.index + 2])
        assert torch.equal(names[task.train.y], same.train.y)
        assert torch.equal(names[task.test.y], same.test.y)
    uneven = SplitStream(TRAIN, TEST, class_lists=[[5], [1, 5, 2]], relabel="task")
    assert [task.classes for task in uneven] == [(0,), (0, 1, 2)]
    with pytest.raises(ValueError, match="relabel must be one of"):
        SplitStream(TRAIN, TEST, num_tasks=5, relabel="head")  # type: ignore[arg-type]
