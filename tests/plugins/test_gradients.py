"""Whether gradients are finite."""

from __future__ import annotations

import pytest
import torch

from clfast.plugins.gradients import all_finite

_LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize(
    ("entries", "finite"),
    [
        ([0.0, 1.0], True),
        ([_LARGEST, _LARGEST], True),  # whose sum overflows
        ([_LARGEST, float("nan")], False),
        ([float("nan"), 0.0], False),
        ([float("inf"), 0.0], False),
        ([float("inf"), -float("inf")], False),
    ],
)
def test_gradients_are_finite_where_every_entry_is(entries: list[float], finite: bool) -> None:
    gradient = torch.tensor(entries)
    others = [torch.ones(3, dtype=torch.float64), torch.zeros(0)]
    assert all_finite([gradient]) is finite
    assert all_finite([*others, gradient]) is finite
    assert all_finite([gradient[:, None].to_sparse(), *others]) is finite
    assert all_finite(iter([gradient.expand(4, 2)])) is finite


def test_gradients_of_other_dtypes() -> None:
    assert all_finite([torch.full((9,), torch.finfo(torch.float16).max, dtype=torch.float16)])
    assert all_finite([])
    assert all_finite([torch.ones(2, dtype=torch.complex64)])
    assert not all_finite([torch.tensor([complex(1, float("nan"))])])
