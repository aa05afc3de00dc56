"""EWC's penalty and its gradient, in what the checks of every op do not see."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import clfast
from clfast import ops

backends = pytest.mark.parametrize("backend", ["compiled", "reference"])
float64 = torch.float64

# Around the vectors of every level and their multiples, and around the parts that threads take.
SIZES = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 8191, 8192, 8193, 20_000)

Lists = tuple[list[Tensor], list[Tensor], list[Tensor]]


def _lists(
    shapes: Any, rng: torch.Generator, dtype: torch.dtype = torch.float32, grad: bool = False
) -> Lists:
    """Parameters, anchors and importances."""
    params, anchors, roots = (
        [torch.randn(shape, generator=rng, dtype=float64).to(dtype) for shape in shapes]
        for _ in range(3)
    )
    return [p.requires_grad_(grad) for p in params], anchors, [r**2 for r in roots]


def _by_hand(params: list[Tensor], anchors: list[Tensor], importances: list[Tensor]) -> Any:
    """Number by number, in float64."""
    value, gradients = 0.0, []
    for p, a, f in zip(params, anchors, importances, strict=True):
        numbers = [t.detach().double().flatten().tolist() for t in (p, a, f)]
        triples = list(zip(*numbers, strict=True))
        value += math.fsum(f * (p - a) ** 2 for p, a, f in triples)
        slopes = [2 * f * (p - a) for p, a, f in triples]
        gradients.append(torch.tensor(slopes, dtype=float64).view(p.shape))
    return value, gradients


@pytest.mark.parametrize("dtype", [torch.float32, float64], ids=str)
def test_value_and_gradients_by_hand(
    dtype: torch.dtype, simd_level: str, rng: torch.Generator
) -> None:
    params, anchors, importances = lists = _lists(SIZES, rng, dtype, grad=True)
    value, gradients = _by_hand(*lists)
    close = 1e-13 if dtype == float64 else 1e-6
    got = ops.quadratic_penalty(*lists)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double().item(), value, rtol=close, atol=0)
    assert torch.equal(ops.quadratic_penalty([p.detach() for p in params], *lists[1:]), got)
    for factor in (1, 0.5):
        found = torch.autograd.grad(factor * got, params, retain_graph=True)
        wanted = [factor * g for g in gradients]
        torch.testing.assert_close([f.double() for f in found], wanted, rtol=close, atol=close)
    added = [torch.randn(p.shape, generator=rng, dtype=dtype) for p in params]
    wanted = [g.double() + 0.75 * s for g, s in zip(added, gradients, strict=True)]
    ops.add_penalty_gradients_(added, params, anchors, importances, 0.75)
    torch.testing.assert_close([g.double() for g in added], wanted, rtol=close, atol=2 * close)


@pytest.mark.parametrize("size", SIZES)
def test_lists_of_one_tensor(size: int, simd_level: str, rng: torch.Generator) -> None:
    lists = _lists([size], rng, grad=True)
    value, (slope,) = _by_hand(*lists)
    got = ops.quadratic_penalty(*lists)
    torch.testing.assert_close(got.item(), value, rtol=1e-6, atol=0)
    (found,) = torch.autograd.grad(got, lists[0])
    torch.testing.assert_close(found.double(), slope, rtol=1e-6, atol=0)
    grad = torch.zeros(size)
    ops.add_penalty_gradients_([grad], *lists, 1.0)
    assert torch.equal(grad, found)


def test_it_is_differentiated_twice(rng: torch.Generator) -> None:
    params, anchors, importances = _lists([(3, 2), (), (0,)], rng, float64, grad=True)

    def penalty(*given: Tensor) -> Tensor:
        return ops.quadratic_penalty(list(given), anchors, importances)

    assert torch.autograd.gradcheck(penalty, params)
    assert torch.autograd.gradgradcheck(penalty, params)
    slopes = torch.autograd.grad(penalty(*params), params, create_graph=True)
    (curvature,) = torch.autograd.grad(slopes[0].sum(), params[0])
    torch.testing.assert_close(curvature, 2 * importances[0])


def test_only_some_parameters_may_require_grad(rng: torch.Generator) -> None:
    params, anchors, importances = _lists([3, 4], rng)
    params[1].requires_grad_()
    ops.quadratic_penalty(params, anchors, importances).backward()
    assert params[0].grad is None
    wanted = 2 * importances[1] * (params[1].detach() - anchors[1])
    torch.testing.assert_close(params[1].grad, wanted)


@backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_beside_float32(
    dtype: torch.dtype, backend: str, rng: torch.Generator
) -> None:
    """Gradients have the dtype of their parameters, and are rounded once."""
    params, anchors, _ = lists = _lists([33, 9], rng)
    params[0] = params[0].to(dtype).requires_grad_()
    anchors[1] = anchors[1].to(dtype)
    params[1].requires_grad_()
    value, gradients = _by_hand(*lists)
    with clfast.backend(backend):
        got = ops.quadratic_penalty(*lists)
        found = torch.autograd.grad(got, params)
        grads = [torch.ones(33, dtype=dtype), torch.ones(9)]
        ops.add_penalty_gradients_(grads, *lists, 0.5)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.item(), value, rtol=1e-6, atol=0)
    assert [f.dtype for f in found] == [g.dtype for g in grads] == [dtype, torch.float32]
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(found[0].double(), gradients[0], rtol=unit, atol=1e-6)
    torch.testing.assert_close(grads[0].double(), 1 + gradients[0] / 2, rtol=unit, atol=1e-6)
    torch.testing.assert_close(grads[1].double(), 1 + gradients[1] / 2, rtol=1e-6, atol=1e-6)


def test_many_small_terms_are_not_lost(simd_level: str) -> None:
    """A million times 2^-24 beside 1: float32 would keep only the 1."""
    lists = [torch.ones(1), torch.full((1_000_000,), 2.0**-12)]
    zeros, ones = [torch.zeros_like(t) for t in lists], [torch.ones_like(t) for t in lists]
    wanted = torch.tensor(1 + 1_000_000 * 2.0**-24)
    assert ops.quadratic_penalty(lists, zeros, ones) == wanted


@backends
def test_importances_are_multiplied_before_anything_overflows(backend: str) -> None:
    lists = ([torch.tensor([1e25, 1e-25])], [torch.zeros(2)], [torch.tensor([1e-30, 1e30])])
    with clfast.backend(backend):
        if backend == "compiled":
            torch.testing.assert_close(ops.quadratic_penalty(*lists).item(), 1e20)
        grads = [torch.zeros(2)]
        ops.add_penalty_gradients_(grads, *lists, 1.0)
        torch.testing.assert_close(grads[0], torch.tensor([2e-5, 2e5]))
        infinite = ops.quadratic_penalty([torch.tensor([math.inf])], *([torch.ones(1)],) * 2)
        assert infinite == math.inf


@backends
def test_two_lists_stand_for_all_tasks(backend: str, rng: torch.Generator) -> None:
    """As the docstring merges them, with an entry that no task finds important."""
    tasks = [_lists([5, (2, 3)], rng, float64) for _ in range(4)]
    params = [p.requires_grad_() for p in tasks[0][0]]
    for _, _, importances in tasks:
        importances[0][3] = 0
    with clfast.backend(backend):
        separate = sum(ops.quadratic_penalty(params, a, f) for _, a, f in tasks)
        assert isinstance(separate, Tensor)
        wanted = torch.autograd.grad(separate, params)
        importances = [sum(f) for f in zip(*(f for _, _, f in tasks), strict=True)]
        weighted = [
            sum(f[i] * a[i] for _, a, f in tasks) / importances[i] for i in range(len(params))
        ]
        anchors = [
            torch.where(f == 0, p, w)
            for p, f, w in zip((p.detach() for p in params), importances, weighted, strict=True)
        ]
        merged = ops.quadratic_penalty(params, anchors, importances)
        torch.testing.assert_close(torch.autograd.grad(merged, params), wanted)
        grads = [torch.zeros_like(p) for p in anchors]
        ops.add_penalty_gradients_(grads, params, anchors, importances, 1.0)
        torch.testing.assert_close(grads, list(wanted))


@backends
def test_strength_zero_leaves_every_bit(backend: str) -> None:
    bits = torch.tensor([-0.0, math.nan, 1e-45, math.inf, 3.0] * 7)
    got, bad = bits.clone(), torch.full((35,), math.nan)
    with clfast.backend(backend):
        ops.add_penalty_gradients_([got], [bad], [bad], [bad], 0)
    assert torch.equal(got.view(torch.int32), bits.view(torch.int32))


@backends
def test_nan_stays_in_its_place(backend: str, rng: torch.Generator) -> None:
    lists = _lists([(50,)], rng)
    grad = torch.ones(50)
    for at, tensor in zip((3, 17, 49, 8), (grad, *(each[0] for each in lists)), strict=True):
        tensor[at] = math.nan
    with clfast.backend(backend):
        ops.add_penalty_gradients_([grad], *lists, 1.0)
    assert grad.isnan().nonzero().flatten().tolist() == [3, 8, 17, 49]


@backends
def test_gradients_are_changed_where_they_lie(backend: str, rng: torch.Generator) -> None:
    """In whatever order of memory; what lies around a view stays."""
    whole = torch.randn(6, 8, generator=rng)
    last = torch.channels_last
    grads = [
        torch.randn(4, 3, 5, 5, generator=rng).to(memory_format=last),
        torch.randn(4, 3, 5, 5, generator=rng).to(memory_format=last),
        torch.randn(7, 4, generator=rng).t(),
        whole[1:4, ::2],
    ]
    lists = _lists([g.shape for g in grads], rng)
    for each in lists:
        each[0] = each[0].to(memory_format=last)  # alike; the second differ
    value, slopes = _by_hand(*lists)
    wanted = [g.double() + s for g, s in zip(grads, slopes, strict=True)]
    places, strides, around = [g.data_ptr() for g in grads], [g.stride() for g in grads], whole + 0
    with clfast.backend(backend):
        torch.testing.assert_close(ops.quadratic_penalty(*lists).item(), value, rtol=1e-6, atol=0)
        ops.add_penalty_gradients_(grads, *lists, 1.0)
    assert [g.data_ptr() for g in grads] == places
    assert [g.stride() for g in grads] == strides
    torch.testing.assert_close([g.double() for g in grads], wanted, rtol=1e-6, atol=1e-6)
    around[1:4, ::2] = whole[1:4, ::2]
    assert torch.equal(whole, around)


def test_gradients_of_any_layout_of_parameters(rng: torch.Generator) -> None:
    params, anchors, _ = lists = _lists([(4, 3, 5, 5), (7, 4), (6, 6)], rng)
    params[0] = params[0].to(memory_format=torch.channels_last)
    anchors[1] = anchors[1].t().contiguous().t()
    params[2] = params[2][:1].expand(6, 6)
    for p in params:
        p.requires_grad_()
    _, slopes = _by_hand(*lists)
    found = torch.autograd.grad(ops.quadratic_penalty(*lists), params)
    torch.testing.assert_close([f.double() for f in found], slopes, rtol=1e-6, atol=1e-6)


@backends
def test_parameters_and_their_gradients_are_taken_as_they_are(backend: str) -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    weight.grad = torch.zeros(2)
    product = (weight * weight.grad).sum()
    anchor = torch.zeros(2, requires_grad=True)
    with clfast.backend(backend):
        ops.add_penalty_gradients_([weight.grad], [weight], [anchor], [torch.ones(2)], 0.5)
    assert weight.grad.tolist() == [1.0, 2.0]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@backends
@pytest.mark.parametrize("at", [1, 2])
def test_anchors_and_importances_are_constants(at: int, backend: str, rng: torch.Generator) -> None:
    lists = _lists([3, 4], rng, grad=True)
    wanted = ops.quadratic_penalty(*lists).detach()
    lists[at][1].requires_grad_()
    name = f"{['params', 'anchors', 'importances'][at]}[1]"
    message = rf"clfast::quadratic_penalty: {name}".replace("[", r"\[") + " requires grad"
    with clfast.backend(backend):
        with pytest.raises(RuntimeError, match=message):
            ops.quadratic_penalty(*lists)
        with torch.no_grad():
            torch.testing.assert_close(ops.quadratic_penalty(*lists), wanted)


@backends
def test_what_is_refused_leaves_gradients(backend: str, rng: torch.Generator) -> None:
    lists = _lists([3, 4], rng)
    grads = [torch.ones(3), torch.ones(4)]
    short = [each[:1] for each in lists]
    mixed = (*lists[:2], [lists[2][0], lists[2][1].double()])
    with clfast.backend(backend):
        for given, strength in ((lists, -1.0), (short, 1.0), (mixed, 1.0)):
            with pytest.raises(RuntimeError, match="clfast::add_penalty_gradients_: "):
                ops.add_penalty_gradients_(grads, *given, strength)
    assert all(torch.equal(g, torch.ones_like(g)) for g in grads)
    assert [g._version for g in grads] == [0, 0]


def test_lists_of_several_lengths_are_named_with_gradients_too(rng: torch.Generator) -> None:
    params, anchors, importances = _lists([3, 3, 3, 3], rng, grad=True)
    with pytest.raises(RuntimeError, match="importances must hold 4 tensors, as params does"):
        ops.quadratic_penalty(params, anchors, importances[:2])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, at first use
@backends
def test_transforms_of_torch_func(backend: str, rng: torch.Generator) -> None:
    (param,), anchors, importances = _lists([(2, 3)], rng, float64)

    def penalty(p: Tensor) -> Tensor:
        return ops.quadratic_penalty([p], anchors, importances)

    def changed(p: Tensor) -> Tensor:
        grad = p.clone()
        ops.add_penalty_gradients_([grad], [p], anchors, importances, 1.0)
        return grad.sum()

    wanted = 2 * importances[0] * (param - anchors[0])
    with clfast.backend(backend):
        torch.testing.assert_close(torch.func.grad(penalty)(param), wanted)
        _, tangent = torch.func.jvp(penalty, (param,), (torch.ones_like(param),))
        torch.testing.assert_close(tangent, wanted.sum())
        curvature = torch.func.hessian(penalty)(param).view(6, 6)
        torch.testing.assert_close(curvature, (2 * importances[0]).flatten().diag())
        with pytest.raises(RuntimeError, match=r"anchors\[0\] must have shape \[2, 3\], as params"):
            torch.func.grad(lambda p: ops.quadratic_penalty([p], [anchors[0][0]], importances))(
                param
            )
        for transform in (
            lambda: torch.func.grad(changed)(param),
            lambda: torch.func.jvp(changed, (param,), (param,)),
        ):
            with pytest.raises(RuntimeError, match=r"clfast::add_penalty_gradients_: grads\[0\]"):
                transform()


# Dynamo's own, of torch 2.13.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_training_step_compiles_without_graph_breaks(rng: torch.Generator) -> None:
    params, anchors, importances = _lists([(5, 4), (4,)], rng, grad=True)

    def loss() -> Tensor:
        return (params[0] @ params[1]).sum() + 0.5 * ops.quadratic_penalty(
            params, anchors, importances
        )

    plain = torch.autograd.grad(loss(), params)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(), params), plain)
    torch.compiler.reset()


def test_gradients_pass_opcheck(rng: torch.Generator) -> None:
    for transposed in (False, True):
        lists = _lists([(5, 4), (0, 3), ()], rng)
        if transposed:
            for each in lists:
                each[0] = each[0].t()
        torch.library.opcheck(torch.ops.clfast.quadratic_penalty.default, (*lists, True))


def test_a_graph_is_walked_twice(rng: torch.Generator) -> None:
    """Whoever changes the gradients of the first walk does not change those of the second."""
    params, anchors, importances = _lists([(5, 4), (4,)], rng, grad=True)
    value = ops.quadratic_penalty(params, anchors, importances)
    wanted = torch.autograd.grad(value, params, retain_graph=True)
    value.backward(retain_graph=True)
    for p in params:
        assert p.grad is not None
        p.grad.zero_()
    value.backward()
    torch.testing.assert_close([p.grad for p in params], list(wanted))
