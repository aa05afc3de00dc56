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


@pytest.mark.parametrize("sizes", [[500] * 100, [5000], [1, 2, 3, 700, 40]])
def test_herding_picks_what_the_cpu_picks(sizes: list[int], rng: torch.Generator) -> None:
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=rng)]
    features = torch.randn(len(labels), 64, generator=rng).relu()
    wanted = ops.herding(features, labels, 20)
    for ours, theirs in zip(ops.herding(features.cuda(), labels.cuda(), 20), wanted, strict=True):
        assert ours.tolist() == theirs.tolist()


def test_a_feature_that_cannot_be_scored_is_picked_once(rng: torch.Generator) -> None:
    features = torch.randn(12, 4, generator=rng)
    features[3, 1] = float("nan")
    labels = torch.zeros(12, dtype=torch.int64)
    (picks,) = ops.herding(features.cuda(), labels.cuda(), 12)
    assert sorted(picks.tolist()) == list(range(12))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_descent_and_its_gradients(dtype: torch.dtype, rng: torch.Generator) -> None:
    features = torch.randn(300, 70, generator=rng, dtype=dtype) / 8
    labels = torch.randint(0, 65, (300,), generator=rng)
    weight, bias = (torch.randn(s, generator=rng, dtype=dtype) for s in ((65, 70), (65,)))
    found = []
    for device, wide in (("cuda", dtype), ("cpu", torch.float64)):
        leaves = [t.to(device, wide).requires_grad_() for t in (features, weight, bias)]
        trained = ops.softmax_descent(
            *(leaves[0], labels.to(device), *leaves[1:]), steps=20, lr=0.5
        )
        results = [t for t in trained if t is not None]
        grads = torch.autograd.grad(sum(t.square().sum() for t in results), leaves)
        found.append([*results, *grads])
    for ours, theirs in zip(*found, strict=True):
        tolerance = 256 * torch.finfo(dtype).eps * max(1.0, float(theirs.detach().abs().max()))
        torch.testing.assert_close(ours.cpu().double(), theirs, rtol=0, atol=tolerance)
