"""SI's path integral, in what the checks of every op do not see."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import clfast
from clfast import ops

backends = pytest.mark.parametrize("backend", ["compiled", "reference"])
float64 = torch.float64

# Around the vectors of every level and their multiples, and around the parts that threads take.
SIZES = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 8191, 8192, 8193, 20_000)


def _by_hand(omegas: list[Tensor], grads: list[Tensor], deltas: list[Tensor]) -> list[Tensor]:
    """Number by number, in float64."""
    found = []
    for omega, grad, delta in zip(omegas, grads, deltas, strict=True):
        numbers = [t.detach().double().flatten().tolist() for t in (omega, grad, delta)]
        values = [w - g * d for w, g, d in zip(*numbers, strict=True)]
        found.append(torch.tensor(values, dtype=float64).view(omega.shape))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, float64], ids=str)
def test_by_hand(dtype: torch.dtype, simd_level: str, rng: torch.Generator) -> None:
    lists = [[torch.randn(n, generator=rng, dtype=dtype) for n in SIZES] for _ in range(3)]
    wanted = _by_hand(*lists)
    ops.path_integral_(*lists)
    close = 1e-15 if dtype == float64 else 3e-7
    torch.testing.assert_close([w.double() for w in lists[0]], wanted, rtol=close, atol=close)


@pytest.mark.parametrize("dtype", [torch.float32, float64], ids=str)
def test_of_parameters_before_and_after(
    dtype: torch.dtype, simd_level: str, rng: torch.Generator
) -> None:
    """With the bits of the differences, and the parameters are left."""
    omegas, grads, after, before = (
        [torch.randn(n, generator=rng, dtype=dtype) for n in SIZES] for _ in range(4)
    )
    wanted = [w.clone() for w in omegas]
    ops.path_integral_(wanted, grads, [a - b for a, b in zip(after, before, strict=True)])
    kept = [t.clone() for t in (*after, *before)]
    ops.path_integral_(omegas, grads, after, before=before)
    torch.testing.assert_close(omegas, wanted, rtol=0, atol=0)
    assert all(torch.equal(t, k) for t, k in zip((*after, *before), kept, strict=True))


@backends
def test_parameters_in_sixteen_bits_before_and_after(backend: str) -> None:
    """Their difference is formed in float32."""
    after = torch.tensor([1.0078125, -3.0], dtype=torch.bfloat16)
    omega, before = torch.zeros(2), torch.tensor([1.0001, -3.0])
    with clfast.backend(backend):
        ops.path_integral_([omega], [torch.tensor([2.0, math.nan])], [after], before=[before])
    wanted = torch.tensor([-2.0 * (1.0078125 - 1.0001), 0.0])
    torch.testing.assert_close(omega, wanted, rtol=1e-4, atol=0)


@backends
def test_a_descent_adds_up_to_what_the_loss_fell_by(backend: str) -> None:
    """Small steps on a quadratic: the sum over parameters is the loss before less after."""
    weight = torch.nn.Parameter(torch.tensor([2.0, -1.0, 0.5], dtype=float64))
    curvature = torch.tensor([1.0, 3.0, 0.5], dtype=float64)
    omega, losses = torch.zeros(3, dtype=float64), []
    with clfast.backend(backend):
        for _ in range(2000):
            loss = (curvature * weight**2).sum()
            losses.append(float(loss.detach()))
            (grad,) = torch.autograd.grad(loss, weight)
            delta = -1e-3 * grad
            with torch.no_grad():
                weight += delta
            ops.path_integral_([omega], [grad], [delta])
    fell = losses[0] - float((curvature * weight.detach() ** 2).sum())
    assert float(omega.sum()) == pytest.approx(fell, rel=5e-3)
    assert bool((omega > 0).all())


@backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sixteen_bits_beside_float32(
    dtype: torch.dtype, backend: str, rng: torch.Generator
) -> None:
    """Sums in float32 of gradients in 16 bits are those of float32; in 16 bits they are rounded
    once."""
    omegas, grads, deltas = ([torch.randn(33, generator=rng) for _ in range(2)] for _ in range(3))
    grads[0], omegas[1] = grads[0].to(dtype), omegas[1].to(dtype)
    wanted = _by_hand(omegas, grads, deltas)
    with clfast.backend(backend):
        ops.path_integral_(omegas, grads, deltas)
    assert [w.dtype for w in omegas] == [torch.float32, dtype]
    torch.testing.assert_close(omegas[0].double(), wanted[0], rtol=1e-6, atol=1e-6)
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(omegas[1].double(), wanted[1], rtol=unit, atol=1e-6)


@backends
def test_sums_are_changed_where_they_lie(backend: str, rng: torch.Generator) -> None:
    """In whatever order of memory; what lies around a view stays."""
    whole = torch.randn(6, 8, generator=rng)
    last = torch.channels_last
    omegas = [
        torch.randn(4, 3, 5, 5, generator=rng).to(memory_format=last),
        torch.randn(7, 4, generator=rng).t(),
        whole[1:4, ::2],
    ]
    grads, deltas = ([torch.randn(w.shape, generator=rng) for w in omegas] for _ in range(2))
    grads[0] = grads[0].to(memory_format=last)
    wanted, around = _by_hand(omegas, grads, deltas), whole + 0
    places = [(w.data_ptr(), w.stride()) for w in omegas]
    with clfast.backend(backend):
        ops.path_integral_(omegas, grads, deltas)
    assert [(w.data_ptr(), w.stride()) for w in omegas] == places
    torch.testing.assert_close([w.double() for w in omegas], wanted, rtol=1e-6, atol=1e-6)
    around[1:4, ::2] = whole[1:4, ::2]
    assert torch.equal(whole, around)


@backends
def test_nan_stays_in_its_place(backend: str, rng: torch.Generator) -> None:
    lists = [torch.randn(50, generator=rng) for _ in range(3)]
    for at, tensor in zip((3, 17, 49), lists, strict=True):
        tensor[at] = math.nan
    with clfast.backend(backend):
        ops.path_integral_(*([t] for t in lists))
    assert lists[0].isnan().nonzero().flatten().tolist() == [3, 17, 49]


@backends
def test_what_does_not_move_adds_nothing(backend: str, rng: torch.Generator) -> None:
    omega = torch.randn(50, generator=rng)
    grad, delta, kept = torch.full((50,), math.inf), torch.zeros(50), omega.clone()
    grad[3], delta[7] = math.nan, 2.0
    with clfast.backend(backend):
        ops.path_integral_([omega], [grad], [delta])
    assert omega[7] == -math.inf
    omega[7] = kept[7]
    assert torch.equal(omega, kept)


@backends
def test_what_is_refused_leaves_the_sums(backend: str) -> None:
    omegas = [torch.ones(3), torch.ones(4)]
    zeros = [torch.zeros(3), torch.zeros(4)]
    with clfast.backend(backend):
        for grads in (zeros[:1], [zeros[0], torch.zeros(4, 1)], [zeros[0], zeros[1].double()]):
            with pytest.raises(RuntimeError, match="clfast::path_integral_: grads"):
                ops.path_integral_(omegas, grads, zeros)
    assert all(torch.equal(w, torch.ones_like(w)) for w in omegas)
    assert [w._version for w in omegas] == [0, 0]


@backends
def test_parameters_and_their_gradients_are_taken_as_they_are(backend: str) -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    weight.grad = torch.ones(2)
    omega = torch.zeros(2)
    kept = (torch.ones(2, requires_grad=True) * omega).sum()
    with clfast.backend(backend):
        ops.path_integral_([omega], [weight.grad], [weight])
    assert omega.tolist() == [-1.0, -2.0]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()
