"""The recall ops on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_checks import CHECKS, OpCase, Sizes, cases_of, check_against_reference, to_gpu

from clfast import ops

pytestmark = pytest.mark.cuda
CASES = cases_of("recall")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_equals_float64_reference(case: OpCase, dtype: torch.dtype) -> None:
    if case.in_place and dtype.itemsize == 2:
        return  # refused; tested on the CPU
    check_against_reference(case, Sizes(), dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_op(case: OpCase, check: Any) -> None:
    check(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.differentiable_in], ids=str)
def test_gradients(case: OpCase, rng: torch.Generator) -> None:
    sizes = Sizes(batch=3, dim=4, k=3, classes=5)
    args, kwargs = to_gpu(case.make(sizes, torch.float64, rng))
    inputs = [t.requires_grad_() for t in args[: case.differentiable_in]]
    rest = args[case.differentiable_in :]
    assert torch.autograd.gradcheck(lambda *given: case.op(*given, *rest, **kwargs), inputs)


def test_channels_last_stays_where_it_is(rng: torch.Generator) -> None:
    images = torch.randn(3, 3, 8, 5, generator=rng).cuda()
    last = images.to(memory_format=torch.channels_last)
    place = last.data_ptr()
    weights = {"lr": 0.7, "tv_weight": 1.3, "l2_weight": 0.4}
    for each in (images, last):
        ops.recall_step_(each, torch.ones_like(images), **weights)
    assert last.data_ptr() == place
    torch.testing.assert_close(last, images)


def test_what_a_check_would_synchronise_for_is_left_out(rng: torch.Generator) -> None:
    old, new = (torch.randn(4, 6, generator=rng).cuda() for _ in range(2))
    copies = torch.tensor([0, 2, -3, 1]).cuda()
    for present in ([0, 6], [-1, 2], [2**40, 1]):
        got = ops.recall_gradients(old, new, torch.tensor(present).cuda(), multiplicity=copies)
        assert all(bool(t.isfinite().all()) for t in got)
