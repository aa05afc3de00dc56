"""Schedules of the scale, and weights of reserved units."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clfast import ops


def test_schedules_by_hand() -> None:
    top = 100.0
    of_epoch = [(top - 1 / top) * i / 4 + 1 / top for i in range(4)]
    for i, s in enumerate(of_epoch):
        assert ops.anneal_scale(i, 4, 3, 10, top, schedule="dgma") == pytest.approx(s)
        for b in range(10):
            wanted = (s - 1 / s) * b / 10 + 1 / s
            assert ops.anneal_scale(i, 4, b, 10, top) == pytest.approx(wanted)
            hat = (top - 1 / top) * b / 10 + 1 / top
            assert ops.anneal_scale(i, 4, b, 10, top, schedule="hat") == pytest.approx(hat)
    later = (top - 1 / top) * 1 / 4 + 1 / top
    assert ops.anneal_scale(0, 4, 0, 10, top, schedule="dgmw_imnet") == pytest.approx(1 / later)


def test_the_papers_line_ends_at_the_top() -> None:
    for schedule in ("dgmw", "dgmw_imnet", "dgma", "hat"):
        options: Any = {"schedule": schedule, "normalise": "paper"}
        assert ops.anneal_scale(4, 5, 9, 10, 400.0, **options) == pytest.approx(400.0)
        assert ops.anneal_scale(0, 1, 0, 1, 400.0, **options) == pytest.approx(400.0)


def test_epoch_0_of_dgmw_falls_from_the_top() -> None:
    assert ops.anneal_scale(0, 101, 0, 94, 1e4) == pytest.approx(1e4)
    assert ops.anneal_scale(0, 101, 93, 94, 1e4) < 200


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((-1, 5, 0, 5, 9.0), {}, r"epoch must be in \[0, 5\), counted from 0, got -1"),
        ((5, 5, 0, 5, 9.0), {}, r"epoch must be in \[0, 5\)"),
        ((0, 5, 5, 5, 9.0), {}, r"batch must be in \[0, 5\)"),
        ((0, 0, 0, 5, 9.0), {}, "epochs must be >= 1, got 0"),
        ((0, 5, 0, -1, 9.0), {}, "batches must be >= 1, got -1"),
        ((0, 5, 0, 5, 0.0), {}, "max_scale must be finite and > 0, got 0"),
        ((0, 5, 0, 5, float("inf")), {}, "max_scale must be finite and > 0, got inf"),
        ((0, 5, 0, 5, 9.0), {"schedule": "imnet"}, "schedule must be one of"),
        ((0, 5, 0, 5, 9.0), {"normalise": "both"}, 'normalise must be "code" or "paper"'),
    ],
)
def test_wrong_schedules(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"clfast::anneal_scale: {message}"):
        ops.anneal_scale(*arguments, **options)


@pytest.mark.parametrize("at", range(5))
def test_kinds_of_a_schedule(at: int) -> None:
    given: list[Any] = [0, 5, 0, 5, 9.0]
    given[at] = "1"
    with pytest.raises(TypeError, match="clfast::anneal_scale: "):
        ops.anneal_scale(*given)


def test_weights_of_units_by_hand() -> None:
    out = torch.tensor([True, False, True])
    inside = torch.tensor([True, False])
    both = ops.weight_mask(out, inside)
    assert both.tolist() == [[True, False], [False, False], [True, False]]
    either = ops.weight_mask(out, inside, mode="either")
    assert either.tolist() == [[True, True], [True, False], [True, True]]
    assert torch.equal(ops.weight_mask(out, inside, transposed=True), both.T)
    spread = ops.weight_mask(out.view(1, 3, 1, 1), inside, transposed=True, shape=(2, 3, 4, 4))
    assert spread.shape == (2, 3, 4, 4)
    assert spread.is_contiguous()
    assert torch.equal(spread, both.T[:, :, None, None].expand(2, 3, 4, 4))


@pytest.mark.parametrize("mode", ["both", "either"])
def test_inputs_that_are_always_there(mode: Any) -> None:
    """DGMa's first layer: what is reserved of it hangs on its outputs alone."""
    out = torch.tensor([True, False, True])
    assert ops.weight_mask(out, mode=mode).tolist() == [[True], [False], [True]]
    wanted = out[:, None].expand(3, 5)
    assert torch.equal(ops.weight_mask(out, mode=mode, shape=(3, 5)), wanted)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.ones(3),), {}, "out_mask must be of dtype torch.bool, got torch.float32"),
        ((torch.ones(3) > 0, torch.ones(2)), {}, "in_mask must be of dtype torch.bool"),
        ((torch.ones(3) > 0,), {"mode": "min"}, 'mode must be "both" or "either", got "min"'),
        ((torch.ones(3) > 0,), {"shape": (3,)}, "shape must have 2 dimensions or more"),
        ((torch.ones(3) > 0,), {"shape": (4, 3)}, "out_mask must have 4 entries"),
        (
            (torch.ones(3) > 0, torch.ones(2) > 0),
            {"shape": (3, 2), "transposed": True},
            "out_mask must have 2 entries",
        ),
        ((torch.ones(3) > 0, torch.ones(2) > 0), {"shape": (3, 3)}, "in_mask must have 3 entries"),
    ],
)
def test_wrong_units(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"clfast::weight_mask: {message}"):
        ops.weight_mask(*arguments, **options)


@pytest.mark.parametrize("wrong", [12, None])
def test_a_shape_that_is_none(wrong: Any) -> None:
    mask = torch.ones(12, dtype=torch.bool)
    with pytest.raises(TypeError, match="clfast::unpack_mask: shape must be a sequence of int"):
        ops.unpack_mask(ops.pack_mask(mask), wrong)
    if wrong is not None:
        with pytest.raises(TypeError, match="clfast::weight_mask: shape must be a sequence of int"):
            ops.weight_mask(mask, shape=wrong)
