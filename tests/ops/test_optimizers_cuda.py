"""The masked optimiser steps on a GPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cuda_checks import CHECKS, OpCase, Sizes, cases_of, check_against_reference

from clfast.optim import MaskedAdam, MaskedSGD, protect

pytestmark = pytest.mark.cuda
CASES = cases_of("optimizers")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_float64_reference(case: OpCase, dtype: torch.dtype) -> None:
    check_against_reference(case, Sizes(), dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_op(case: OpCase, check: Any) -> None:
    check(case)


@pytest.mark.parametrize("make", [MaskedSGD, MaskedAdam])
def test_an_optimizer_with_clipping_does_not_synchronise(make: Any) -> None:
    """And does what it does on the CPU."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(300, 200)] * 60
    start = [torch.randn(shape, generator=rng) for shape in shapes]
    masks = [torch.rand(shape, generator=rng) < 0.5 for shape in shapes]
    grads = [
        torch.randn(shape, generator=rng).masked_fill(m, math.nan)
        for shape, m in zip(shapes, masks, strict=True)
    ]
    results = []
    for device in ("cpu", "cuda"):
        params = [torch.nn.Parameter(t.to(device)) for t in start]
        reserved = {p: m.to(device) for p, m in zip(params, masks, strict=True)}
        optimizer = make(params, lr=0.1, reserved=reserved, clip_norm=1.0)
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad.to(device)
        optimizer.step()
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        results.append([p.detach().cpu() for p in params])
    for ours, theirs, before, mask in zip(*results, start, masks, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert torch.equal(theirs[mask], before[mask])


def test_protection() -> None:
    weight = torch.nn.Parameter(torch.ones(1000, device="cuda"))
    mask = torch.rand(1000, device="cuda") < 0.5
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.full_like(weight, math.nan)
    with protect(optimizer, {weight: mask}):
        optimizer.step()
    assert (weight[mask] == 1).all()
    assert weight[~mask].isnan().all()
