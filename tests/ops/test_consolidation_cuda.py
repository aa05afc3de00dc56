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


def test_penalties_of_many_tensors(rng: torch.Generator) -> None:
    sizes = [*torch.randint(0, 3000, (500,), generator=rng).tolist(), 3_000_000]
    params, anchors, roots, grads = (
        [torch.randn(size, generator=rng).cuda() for size in sizes] for _ in range(4)
    )
    lists = ([p.requires_grad_() for p in params], anchors, [r**2 for r in roots])
    wide = [[t.detach().double() for t in each] for each in lists]
    value = reference.consolidation.quadratic_penalty(*wide)
    slopes = [torch.zeros_like(t) for t in wide[0]]
    reference.consolidation.add_penalty_gradients_(slopes, *wide, 1.0)

    got = ops.quadratic_penalty(*lists)
    torch.testing.assert_close(got.double(), value, rtol=1e-6, atol=0)
    for factor in (1.0, 0.5):
        found = torch.autograd.grad(factor * got, params, retain_graph=True)
        for ours, theirs in zip(found, slopes, strict=True):
            torch.testing.assert_close(ours.double(), factor * theirs, rtol=1e-6, atol=1e-6)
    wanted = [g.double() + 0.5 * s for g, s in zip(grads, slopes, strict=True)]
    ops.add_penalty_gradients_(grads, *lists, 0.5)
    for ours, theirs in zip(grads, wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)


def test_path_integrals_of_many_tensors(rng: torch.Generator) -> None:
    sizes = [*torch.randint(0, 3000, (500,), generator=rng).tolist(), 3_000_000]
    lists = [[torch.randn(size, generator=rng).cuda() for size in sizes] for _ in range(3)]
    wanted = [w.double() - g.double() * d.double() for w, g, d in zip(*lists, strict=True)]
    ops.path_integral_(*lists)
    for ours, theirs in zip(lists[0], wanted, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)


def test_what_a_check_would_synchronise_for_is_left() -> None:
    grads, memory = [torch.ones(3).cuda()], [torch.tensor([-1.0, float("nan"), -1.0]).cuda()]
    ops.project_gradients_(grads, memory)
    assert grads[0].tolist() == [1.0, 1.0, 1.0]
    assert bool(ops.gem_project(grads[0], memory[0][None], 0.5).isnan().any())
    assert bool(ops.quadratic_penalty(grads, memory, grads).isnan())
