"""The ops of masks on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_checks import CHECKS, OpCase, Sizes, cases_of, check_against_reference, to_gpu

from clfast import ops

pytestmark = pytest.mark.cuda
CASES = cases_of("masks")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_equals_float64_reference(case: OpCase, dtype: torch.dtype) -> None:
    check_against_reference(case, Sizes(), dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_op(case: OpCase, check: Any) -> None:
    check(case)


@pytest.mark.parametrize("case", [c for c in CASES if c.differentiable_in], ids=str)
def test_gradients(case: OpCase, rng: torch.Generator) -> None:
    sizes = Sizes(batch=3, dim=4, k=3, classes=5)
    (weight, embedding, scale), _ = to_gpu(case.make(sizes, torch.float64, rng))
    inputs = [weight.requires_grad_(), embedding.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *given: ops.masked_weight(*given, scale), inputs)


def test_nan_in_an_embedding_travels_on() -> None:
    """To look for it would synchronise."""
    embedding = torch.tensor([1.0, torch.nan, -1.0], device="cuda")
    masked = ops.masked_weight(torch.ones_like(embedding), embedding, 3.0)
    assert masked.isnan().tolist() == [False, True, False]
