"""The exemplar ops on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_checks import CHECKS, OpCase, Sizes, cases_of, check_against_reference, to_gpu

from clfast import ops

pytestmark = pytest.mark.cuda
CASES = cases_of("exemplars")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_equals_float64_reference(case: OpCase, dtype: torch.dtype) -> None:
    check_against_reference(case, Sizes(), dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_op(case: OpCase, check: Any) -> None:
    check(case)


LOSSES = ("distillation_loss", "margin_ranking_loss", "cosine_logits", "bias_correct")


@pytest.mark.parametrize("case", [c for c in CASES if c.name in LOSSES], ids=str)
def test_gradients(case: OpCase, rng: torch.Generator) -> None:
    args, kwargs = to_gpu(case.make(Sizes(batch=4, dim=4, classes=5), torch.float64, rng))
    given, rest = args[: case.differentiable_in], args[case.differentiable_in :]
    places = [
        i for i, a in enumerate(given) if isinstance(a, torch.Tensor) and a.dtype.is_floating_point
    ]

    def function(*inputs: torch.Tensor) -> torch.Tensor:
        full = list(given)
        for place, value in zip(places, inputs, strict=True):
            full[place] = value
        result: torch.Tensor = case.op(*full, *rest, **kwargs)
        return result

    inputs = [args[i].requires_grad_() for i in places]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_what_a_check_would_synchronise_for_is_left_out(rng: torch.Generator) -> None:
    scores = torch.randn(4, 6, generator=rng).cuda()
    labels, listed = torch.tensor([0, 6, -1, 2**40]).cuda(), torch.tensor([4, -3, 6, 2**40]).cuda()
    got = ops.margin_ranking_loss(scores, labels, listed)
    wanted = ops.margin_ranking_loss(scores[:1].cpu(), torch.tensor([0]), torch.tensor([4]))
    # Two of the listed classes count, of which one is there.
    torch.testing.assert_close(got.cpu(), wanted / 2)
    corrected = ops.bias_correct(scores, listed, 2.0, 1.0)
    torch.testing.assert_close(corrected, ops.bias_correct(scores, listed[:1], 2.0, 1.0))
