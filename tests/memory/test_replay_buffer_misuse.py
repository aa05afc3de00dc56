"""Wrong use of ReplayBuffer: each error names method and argument, and nothing has changed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from memory_helpers import POLICIES
from replay_helpers import filled, samples, unchanged

from clfast.memory import ReplayBuffer

GOOD = samples(4)
X, Y, TASK = GOOD["x"], GOOD["y"], GOOD["task"]

BAD_ADD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "tensors must be given by name, as add(x=x, y=y)"),
    (
        {"x": X, "y": Y},
        ValueError,
        "tensors must be x, y, task as the rows that are stored, got x, y",
    ),
    ({**GOOD, "logits": X}, ValueError, "got x, y, task, logits"),
    ({"x": X, "y": Y, "tasks": TASK}, ValueError, "got x, y, tasks"),
    ({**GOOD, "x": X.tolist()}, TypeError, "x must be a torch.Tensor, got list"),
    ({**GOOD, "y": None}, TypeError, "y must be a torch.Tensor, got NoneType"),
    ({**GOOD, "x": X.to_sparse()}, TypeError, "x must be dense, got torch.sparse_coo"),
    ({**GOOD, "x": X + 0j}, TypeError, "float32, float64, got torch.complex64"),
    ({**GOOD, "x": X.to("meta")}, ValueError, "x must have values, got a tensor on meta"),
    ({**GOOD, "x": X.double()}, TypeError, "x must be torch.float32 as the rows that are stored"),
    ({**GOOD, "task": TASK.long()}, TypeError, "convert it with task.to(torch.uint8)"),
    ({**GOOD, "x": X[:, 0]}, ValueError, "x must have shape [n, 2, 3], got [4, 3]"),
    ({**GOOD, "x": X[..., None]}, ValueError, "x must have shape [n, 2, 3], got [4, 2, 3, 1]"),
    ({**GOOD, "x": X[0]}, ValueError, "x must have shape [n, 2, 3], got [2, 3]"),
    ({**GOOD, "task": TASK[0]}, ValueError, "task must have shape [n], got []"),
    ({**GOOD, "y": Y[:3]}, ValueError, "y must have 4 rows as x has, got shape [3]"),
    ({**GOOD, "task": TASK[:0]}, ValueError, "task must have 4 rows as x has, got shape [0]"),
]


def refused(error: type[Exception], message: str) -> Any:
    return pytest.raises(error, match=".*" + re.escape(message))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("tensors", "error", "message"), BAD_ADD)
def test_add_refuses(
    tensors: dict[str, Any], error: type[Exception], message: str, policy: str
) -> None:
    buffer = filled(20, policy=policy)
    with unchanged(buffer), refused(error, message) as caught:
        buffer.add(**tensors)
    assert str(caught.value).startswith("ReplayBuffer.add: ")


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({}, ValueError, "ReplayBuffer.add: tensors must be given by name"),
        ({"x": X[0, 0, 0]}, ValueError, "ReplayBuffer.add: x must have shape [n, ...], got []"),
        ({"x": X, "y": Y[:3]}, ValueError, "ReplayBuffer.add: y must have 4 rows as x has"),
        ({"x": X[:0], "y": Y[:3]}, ValueError, "ReplayBuffer.add: y must have 0 rows as x has"),
        ({"x": 3}, TypeError, "ReplayBuffer.add: x must be a torch.Tensor, got int"),
        ({"x": X + 0j}, TypeError, "ReplayBuffer.add: x must be of bool, uint8, int8"),
    ],
)
def test_the_first_add_refuses(
    tensors: dict[str, Any], error: type[Exception], message: str
) -> None:
    buffer = ReplayBuffer(8)
    with refused(error, message):
        buffer.add(**tensors)
    assert (len(buffer), buffer.rows) == (0, {})


@pytest.mark.parametrize(
    ("tensors", "error", "message"),
    [
        ({"x": X}, ValueError, "y must be given, policy class_balanced needs it"),
        ({"y": Y.int()}, TypeError, "y must be int64, got torch.int32"),
        ({"y": Y.float()}, TypeError, "y must be int64, got torch.float32"),
        ({"y": Y[:, None]}, ValueError, "y must have shape [4], one label for each row"),
        ({"y": torch.tensor([0, -1])}, ValueError, "y must be class labels >= 0, got -1 in row 1"),
    ],
)
def test_class_balanced_refuses(
    tensors: dict[str, Any], error: type[Exception], message: str
) -> None:
    buffer = ReplayBuffer(8, policy="class_balanced")
    with refused(error, f"ReplayBuffer.add: {message}"):
        buffer.add(**tensors)
    assert (len(buffer), buffer.rows) == (0, {})


def test_class_balanced_refuses_a_negative_label_when_it_is_full() -> None:
    buffer = filled(policy="class_balanced")
    with unchanged(buffer), refused(ValueError, "y must be class labels >= 0, got -2 in row 0"):
        buffer.add(x=X, y=Y - Y[0] - 2, task=TASK)


def test_a_first_add_that_finds_no_room_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*args: object, **options: object) -> None:
        raise MemoryError

    empty, held = ReplayBuffer(8), filled(3)
    with unchanged(held), monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "new_empty", no_room)
        for buffer in (empty, held):
            with pytest.raises(MemoryError):
                buffer.add(**GOOD)
    empty.add(logits=torch.ones(2, 5))
    held.add(**GOOD)
    assert (len(empty), len(held)) == (2, 7)


BAD_SAMPLE: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (-1, {}, ValueError, "n must be at least 0, got -1"),
    (2.0, {}, TypeError, "n must be an integer, got float"),
    (None, {}, TypeError, "n must be an integer, got NoneType"),
    (2, {"generator": 3}, TypeError, "generator must be a torch.Generator, got int"),
    (2, {"where": [True] * 8}, TypeError, "where must be a torch.Tensor, got list"),
    (2, {"where": torch.ones(8)}, TypeError, "where must be bool, got torch.float32"),
    (2, {"where": torch.arange(8)}, TypeError, "where must be bool, got torch.int64"),
    (2, {"where": torch.ones(7).bool()}, ValueError, "where must have shape [8], one entry a slot"),
    (2, {"where": torch.ones(8, 1).bool()}, ValueError, "where must have shape [8]"),
]


@pytest.mark.parametrize(("n", "options", "error", "message"), BAD_SAMPLE)
def test_sample_refuses(
    n: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    buffer = filled()
    with unchanged(buffer), refused(error, f"ReplayBuffer.sample: {message}"):
        buffer.sample(n, **options)


def test_an_empty_buffer_says_so() -> None:
    buffer = ReplayBuffer(8)
    for _ in range(2):
        with refused(ValueError, "ReplayBuffer.sample: the buffer is empty; add rows first"):
            buffer.sample(3)
        buffer.add(x=X[:0])


SLOTS = torch.tensor([1, 4])
BAD_UPDATE: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ([1, 4], {"x": X[:2]}, TypeError, "slots must be a torch.Tensor, got list"),
    (SLOTS.int(), {"x": X[:2]}, TypeError, "slots must be int64, got torch.int32"),
    (SLOTS[0], {"x": X[0]}, ValueError, "slots must have shape [m], got []"),
    (SLOTS - 2, {"x": X[:2]}, ValueError, "slots must be from 0 to 7, got -1 to 2"),
    (SLOTS + 4, {"x": X[:2]}, ValueError, "slots must be from 0 to 7, got 5 to 8"),
    (SLOTS, {"logits": X[:2]}, ValueError, "logits is not stored; there are x, y, task"),
    (SLOTS, {"x": X[:3]}, ValueError, "x must have 2 rows, one a slot, got shape [3, 2, 3]"),
    (SLOTS, {"x": X[:2], "task": TASK}, ValueError, "task must have 2 rows"),
    (SLOTS, {"x": X[:2].half()}, TypeError, "x must be torch.float32 as the rows that are stored"),
    (SLOTS, {"x": X[:2, :1]}, ValueError, "x must have shape [n, 2, 3], got [2, 1, 3]"),
    (SLOTS, {"x": 3}, TypeError, "x must be a torch.Tensor, got int"),
    (SLOTS, {"y": Y[:2]}, ValueError, "y must stay, policy class_balanced goes by it"),
]


@pytest.mark.parametrize(("slots", "tensors", "error", "message"), BAD_UPDATE)
def test_update_refuses(
    slots: Any, tensors: dict[str, Any], error: type[Exception], message: str
) -> None:
    buffer = filled(policy="class_balanced")
    with unchanged(buffer), refused(error, f"ReplayBuffer.update: {message}"):
        buffer.update(slots, **tensors)


def test_an_empty_buffer_has_no_slots_to_update() -> None:
    with refused(ValueError, "ReplayBuffer.update: slots must be from 0 to -1, got 1 to 4"):
        ReplayBuffer(8).update(SLOTS, x=X[:2])
    with refused(ValueError, "ReplayBuffer.update: x is not stored; there are no rows"):
        ReplayBuffer(8).update(SLOTS[:0], x=X[:0])


@pytest.mark.parametrize(
    ("tensors", "num_classes", "error", "message"),
    [
        ({"x": X}, 3, ValueError, "y is not stored; there are x"),
        ({"y": torch.ones(4, 3)}, 3, TypeError, "y must be int64, got torch.float32"),
        ({"y": torch.tensor([2, -1])}, 3, ValueError, "y must be class labels >= 0, got -1"),
        (
            {"y": torch.tensor([1, 5])},
            5,
            ValueError,
            "num_classes is 5, but the memory has label 5",
        ),
        ({"y": Y}, 0, ValueError, "num_classes must be at least 1, got 0"),
        ({"y": Y}, 2.5, TypeError, "num_classes must be an integer, got float"),
    ],
)
def test_counts_refuses(
    tensors: dict[str, Any], num_classes: Any, error: type[Exception], message: str
) -> None:
    buffer = ReplayBuffer(8)
    buffer.add(**tensors)
    with unchanged(buffer), refused(error, f"ReplayBuffer.counts: {message}"):
        buffer.counts(num_classes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"capacity": 0}, ValueError, "capacity must be at least 1, got 0"),
        ({"capacity": -3}, ValueError, "capacity must be at least 1, got -3"),
        ({"capacity": 2.5}, TypeError, "capacity must be an integer, got float"),
        ({"capacity": None}, TypeError, "capacity must be an integer, got NoneType"),
        (
            {"policy": "fifo"},
            ValueError,
            "policy must be one of ring, reservoir, class_balanced, got 'fifo'",
        ),
        ({"device": "gpu"}, ValueError, "device gpu cannot be used: "),
        (
            {"device": "meta"},
            ValueError,
            "device meta cannot be used: tensors there have no values",
        ),
        ({"device": 3.5}, TypeError, "device must be a torch.device or its name, got float"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator, got int"),
    ],
)
def test_constructor_refuses(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with refused(error, f"ReplayBuffer: {message}"):
        ReplayBuffer(**{"capacity": 8, **options})


def test_to_refuses_what_is_no_device() -> None:
    buffer = filled()
    with unchanged(buffer), refused(ValueError, "ReplayBuffer.to: device gpu cannot be used"):
        buffer.to("gpu")
