"""Losses and heads of learners with exemplars, in what the checks of every op do not see."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_samples import CASES, OpCase
from sizes import Sizes
from torch import Tensor

import clfast
from clfast import ops

NAMES = ("distillation_loss", "margin_ranking_loss", "cosine_logits", "bias_correct")
every_case = pytest.mark.parametrize("case", [c for c in CASES if c.name in NAMES], ids=str)
backends = pytest.mark.parametrize("backend", ["compiled", "reference"])


def _inputs(case: OpCase, args: tuple[Any, ...]) -> list[int]:
    """Where the tensors stand that the op is differentiable in."""
    given = enumerate(args)
    floats = [i for i, a in given if isinstance(a, Tensor) and a.is_floating_point()]
    return floats[:1] if case.name.endswith("loss") else floats


def _of_inputs(
    case: OpCase, rng: torch.Generator, dtype: torch.dtype = torch.float64
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The op as a function of what it is differentiable in, and values of that."""
    args, kwargs = case.make(Sizes(batch=4, dim=4, classes=5), dtype, rng)
    places = _inputs(case, args)

    def function(*given: Tensor) -> Tensor:
        full = list(args)
        for place, value in zip(places, given, strict=True):
            full[place] = value
        result: Tensor = case.op(*full, **kwargs)
        return result

    return function, [args[i].requires_grad_() for i in places]


@every_case
@backends
def test_gradients(case: OpCase, backend: str, simd_level: str, rng: torch.Generator) -> None:
    function, inputs = _of_inputs(case, rng)
    with clfast.backend(backend):
        assert torch.autograd.gradcheck(function, inputs)
        for alone in range(len(inputs)):  # the others do not require grad
            given = [t.detach().requires_grad_(i == alone) for i, t in enumerate(inputs)]
            assert torch.autograd.gradcheck(function, given)


@every_case
@backends
def test_second_derivatives(case: OpCase, backend: str, rng: torch.Generator) -> None:
    function, inputs = _of_inputs(case, rng)
    with clfast.backend(backend):
        assert torch.autograd.gradgradcheck(function, inputs)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gradients_have_the_dtype_of_the_input(
    case: OpCase, dtype: torch.dtype, rng: torch.Generator
) -> None:
    function, inputs = _of_inputs(case, rng, dtype)
    got = torch.autograd.grad(function(*inputs).sum(), inputs)
    with clfast.backend("reference"):
        wanted = torch.autograd.grad(function(*inputs).sum(), inputs)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == dtype
        atol = 8 * torch.finfo(dtype).eps * float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@every_case
# Dynamo's own, of torch 2.13.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_derivatives_under_transforms_and_compilation(case: OpCase, rng: torch.Generator) -> None:
    function, inputs = _of_inputs(case, rng)
    wanted = torch.autograd.grad(function(*inputs).sum(), inputs)
    every = tuple(range(len(inputs)))
    got = torch.func.grad(lambda *given: function(*given).sum(), every)(
        *(t.detach() for t in inputs)
    )
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    also = torch.autograd.grad(compiled(*inputs).sum(), inputs)
    torch.compiler.reset()
    for ours, theirs, compiled_one in zip(got, wanted, also, strict=True):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(compiled_one, theirs)


def _divergence_by_loops(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """The sum over rows, a class at a time."""
    total = 0.0
    for row, target in zip(student.tolist(), teacher.tolist(), strict=True):
        q = [math.exp(z / temperature) for z in row[: len(target)]]
        p = [math.exp(z / temperature) for z in target]
        for a, b in zip(p, q, strict=True):
            total += a / sum(p) * math.log(a / sum(p) / (b / sum(q)))
    return total


@backends
@pytest.mark.parametrize("old", [1, 3, 6])
def test_distillation_against_a_loop(backend: str, old: int, rng: torch.Generator) -> None:
    student = torch.randn(4, 6, generator=rng, dtype=torch.float64)
    teacher = torch.randn(4, old, generator=rng, dtype=torch.float64)
    summed = _divergence_by_loops(student, teacher, 2.0)
    with clfast.backend(backend):
        for reduction, terms in (("batchmean", 4), ("mean", 4 * old), ("sum", 1)):
            got = ops.distillation_loss(student, teacher, 2.0, reduction=reduction)  # type: ignore[arg-type]
            assert float(got) == pytest.approx(summed / terms, abs=1e-14)
            scaled = ops.distillation_loss(
                *(student, teacher, 2.0),
                reduction=reduction,
                scale_t2=True,  # type: ignore[arg-type]
            )
            assert float(scaled) == pytest.approx(4 * summed / terms, abs=1e-14)


def test_distillation_of_the_same_is_nothing_and_new_classes_stay(rng: torch.Generator) -> None:
    student = torch.randn(4, 6, generator=rng, requires_grad=True)
    loss = ops.distillation_loss(student, student[:, :4].detach(), 2.0)
    (slope,) = torch.autograd.grad(loss, student)
    assert abs(float(loss.detach())) < 1e-7
    assert float(slope.abs().max()) < 1e-7
    assert torch.equal(slope[:, 4:], torch.zeros(4, 2))


def test_distillation_of_far_logits(simd_level: str) -> None:
    student, teacher = torch.tensor([[0.0, 300.0, 1e4]]), torch.tensor([[300.0, 0.0]])
    got = ops.distillation_loss(student.requires_grad_(), teacher, 1.0)
    (slope,) = torch.autograd.grad(got, student)
    assert float(got.detach()) == pytest.approx(300.0)
    assert torch.equal(slope, torch.tensor([[-1.0, 1.0, 0.0]]))


@backends
def test_a_teacher_that_requires_grad_is_refused(backend: str, rng: torch.Generator) -> None:
    for required in (False, True):
        student = torch.randn(3, 4, generator=rng, requires_grad=required)
        teacher = torch.randn(3, 4, generator=rng, requires_grad=True)
        with clfast.backend(backend):
            with pytest.raises(
                RuntimeError, match="clfast::distillation_loss: teacher requires grad"
            ):
                ops.distillation_loss(student, teacher, 2.0)
            with torch.no_grad():
                ops.distillation_loss(student, teacher, 2.0)


def _ranking_by_loops(
    cosines: Tensor, labels: list[int], new: list[int], margin: float, k: int
) -> tuple[float, list[list[float]]]:
    """LUCIR's separation of classes, with the gradient."""
    terms: list[tuple[int, int, float]] = []
    for i, label in enumerate(labels):
        if label not in new:
            hardest = sorted(new, key=lambda c: -float(cosines[i, c]))[:k]  # which is stable
            terms += [(i, c, margin - float(cosines[i, label] - cosines[i, c])) for c in hardest]
    slopes = [[0.0] * cosines.shape[1] for _ in labels]
    for i, c, excess in terms:
        if excess > 0:
            slopes[i][c] += 1 / len(terms)
            slopes[i][labels[i]] -= 1 / len(terms)
    return sum(max(0.0, excess) for *_, excess in terms) / max(1, len(terms)), slopes


@backends
@pytest.mark.parametrize("k", [1, 2, 5, 100])
def test_margin_ranking_against_a_loop(backend: str, k: int, rng: torch.Generator) -> None:
    for new in ([7, 8, 9, 10, 11], [3, 0, 9], [5]):
        # Of a few values, so that there are ties.
        levels = torch.randint(-4, 5, (20, 12), generator=rng, dtype=torch.float64)
        cosines = (levels / 4).requires_grad_()
        labels = torch.randint(0, 12, (20,), generator=rng)
        with clfast.backend(backend):
            loss = ops.margin_ranking_loss(cosines, labels, torch.tensor(new), margin=0.6, k=k)
            (slope,) = torch.autograd.grad(loss, cosines)
        wanted, slopes = _ranking_by_loops(cosines.detach(), labels.tolist(), new, 0.6, k)
        assert float(loss.detach()) == pytest.approx(wanted, abs=1e-14)
        torch.testing.assert_close(slope, torch.tensor(slopes, dtype=torch.float64))


@backends
def test_nothing_to_rank(backend: str, rng: torch.Generator) -> None:
    cosines = torch.randn(4, 6, generator=rng, requires_grad=True)
    labels = torch.tensor([4, 5, 4, 4])
    nobody, none = torch.tensor([4, 5]), torch.tensor([], dtype=torch.int64)
    with clfast.backend(backend):
        for of_labels, new in ((labels, nobody), (labels, none)):
            loss = ops.margin_ranking_loss(cosines, of_labels, new)
            assert float(loss.detach()) == 0
            (slope,) = torch.autograd.grad(loss, cosines)
            assert torch.equal(slope, torch.zeros(4, 6))


@backends
def test_a_class_ranks_as_often_as_it_is_listed(backend: str) -> None:
    cosines, labels = torch.tensor([[0.5, 0.25, 0.75]]), torch.tensor([0])
    with clfast.backend(backend):
        twice = ops.margin_ranking_loss(cosines, labels, torch.tensor([2, 1, 2]), margin=0.0)
        once = ops.margin_ranking_loss(cosines, labels, torch.tensor([2, 1]), margin=0.0)
    assert float(twice) == 0.25
    assert float(once) == 0.125


def test_margin_ranking_takes_masked_classes(rng: torch.Generator) -> None:
    cosines = torch.randn(3, 5, generator=rng, dtype=torch.float64)
    labels, new = torch.tensor([0, 1, 0]), torch.tensor([2, 3, 4])
    wanted = ops.margin_ranking_loss(cosines[:, :4], labels, new[:2])
    cosines[:, 4] = -math.inf
    torch.testing.assert_close(ops.margin_ranking_loss(cosines, labels, new), wanted)


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cosines_of_rows_without_a_direction(
    backend: str, dtype: torch.dtype, simd_level: str, rng: torch.Generator
) -> None:
    features = torch.randn(4, 9, generator=rng, dtype=dtype)
    weight = torch.randn(3, 9, generator=rng, dtype=dtype)
    features[1], features[2], weight[0] = 0, 1e-20, 0
    inputs = [t.requires_grad_() for t in (features, weight)]
    with clfast.backend(backend):
        logits = ops.cosine_logits(*inputs, 2.0)
        slopes = torch.autograd.grad(logits.sum(), inputs)
    plain = 2 * F.normalize(features, dim=1) @ F.normalize(weight, dim=1).t()
    torch.testing.assert_close(logits, plain)
    assert torch.equal(logits[1], torch.zeros(3, dtype=dtype))
    for ours, theirs in zip(slopes, torch.autograd.grad(plain.sum(), inputs), strict=True):
        assert bool(ours.isfinite().all())
        scale = theirs.abs().amax(1, keepdim=True)
        torch.testing.assert_close(ours / scale, theirs / scale)


def test_cosines_of_long_rows(simd_level: str) -> None:
    """Whose squares float32 does not hold."""
    features, weight = torch.full((2, 5), 1e30), torch.full((3, 5), -1e-11)
    features.requires_grad_(), weight.requires_grad_()
    logits = ops.cosine_logits(features, weight, 3.0)
    torch.testing.assert_close(logits, torch.full((2, 3), -3.0), rtol=1e-6, atol=0)
    slopes = torch.autograd.grad(logits.sum(), (features, weight))
    assert all(bool(slope.isfinite().all()) for slope in slopes)


def test_no_features_and_no_classes(rng: torch.Generator) -> None:
    for rows, classes, dim in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        features, weight = (torch.randn(n, dim, requires_grad=True) for n in (rows, classes))
        scale = torch.tensor(2.0, requires_grad=True)
        logits = ops.cosine_logits(features, weight, scale)
        assert logits.shape == (rows, classes)
        assert torch.equal(logits, torch.zeros(rows, classes))
        for slope in torch.autograd.grad(logits.sum(), (features, weight, scale)):
            assert torch.equal(slope, torch.zeros_like(slope))


@backends
def test_other_classes_are_left_untouched(backend: str) -> None:
    logits = torch.tensor([[-0.0, 1e-40, math.inf, 3.0, -2.0]])
    with clfast.backend(backend):
        got = ops.bias_correct(logits, torch.tensor([4, 3, 4]), 0.5, 1.0)
    assert torch.equal(got, torch.tensor([[-0.0, 1e-40, math.inf, 2.5, 0.0]]))
    assert bool(torch.signbit(got[0, 0]))


@backends
def test_numbers_and_tensors_scale_alike(backend: str, rng: torch.Generator) -> None:
    logits, new = torch.randn(3, 5, generator=rng), torch.tensor([1, 4])
    two, half = torch.tensor(2.0, requires_grad=True), torch.nn.Parameter(torch.tensor(0.5))
    with clfast.backend(backend):
        got = ops.bias_correct(logits, new, two, half)
        assert torch.equal(got, ops.bias_correct(logits, new, 2, 0.5))
        assert got.requires_grad
        assert torch.equal(
            ops.cosine_logits(logits, logits, two), ops.cosine_logits(logits, logits, 2.0)
        )
