"""The recall ops, in what the checks of every op do not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_samples import CASES, OpCase
from sizes import Sizes
from torch import Tensor

import clfast
from clfast import ops, reference

differentiable = pytest.mark.parametrize(
    "case", [case for case in CASES if case.differentiable_in and case.family == "recall"], ids=str
)
SECOND_DERIVATIVES = ("soft_cross_entropy",)
backends = pytest.mark.parametrize("backend", ["compiled", "reference"])


def _of_inputs(case: OpCase, rng: torch.Generator) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The op as a function of what it is differentiable in, and float64 values of that."""
    sizes = Sizes(batch=3, dim=4, k=3, classes=5)
    args, kwargs = case.make(sizes, torch.float64, rng)
    inputs, rest = args[: case.differentiable_in], args[case.differentiable_in :]
    return (lambda *given: case.op(*given, *rest, **kwargs)), [t.requires_grad_() for t in inputs]


@differentiable
@backends
def test_gradients(case: OpCase, backend: str, simd_level: str, rng: torch.Generator) -> None:
    function, inputs = _of_inputs(case, rng)
    with clfast.backend(backend):
        assert torch.autograd.gradcheck(function, inputs)
        for alone in range(len(inputs)):  # the others do not require grad
            given = [t.detach().requires_grad_(i == alone) for i, t in enumerate(inputs)]
            assert torch.autograd.gradcheck(function, given)


@differentiable
def test_second_derivatives(case: OpCase, rng: torch.Generator) -> None:
    function, inputs = _of_inputs(case, rng)
    if case.name in SECOND_DERIVATIVES:
        assert torch.autograd.gradgradcheck(function, inputs)
        return
    (slope, *_) = torch.autograd.grad(function(*inputs).sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match=rf"clfast::{case.name}: has no second derivative"):
        slope.sum().backward()


@differentiable
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gradients_have_the_dtype_of_the_input(
    case: OpCase, dtype: torch.dtype, rng: torch.Generator
) -> None:
    args, kwargs = case.make(Sizes(), dtype, rng)
    inputs = [t.requires_grad_() for t in args[: case.differentiable_in]]
    got = torch.autograd.grad(case.op(*args, **kwargs).sum(), inputs)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    rest = args[case.differentiable_in :]
    rest = tuple(t.double() if t.is_floating_point() else t for t in rest)
    wanted = torch.autograd.grad(case.oracle(*exact, *rest, **kwargs).sum(), exact)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == dtype
        atol = 8 * torch.finfo(dtype).eps * float(theirs.abs().max())
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=atol)


@differentiable
# Dynamo's own, of torch 2.13.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_derivatives_under_transforms_and_compilation(case: OpCase, rng: torch.Generator) -> None:
    function, inputs = _of_inputs(case, rng)
    wanted = torch.autograd.grad(function(*inputs).sum(), inputs)
    every = tuple(range(len(inputs)))
    plain = [t.detach() for t in inputs]
    got = torch.func.grad(lambda *given: function(*given).sum(), every)(*plain)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    also = torch.autograd.grad(compiled(*inputs).sum(), inputs)
    torch.compiler.reset()
    for ours, theirs, compiled_one in zip(got, wanted, also, strict=True):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(compiled_one, theirs)


@differentiable
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, at first use
def test_forward_mode_is_refused(case: OpCase, rng: torch.Generator) -> None:
    function, inputs = _of_inputs(case, rng)
    plain = tuple(t.detach() for t in inputs)
    with pytest.raises(RuntimeError, match=rf"clfast::{case.name}: \S+ requires grad"):
        torch.func.jvp(function, plain, plain)


REPEATED: list[tuple[str, tuple[int, ...], Any]] = [
    ("recall_loss", (4, 10), {}),
    ("recall_loss", (4, 10), {"divergence": "js"}),
    ("recall_loss", (4, 10), {"divergence": "ce"}),
    ("soft_cross_entropy", (4, 10), {"temperature": 3.0}),
    ("image_prior", (4, 2, 5, 3), {"tv_weight": 2.0}),
]


@pytest.mark.parametrize(("name", "shape", "options"), REPEATED)
@backends
def test_multiplicity_stands_for_copies(
    name: str, shape: tuple[int, ...], options: Any, backend: str, rng: torch.Generator
) -> None:
    op, copies = getattr(ops, name), torch.tensor([2, 1, 4, 3])
    first, second = (torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(2))
    extra: tuple[Any, ...] = ()
    if name != "image_prior":
        extra = (second, torch.tensor([1, 3])) if name == "recall_loss" else (second,)
    first.requires_grad_()
    repeated = first.repeat_interleave(copies, 0)
    extra_repeated = tuple(
        t.repeat_interleave(copies, 0) if t.is_floating_point() else t for t in extra
    )
    with clfast.backend(backend):
        once = op(first, *extra, **options, multiplicity=copies)
        all_of_them = op(repeated, *extra_repeated, **options)
    torch.testing.assert_close(once, all_of_them)
    (ours,), (theirs,) = (torch.autograd.grad(loss, first) for loss in (once, all_of_them))
    torch.testing.assert_close(ours, theirs)


def test_the_step_of_one_copy(rng: torch.Generator) -> None:
    images, grad = (torch.randn(3, 1, 4, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    copies = torch.tensor([1, 5, 2])
    repeated = images.repeat_interleave(copies, 0)
    weights = {"lr": 3.0, "tv_weight": 0.5, "l2_weight": 2.0}
    ops.recall_step_(images, grad, **weights, multiplicity=copies, per_copy=True)
    one_copy = (grad / copies[:, None, None, None]).repeat_interleave(copies, 0)
    ops.recall_step_(repeated, one_copy, **weights)
    torch.testing.assert_close(images.repeat_interleave(copies, 0), repeated)


def _recall(old: Tensor, new: Tensor, present: Tensor, **options: Any) -> None:
    """As the float64 reference, and finite."""
    got = ops.recall_gradients(old, new, present, **options)
    wanted = reference.recall.recall_gradients(old.double(), new.double(), present, **options)
    for ours, theirs in zip(got, wanted, strict=True):
        assert bool(ours.isfinite().all())
        scale = max(1.0 if theirs.dim() else 16.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=5e-6 * scale)


@pytest.mark.parametrize("divergence", ["ag", "js", "ce"])
@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000, 10_000])
def test_many_classes(divergence: str, classes: int, simd_level: str, rng: torch.Generator) -> None:
    old, new = (3 * torch.randn(6, classes, generator=rng) for _ in range(2))
    present = torch.randperm(classes, generator=rng)[: 1 + classes // 3]
    _recall(old, new, present, divergence=divergence)
    _recall(old, new, torch.arange(classes), divergence=divergence)


@pytest.mark.parametrize("divergence", ["ag", "js", "ce"])
def test_extreme_predictions(divergence: str, simd_level: str, rng: torch.Generator) -> None:
    present, flat = torch.tensor([0, 1]), torch.zeros(4, 6)
    _recall(flat, flat, present, divergence=divergence)
    _recall(flat + 1e4, flat - 1e4, present, divergence=divergence)
    saturated = torch.zeros(4, 6)
    saturated[:, 2] = 80.0
    for other in (saturated, saturated.flip(1), flat):
        _recall(saturated, other, present, divergence=divergence)
        _recall(other, saturated, present, divergence=divergence)
    # Differences of 400 underflow in float32; the divergence grows with them.
    far = torch.zeros(2, 6)
    far[0, 1], far[1, 4] = 400.0, -400.0
    for old, new in ((far, far.flip(0)), (far.flip(0), far)):
        got = ops.recall_gradients(old, new, present, divergence=divergence)
        assert all(bool(t.isfinite().all()) for t in got)
        wanted = reference.recall.recall_loss(
            old.double(), new.double(), present, divergence=divergence
        )
        torch.testing.assert_close(got[0].double(), wanted, rtol=1e-5, atol=1e-4)


def test_listed_classes_count_as_often_as_they_are_listed(rng: torch.Generator) -> None:
    old, new = (torch.randn(3, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    twice = torch.tensor([1, 1, 4])
    got = ops.recall_loss(old, new, twice)
    torch.testing.assert_close(got, reference.recall.recall_loss(old, new, twice))
    assert not torch.equal(got, ops.recall_loss(old, new, twice.unique()))


def test_divergence_of_the_same_and_of_disjoint_predictions() -> None:
    one, other = torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]])
    for kind in ("ag", "js"):
        assert abs(float(ops.divergence(one, one, kind))) < 1e-6
    assert float(ops.divergence(one, other, "js")) == pytest.approx(0.693147, rel=1e-5)
    assert float(ops.divergence(one, other, "ag")) == pytest.approx(60 / 2 - 0.693147, rel=1e-5)


def test_targets_are_constants(rng: torch.Generator) -> None:
    logits, target = (torch.randn(3, 4, generator=rng).requires_grad_() for _ in range(2))
    for name in ("compiled", "reference"):
        with clfast.backend(name):
            loss = ops.soft_cross_entropy(logits, target)
            slope = torch.autograd.grad(loss, target, allow_unused=True)
            assert slope == (None,)
            assert not ops.soft_cross_entropy(logits.detach(), target).requires_grad


SHAPES = [(2, 3, 1, 8), (2, 3, 8, 1), (2, 1, 1, 1), (1, 4, 3, 2), (2, 1, 28, 28), (2, 3, 5, 40)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_images_of_any_shape_in_either_order(
    shape: tuple[int, ...],
    memory_format: torch.memory_format,
    simd_level: str,
    rng: torch.Generator,
) -> None:
    images, grad = (
        torch.randn(shape, generator=rng, dtype=torch.float64).to(memory_format=memory_format)
        for _ in range(2)
    )
    images.requires_grad_()
    for ours, theirs in (
        (ops.image_prior, reference.recall.image_prior),
        (ops.total_variation, reference.recall.total_variation),
    ):
        got, wanted = ours(images), theirs(images)
        torch.testing.assert_close(got, wanted)
        if wanted.requires_grad:
            (slope,), (other,) = (torch.autograd.grad(loss, images) for loss in (got, wanted))
            torch.testing.assert_close(slope, other)
            assert slope.is_contiguous(memory_format=memory_format)
    here, there = images.detach().clone(), images.detach().clone()
    weights = {"lr": 0.7, "tv_weight": 1.3, "l2_weight": 0.4}
    place, strides = here.data_ptr(), here.stride()
    ops.recall_step_(here, grad.contiguous(), **weights)  # whatever order the gradient is in
    reference.recall.recall_step_(there, grad, **weights)
    torch.testing.assert_close(here, there)
    assert (here.data_ptr(), here.stride()) == (place, strides)


def test_a_view_of_larger_images_is_stepped_in_place(rng: torch.Generator) -> None:
    whole = torch.randn(2, 3, 8, 8, generator=rng)
    kept, view = whole.clone(), whole[:, :, 1:5, ::2]
    wanted = view.clone()
    weights = {"lr": 0.7, "tv_weight": 1.3, "l2_weight": 0.4}
    ops.recall_step_(view, torch.ones(2, 3, 4, 4), **weights)
    ops.recall_step_(wanted, torch.ones(2, 3, 4, 4), **weights)
    assert torch.equal(view, wanted)
    kept[:, :, 1:5, ::2] = wanted
    assert torch.equal(whole, kept)  # and nothing around it


@backends
def test_images_that_overlap_themselves_are_left(backend: str) -> None:
    row = torch.ones(1, 1, 4, 4)
    weights = {"lr": 0.7, "tv_weight": 1.3, "l2_weight": 0.4}
    with (
        clfast.backend(backend),
        pytest.raises(RuntimeError, match="clfast::recall_step_: images must not"),
    ):
        ops.recall_step_(row.expand(3, 1, 4, 4), torch.ones(3, 1, 4, 4), **weights)
    assert torch.equal(row, torch.ones(1, 1, 4, 4))


def test_images_of_zeros_have_no_slope() -> None:
    images = torch.zeros(2, 1, 3, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(ops.image_prior(images), images)
    assert torch.equal(slope, torch.zeros_like(slope))
    here = images.detach().clone()
    ops.recall_step_(here, torch.zeros_like(here), lr=1.0, tv_weight=1.0, l2_weight=1.0)
    assert torch.equal(here, images)


def test_no_images() -> None:
    for shape in ((0, 3, 4, 4), (2, 3, 0, 4), (2, 0, 4, 4)):
        images = torch.zeros(shape, requires_grad=True)
        for op in (ops.image_prior, ops.total_variation):
            loss = op(images)
            assert float(loss.detach()) == 0
            loss.backward()
        ops.recall_step_(images.detach(), images.detach(), lr=1.0, tv_weight=1.0, l2_weight=1.0)


def test_a_step_refuses_images_that_require_grad() -> None:
    images = torch.zeros(1, 1, 2, 2, requires_grad=True)
    weights = {"lr": 0.7, "tv_weight": 1.3, "l2_weight": 0.4}
    with pytest.raises(RuntimeError, match=r"clfast::recall_step_: images requires grad"):
        ops.recall_step_(images, torch.zeros(1, 1, 2, 2), **weights)
    with torch.no_grad():
        ops.recall_step_(images, torch.ones(1, 1, 2, 2), **weights)
    assert torch.equal(images, torch.full((1, 1, 2, 2), -0.7))


def test_a_step_is_seen_by_autograd() -> None:
    weight, images = torch.ones(1, 1, 2, 2, requires_grad=True), torch.zeros(1, 1, 2, 2)
    product = (weight * images).sum()
    ops.recall_step_(images, torch.ones(1, 1, 2, 2), lr=1.0, tv_weight=1.0, l2_weight=1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_far_below_zero_and_very_high_temperatures(
    dtype: torch.dtype, simd_level: str
) -> None:
    """Vectors are filled up in the kernels; nothing may come of it."""
    logits = torch.arange(10.0, dtype=dtype).view(2, 5)
    largest = 0.5 * torch.finfo(dtype).max
    for given, temperature in (
        (torch.full((2, 5), -2e30, dtype=dtype), 1.0),
        (torch.full((2, 5), -largest, dtype=dtype), 1.0),
        (logits, 1e30),
    ):
        got = ops.soft_cross_entropy(given, given, temperature=temperature)
        torch.testing.assert_close(got, torch.log(torch.tensor(5.0, dtype=dtype)))
        _recall(given, given, torch.tensor([0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 5, 10, 17])
def test_low_temperatures_and_large_weights(
    dtype: torch.dtype, classes: int, simd_level: str, rng: torch.Generator
) -> None:
    old, new = (torch.randn(4, classes, generator=rng, dtype=dtype) for _ in range(2))
    for temperature in (0.2, 0.05, 1e-3):
        torch.testing.assert_close(
            ops.soft_cross_entropy(old, new, temperature=temperature),
            reference.recall.soft_cross_entropy(old, new, temperature=temperature),
        )
    weights = {"not_local_old": 100.0, "not_local_new": 50.0, "divergence_weight": 30.0}
    present = torch.tensor([1])
    for kind in ("ag", "js", "ce"):
        got = ops.recall_gradients(old, new, present, divergence=kind, **weights)
        wanted = reference.recall.recall_gradients(old, new, present, divergence=kind, **weights)
        for ours, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["js", "ce"])
def test_classes_masked_by_the_lowest_number(kind: Any, simd_level: str) -> None:
    old, new = torch.randn(2, 3, 7).unbind()
    for logits in (old, new):
        logits[:, 4] = torch.finfo(torch.float32).min
    present = torch.tensor([1])
    got = ops.recall_gradients(old, new, present, divergence=kind)
    wanted = reference.recall.recall_gradients(old, new, present, divergence=kind)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
