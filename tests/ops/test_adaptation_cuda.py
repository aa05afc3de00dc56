"""The adaptation ops on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_checks import (
    CHECKS,
    OpCase,
    Sizes,
    cases_of,
    check_against_reference,
    to_gpu,
    without_first_neighbour,
)
from op_samples import flat

from clfast.ops import Neighbors

pytestmark = pytest.mark.cuda
CASES = cases_of("adaptation")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_equals_float64_reference(case: OpCase, dtype: torch.dtype) -> None:
    check_against_reference(case, Sizes(), dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_op(case: OpCase, check: Any) -> None:
    check(case)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("row", [-1, 37, 2**40])
def test_neighbours_outside_the_memory_are_left_out(case: OpCase, row: int) -> None:
    """An index that a check would have to synchronise for reads nothing and counts for nothing."""
    args, kwargs = to_gpu(case.make(Sizes(), torch.float64, torch.Generator().manual_seed(0)))
    position = next((i for i, a in enumerate(args) if isinstance(a, Neighbors)), None)
    if position is None:
        assert case.name == "interpolation_weights"
        return
    bad, far = list(args), list(args)
    bad[position] = without_first_neighbour(args[position], row)
    # An infinite distance has closeness 0: the same thing, said legally. (The mixture weighs its
    # neighbours by dot products, and a mean over a class counts them: only finiteness is compared.)
    distances = args[position].sq_distances.clone()
    distances[:, 0] = float("inf")
    far[position] = Neighbors(distances, args[position].indices)
    got = flat(case.op(*bad, **kwargs))
    assert all(bool(t.isfinite().all()) for t in got)
    if case.name == "mbpa_update":
        for ours, theirs in zip(got, flat(case.op(*far, **kwargs)), strict=True):
            torch.testing.assert_close(ours, theirs)
