"""`ExemplarMemory`: order, shares, storage and states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clfast.memory import ExemplarMemory


def _numbered(*labels: int) -> tuple[Tensor, Tensor]:
    """Samples [n, 1] that are 10 · label + their position within the class."""
    counts: dict[int, int] = {}
    rows = []
    for label in labels:
        rows.append([10.0 * label + counts.get(label, 0)])
        counts[label] = counts.get(label, 0) + 1
    return torch.tensor(rows), torch.tensor(labels)


def test_exemplars_are_in_order() -> None:
    memory = ExemplarMemory(3)
    assert len(memory) == 0
    assert memory.classes == []
    with pytest.raises(RuntimeError, match=r"ExemplarMemory\.x: nothing is stored"):
        _ = memory.x
    memory.put(*_numbered(5, 2, 5, 2, 5))
    assert memory.y.tolist() == [2, 2, 5, 5, 5]
    assert memory.x[:, 0].tolist() == [20, 21, 50, 51, 52]
    memory.put(*_numbered(3, 0, 3))
    assert memory.x[:, 0].tolist() == [0, 20, 21, 30, 31, 50, 51, 52]
    memory.put(torch.tensor([[7.0]]), torch.tensor([5]))
    assert memory.x[:, 0].tolist() == [0, 20, 21, 30, 31, 7]
    assert memory.classes == [0, 2, 3, 5]
    memory.put(torch.empty(0, 1), torch.empty(0, dtype=torch.int64))
    assert len(memory) == 6


def test_the_first_ones_stay() -> None:
    memory = ExemplarMemory(total=9)
    assert [memory.share(n) for n in (1, 2, 3, 4, 5, 9, 10)] == [9, 5, 3, 3, 2, 1, 1]
    memory.keep(2)
    memory.put(*_numbered(4, 4, 4, 1, 1, 9))
    memory.keep(2)
    assert memory.x[:, 0].tolist() == [10, 11, 40, 41, 90]
    memory.keep(0)
    assert len(memory) == 0
    assert ExemplarMemory(20).share(7) == 20
    memory.clear()
    assert memory.nbytes == 0


def test_uint8_rounds_and_clips() -> None:
    memory = ExemplarMemory(4, dtype=torch.uint8)
    values = torch.tensor([[-0.1], [0.5 / 255 + 1e-4], [0.5], [1.7]])
    memory.put(values, torch.zeros(4, dtype=torch.int64))
    assert memory.x[:, 0].tolist() == [0, 1, 128, 255]
    memory.put(torch.tensor([[3], [4]], dtype=torch.uint8), torch.tensor([1, 1]))
    assert memory.x[:, 0].tolist() == [0, 1, 128, 255, 3, 4]
    assert memory.nbytes == 6 + 6 * 8
    with pytest.raises(ValueError, match=r"ExemplarMemory\.put: x holds NaN or Inf"):
        memory.put(torch.tensor([[torch.nan]]), torch.tensor([1]))
    for far in (-2.4, 255.0):
        with pytest.raises(
            ValueError, match=r"images in \[0, 1\] to be stored as uint8, got values"
        ):
            memory.put(torch.tensor([[0.5], [far]]), torch.tensor([1, 1]))
    assert len(memory) == 6


def test_the_first_ones_decide_the_dtype() -> None:
    memory = ExemplarMemory(2)
    memory.put(torch.tensor([[0.25]]).double(), torch.tensor([0]))
    memory.put(torch.tensor([[51]], dtype=torch.uint8), torch.tensor([1]))
    memory.put(torch.tensor([[0.5]]), torch.tensor([2]))
    assert memory.x.dtype == torch.float64
    torch.testing.assert_close(memory.x[:, 0], torch.tensor([0.25, 0.2, 0.5]).double())
    half = ExemplarMemory(2, dtype=torch.float16)
    half.put(torch.tensor([[0.1]]), torch.tensor([0]))
    assert half.x.dtype == torch.float16


def test_what_is_put_is_copied() -> None:
    memory, (x, y) = ExemplarMemory(1), _numbered(0, 1)
    x.requires_grad_()
    memory.put(x, y)
    with torch.no_grad():
        x += 5
    y += 5
    assert memory.x[:, 0].tolist() == [0, 10]
    assert memory.y.tolist() == [0, 1]
    assert not memory.x.requires_grad
    with torch.inference_mode():
        memory.put(*_numbered(4))
    assert not memory.x.is_inference()


def test_states() -> None:
    memory, other = ExemplarMemory(3), ExemplarMemory(3)
    other.load_state_dict(memory.state_dict())
    assert len(other) == 0
    memory.put(*_numbered(2, 0, 2))
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.x, memory.x)
    assert torch.equal(other.y, memory.y)
    state = memory.state_dict()
    for broken, message in (
        ({"x": state["x"]}, "must have the parts x and y"),
        ({**state, "y": state["y"].flip(0)}, "y must be ascending"),
        ({**state, "y": state["y"][1:]}, "y must have"),
        ({**state, "y": -state["y"]}, "y must be class labels >= 0"),
    ):
        with pytest.raises(ValueError, match=rf"ExemplarMemory\.load_state_dict: .*{message}"):
            other.load_state_dict(broken)
    levels = ExemplarMemory(3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"x must be torch.uint8 as this memory has it"):
        levels.load_state_dict(state)
    other.load_state_dict(ExemplarMemory(3).state_dict())
    assert len(other) == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "give exactly one of per_class and total"),
        ({"per_class": 2, "total": 3}, ValueError, "give exactly one of per_class and total"),
        ({"per_class": -1}, ValueError, "per_class must be at least 0"),
        ({"total": 0}, ValueError, "total must be at least 1"),
        ({"per_class": 2.5}, TypeError, "per_class must be an integer"),
        ({"per_class": 1, "dtype": "uint8"}, TypeError, "dtype must be a torch.dtype, got str"),
        ({"per_class": 1, "dtype": torch.int8}, ValueError, "floating point or torch.uint8"),
    ],
)
def test_wrong_options(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^ExemplarMemory: .*{message}"):
        ExemplarMemory(**options)


def test_wrong_samples() -> None:
    memory = ExemplarMemory(3)
    x, y = _numbered(0, 1)
    memory.put(x, y)
    for bad_x, bad_y, error, message in (
        (x.reshape(1, 2), y[:1], ValueError, r"x must have shape \[n, 1\], got \[1, 2\]"),
        (x, y[:1], ValueError, "y must have 2 rows"),
        (x, -y, ValueError, "y must be class labels >= 0"),
        (x, y.int(), TypeError, "y must be int64"),
        (x.long(), y, TypeError, "x must be floating point or uint8"),
        ([0.0], y, TypeError, "x must be a torch.Tensor"),
    ):
        with pytest.raises(error, match=rf"^ExemplarMemory\.put: {message}"):
            memory.put(bad_x, bad_y)  # type: ignore[arg-type]
    assert memory.x[:, 0].tolist() == [0, 10]
    for count in (-1, 1.5):
        with pytest.raises((ValueError, TypeError), match=r"ExemplarMemory\.keep: count"):
            memory.keep(count)  # type: ignore[arg-type]
