"""The consolidation ops on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_checks import CHECKS, OpCase, Sizes, cases_of, check_against_reference

from clfast import ops, reference

pytestmark = pytest.mark.cuda
CASES = cases_of("consolidation")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_equals_float64_reference(case: OpCase, dtype: torch.dtype) -> None:
    check_against_reference(case, Sizes(), dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_op(case: OpCase, check: Any) -> None:
    check(case)


def test_many_tensors(rng: torch.Generator) -> None:
    sizes = [*torch.randint(0, 3000, (500,), generator=rng).tolist(), 3_000_000]
    grads = [torch.randn(size, generator=rng).cuda() for size in sizes]
    memory = [0.5 * torch.randn(g.shape, generator=rng).cuda() - g for g in grads]
    wanted = [g.double() for g in grads]
    reference.consolidation.project_gradients_(wanted, [r.double() for r in memory])
    ops.project_gradients_(grads, memory)
    for ours, theirs in zip(grads, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tasks", [1, 19, 64])
def test_many_tasks(tasks: int, rng: torch.Generator) -> None:
    grad, shared = (torch.randn(200_000, generator=rng).cuda() for _ in range(2))
    memory = torch.randn(tasks, 200_000, generator=rng).cuda() + shared - 0.1 * grad
    wanted = reference.consolidation.gem_project(grad.double(), memory.double(), 0.5)
    got = ops.gem_project(grad, memory, 0.5).double()
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))


def test_what_a_check_would_synchronise_for_is_left() -> None:
    grads, memory = [torch.ones(3).cuda()], [torch.tensor([-1.0, float("nan"), -1.0]).cuda()]
    ops.project_gradients_(grads, memory)
    assert grads[0].tolist() == [1.0, 1.0, 1.0]
    assert bool(ops.gem_project(grads[0], memory[0][None], 0.5).isnan().any())
