"""The retrieval ops on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_checks import CHECKS, OpCase, Sizes, cases_of, check_against_reference

from clfast.ops import knn, nearest_class_mean

pytestmark = pytest.mark.cuda
CASES = cases_of("retrieval")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_equals_float64_reference(case: OpCase, dtype: torch.dtype) -> None:
    check_against_reference(case, Sizes(), dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_op(case: OpCase, check: Any) -> None:
    check(case)


def test_knn_is_exact_on_tight_clusters_and_ties() -> None:
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(30, 64, generator=rng)
    keys = centres[torch.arange(6000) // 200] + 1e-3 * torch.randn(6000, 64, generator=rng)
    keys[100:140] = keys[99]
    queries = keys[::61] + 1e-3
    found = knn(queries.cuda(), keys.cuda(), 200)
    truth = torch.stack([(keys.double() - q).square().sum(1) for q in queries.double()])
    distances, rows = found.sq_distances.double().cpu(), found.indices.cpu()
    torch.testing.assert_close(distances, truth.gather(1, rows), rtol=5e-6, atol=1e-30)
    kth = truth.topk(200, largest=False).values[:, -1:]
    assert bool((distances <= kth * (1 + 5e-6)).all())
    same = distances[:, 1:] == distances[:, :-1]
    assert bool((rows[:, 1:] > rows[:, :-1])[same].all())


def test_nan_distances_come_last() -> None:
    keys = torch.zeros(6, 4)
    keys[0], keys[5] = float("nan"), float("nan")
    keys[1, 2] = float("inf")
    found = knn(torch.ones(2, 4).cuda(), keys.cuda(), 6)
    assert found.indices.tolist() == [[2, 3, 4, 1, 0, 5]] * 2


def test_more_than_two_to_the_31_distances() -> None:
    """Offsets are 64-bit: B M exceeds 2^31, so does M d."""
    keys = torch.zeros(70_000_000, 32, device="cuda", dtype=torch.bfloat16)
    keys[-1] = 1
    found = knn(torch.ones(40, 32, device="cuda"), keys, 3)
    assert found.indices.cpu().tolist() == [[69_999_999, 0, 1]] * 40


def test_no_class_present_is_minus_one() -> None:
    labels = nearest_class_mean(torch.ones(3, 4).cuda(), torch.zeros(2, 4).cuda())
    assert labels.tolist() == [-1, -1, -1]
