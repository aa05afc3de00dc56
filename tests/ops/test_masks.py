"""The masks ops, in what the checks of every op do not see."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import clfast
from clfast import ops, reference

backends = pytest.mark.parametrize("backend", ["compiled", "reference"])
float16, bfloat16, float32, float64 = torch.float16, torch.bfloat16, torch.float32, torch.float64

# Around the vectors of every level, around a byte and a word of a packed mask, and around the parts
# that threads take.
SIZES = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 8191, 8192, 8193, 20_000)

# Shapes of weights, and of embeddings: equal, of units, of both, of none.
LAYERS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((33, 40), (33, 40)),
    ((33, 40), (1, 40)),
    ((33, 40), (33, 1)),
    ((6, 37, 4, 4), (1, 37, 1, 1)),
    ((70, 3, 3, 3), (70, 1, 1, 1)),
    ((5, 6, 7), (5, 6, 1)),
    ((5, 6, 7), (1, 6, 7)),
    ((5, 6, 7), (5, 1, 7)),
    ((5, 6, 7), (1, 1, 1)),
    ((2, 1, 9), (1, 1, 9)),
    ((), ()),
    ((0, 4), (1, 4)),
]


def _layers(rng: torch.Generator, dtype: torch.dtype = float64) -> tuple[list[Tensor], ...]:
    weights = [torch.randn(w, generator=rng, dtype=dtype) for w, _ in LAYERS]
    embeddings = [torch.randn(e, generator=rng, dtype=dtype) for _, e in LAYERS]
    return weights, embeddings


def _masks(like: list[Tensor], rng: torch.Generator, share: float = 0.4) -> list[Tensor]:
    return [torch.rand(t.shape, generator=rng) < share for t in like]


@pytest.mark.parametrize("max_scale", [None, 20.0])
@pytest.mark.parametrize(("weight_shape", "shape"), LAYERS)
def test_masked_weight_and_its_gradients_by_hand(
    weight_shape: tuple[int, ...],
    shape: tuple[int, ...],
    max_scale: float | None,
    simd_level: str,
    rng: torch.Generator,
) -> None:
    weight = torch.randn(weight_shape, generator=rng, dtype=float64, requires_grad=True)
    embedding = torch.randn(shape, generator=rng, dtype=float64, requires_grad=True)
    grad = torch.randn(weight_shape, generator=rng, dtype=float64)
    masked = ops.masked_weight(weight, embedding, 7.0, max_scale=max_scale)
    d_weight, d_embedding = torch.autograd.grad(masked, (weight, embedding), grad)
    with torch.no_grad():
        mask = 1 / (1 + torch.exp(-7.0 * embedding))
        steep = mask if max_scale is None else 1 / (1 + torch.exp(-embedding))
        slope = (max_scale or 7.0) * steep * (1 - steep)
        torch.testing.assert_close(masked.detach(), weight * mask, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(d_weight, grad * mask, rtol=1e-13, atol=1e-13)
        wanted = (grad * weight * slope).sum_to_size(shape)
        torch.testing.assert_close(d_embedding, wanted, rtol=1e-12, atol=1e-12)


def test_masked_weight_is_differentiated_twice(rng: torch.Generator) -> None:
    for shape in ((3, 4), (1, 4), (3, 1)):
        given = [
            torch.randn(s, generator=rng, dtype=float64, requires_grad=True)
            for s in ((3, 4), shape)
        ]
        assert torch.autograd.gradcheck(lambda w, e: ops.masked_weight(w, e, 3.0), given)
        assert torch.autograd.gradgradcheck(lambda w, e: ops.masked_weight(w, e, 3.0), given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_gradients_have_the_dtype_of_the_input(dtype: torch.dtype, rng: torch.Generator) -> None:
    weight, embedding = (
        torch.randn(shape, generator=rng).to(dtype).requires_grad_() for shape in ((5, 9), (1, 9))
    )
    reserved = torch.zeros(1, 9, dtype=torch.bool)
    single = ops.masked_weight(weight, embedding, 3.0)
    (masked,), sparsity = ops.masked_weights([weight], [embedding], [reserved], 3.0)
    assert torch.equal(single, masked)
    assert masked.dtype == torch.float32
    for loss in (single.sum(), masked.sum() + sparsity, sparsity + 0 * masked.sum()):
        grads = torch.autograd.grad(loss, (weight, embedding), retain_graph=True)
        assert [g.dtype for g in grads] == [dtype, dtype]


def test_gradients_in_16_bits_are_summed_in_32(rng: torch.Generator) -> None:
    """Also by an embedding with a one between dimensions of its own, which is spread out."""
    weight = torch.randn(4, 64, 3, generator=rng).to(torch.bfloat16)
    embedding = torch.randn(4, 1, 3, generator=rng).to(torch.bfloat16).requires_grad_()
    grad = torch.randn(4, 64, 3, generator=rng)
    (found,) = torch.autograd.grad(ops.masked_weight(weight, embedding, 3.0), embedding, grad)
    mask = (3 * embedding.detach().double()).sigmoid()
    sums = (grad.double() * weight.double()).sum(1, keepdim=True)
    # Nothing but the rounding of the result: half a unit of 8 bits.
    torch.testing.assert_close(found.double(), sums * 3 * mask * (1 - mask), rtol=2**-8, atol=1e-5)


def _loss(weights: list[Tensor], sparsity: Tensor) -> Tensor:
    return sum((w**3).sum() for w in weights) + 2 * sparsity  # type: ignore[return-value]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("max_scale", [None, 20.0])
def test_all_layers_at_once_are_the_layers_one_by_one(
    max_scale: float | None, packed: bool, simd_level: str, rng: torch.Generator
) -> None:
    layers = [(w, e) for w, e in zip(*_layers(rng), strict=True) if w.shape != (5, 6, 7)]
    weights = [w.requires_grad_() for w, _ in layers]
    embeddings = [e.requires_grad_() for _, e in layers]
    reserved = _masks(embeddings, rng)
    free = sum(int((~r).sum()) for r in reserved)
    given = [ops.pack_mask(r) for r in reserved] if packed else reserved

    masked, sparsity = ops.masked_weights(weights, embeddings, given, 4.0, max_scale=max_scale)
    single = [
        reference.masks.masked_weight(w, e, 4.0, max_scale=max_scale)
        for w, e in zip(weights, embeddings, strict=True)
    ]
    used = sum(((4.0 * e).sigmoid() * ~r).sum() for e, r in zip(embeddings, reserved, strict=True))
    torch.testing.assert_close(masked, single, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(sparsity, used / free, rtol=1e-13, atol=0)
    alone = ops.mask_sparsity(embeddings, given, 4.0, max_scale=max_scale)
    assert torch.equal(alone, sparsity)

    wanted = torch.autograd.grad(
        _loss(
            single, reference.masks.mask_sparsity(embeddings, reserved, 4.0, max_scale=max_scale)
        ),
        weights + embeddings,
    )
    found = torch.autograd.grad(_loss(masked, sparsity), weights + embeddings)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    direct = ops.masked_weights_gradients(
        [3 * m.detach() ** 2 for m in masked],
        2.0,
        *(weights, embeddings, given, 4.0),
        max_scale=max_scale,
    )
    torch.testing.assert_close([*direct[0], *direct[1]], list(wanted), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_lists_of_one_tensor(size: int, simd_level: str, rng: torch.Generator) -> None:
    weight, embedding, grad = (torch.randn(size, generator=rng) for _ in range(3))
    (mask,) = _masks([weight], rng)
    for reserved in (mask, ops.pack_mask(mask)):
        layers = ([weight], [embedding], [reserved], 2.0)
        wide = ([weight.double()], [embedding.double()], [mask], 2.0)
        (masked,), sparsity = ops.masked_weights(*layers)
        (d_weight,), (d_embedding,) = ops.masked_weights_gradients([grad], 0.5, *layers)
        (masked64,), sparsity64 = reference.masks.masked_weights(*wide)
        (d_weight64,), (d_embedding64,) = reference.masks.masked_weights_gradients(
            [grad.double()], 0.5, *wide
        )
        close = {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(masked.double(), masked64, **close)
        torch.testing.assert_close(sparsity.double(), sparsity64, rtol=1e-6, atol=0)
        torch.testing.assert_close(d_weight.double(), d_weight64, **close)
        torch.testing.assert_close(d_embedding.double(), d_embedding64, **close)
        blocked = grad.clone()
        ops.block_gradients_([blocked], [reserved])
        assert torch.equal(blocked, torch.where(mask, 0.0, grad))
        taken = reserved.clone()
        fresh = ops.reserve_([taken], [embedding], 1.0)
        joined = mask | (embedding >= 0)
        assert torch.equal(
            ops.unpack_mask(taken, mask.shape)
            if taken.dim() != mask.dim() or taken.dtype == torch.uint8
            else taken,
            joined,
        )
        assert fresh.tolist() == [int((joined & ~mask).sum())]


@backends
@pytest.mark.parametrize("scale", [1e-5, 1.0, 400.0, 1e5])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0, 6.0, 90.0, 1e30])
def test_steep_masks_are_finite_and_saturate_exactly(
    size: float, scale: float, backend: str, simd_level: str
) -> None:
    embedding = torch.tensor([size, -size], requires_grad=True)
    weight = torch.ones(2, requires_grad=True)
    with clfast.backend(backend):
        masked = ops.masked_weight(weight, embedding, scale)
        given = torch.autograd.grad(masked.sum(), (weight, embedding))
        assert all(bool(g.isfinite().all()) for g in given)
        steep = ops.masked_weight(weight, embedding, scale, max_scale=1e5)
        (smooth,) = torch.autograd.grad(steep.sum(), embedding)
    if size * scale > 104:  # where exp(-x) leaves the range of float32
        assert masked.tolist() == [1.0, 0.0]
    sigmoid = embedding.detach().double().sigmoid()
    wanted = 1e5 * sigmoid * (1 - sigmoid) if size < 30 else torch.zeros(2, dtype=float64)
    # Plain PyTorch forms m (1 - m), of an m that has rounded.
    close = 2e-6 if backend == "compiled" else 1e-4
    torch.testing.assert_close(smooth.double(), wanted, rtol=close, atol=1e-6)


def test_sparsity_of_the_first_task_is_the_mean_of_the_masks(rng: torch.Generator) -> None:
    embeddings = [torch.randn(50, generator=rng), torch.randn(3, 4, generator=rng)]
    nothing = [torch.zeros_like(e, dtype=torch.bool) for e in embeddings]
    everything = [~n for n in nothing]
    whole = torch.cat([e.flatten() for e in embeddings])
    mean = (2 * whole.double()).sigmoid().mean()
    got = ops.mask_sparsity(embeddings, nothing, 2.0)
    torch.testing.assert_close(got.double(), mean, rtol=1e-6, atol=0)
    assert ops.mask_sparsity(embeddings, everything, 2.0) == 0
    leaf = embeddings[0].requires_grad_()
    (grad,) = torch.autograd.grad(ops.mask_sparsity([leaf], everything[:1], 2.0), leaf)
    assert torch.equal(grad, torch.zeros(50))


@backends
def test_blocked_places_are_zero_whatever_was_there(backend: str, rng: torch.Generator) -> None:
    grad = torch.full((300,), math.nan)
    grad[::2] = math.inf
    mask = torch.zeros(300, dtype=torch.bool)
    mask[5:200] = True
    with clfast.backend(backend):
        for reserved in (mask, ops.pack_mask(mask)):
            got = grad.clone()
            ops.block_gradients_([got], [reserved])
            assert torch.equal(got[mask], torch.zeros(195))
            assert torch.equal(got[~mask].isnan(), grad[~mask].isnan())


def test_what_is_free_stays_bit_for_bit(simd_level: str) -> None:
    """Negative zero and a NaN's own bits, too."""
    bits = torch.tensor([-0.0, math.nan, 1e-45, 3.0] * 40)
    got = bits.clone()
    ops.block_gradients_([got], [torch.arange(160) % 5 == 0])
    same = got.view(torch.int32) == bits.view(torch.int32)
    assert bool(same[torch.arange(160) % 5 != 0].all())


LISTS: list[Callable[[Tensor, Tensor], Any]] = [
    lambda grad, mask: ops.block_gradients_([grad], [mask]),
    lambda grad, mask: ops.compensate_embedding_gradients_([grad], [mask.float()], 3.0, 9.0),
]


@pytest.mark.parametrize("change", LISTS)
def test_layouts_of_what_is_changed_in_place(
    change: Callable[[Tensor, Tensor], Any], rng: torch.Generator
) -> None:
    plain = torch.randn(6, 5, 4, 4, generator=rng)
    mask = torch.rand(plain.shape, generator=rng) < 0.5
    wanted = plain.clone()
    change(wanted, mask)
    last = torch.channels_last
    for grad, reserved in (
        (plain.clone(memory_format=last), mask),
        (plain.clone(memory_format=last), mask.contiguous(memory_format=last)),
        (plain.clone(), mask.contiguous(memory_format=last)),
        (plain.transpose(0, 3).contiguous().transpose(0, 3), mask),
        (plain.repeat(1, 2, 1, 1)[:, ::2][:, :5].clone(), mask),
    ):
        source = plain if grad.shape == plain.shape else None
        assert source is not None
        grad.copy_(plain)
        before = grad.stride()
        change(grad, reserved)
        assert torch.equal(grad, wanted)
        assert grad.stride() == before


def test_sixteen_bit_gradients_are_changed_in_place(rng: torch.Generator) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        grad = torch.randn(100, generator=rng).to(dtype)
        mask = torch.rand(100, generator=rng) < 0.5
        wanted = torch.where(mask, torch.zeros((), dtype=dtype), grad)
        ops.block_gradients_([grad], [mask])
        assert torch.equal(grad, wanted)


def _factor(e: float, scale: float, max_scale: float, clamp: float = math.inf) -> float:
    """In Python's own numbers; cosh overflows above 710."""
    x = min(abs(scale * e), clamp)
    return max_scale / scale * (math.cosh(x) + 1) / (math.cosh(e) + 1)


@pytest.mark.parametrize("mode", ["analytic", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, float64])
def test_compensation_by_hand(mode: Any, dtype: torch.dtype, simd_level: str) -> None:
    embedding = torch.linspace(-6, 6, 101, dtype=dtype)
    grad = torch.linspace(1, 2, 101, dtype=dtype)
    got = grad.clone()
    ops.compensate_embedding_gradients_([got], [embedding], 12.0, 400.0, mode=mode)
    clamp = 50.0 if mode == "reference" else math.inf
    wanted = [
        g * _factor(e, 12.0, 400.0, clamp)
        for g, e in zip(grad.tolist(), embedding.tolist(), strict=True)
    ]
    close = 1e-13 if dtype == float64 else 2e-5  # float32 rounds scale e, up to 72
    torch.testing.assert_close(
        got.double(), torch.tensor(wanted, dtype=float64), rtol=close, atol=0
    )


@pytest.mark.parametrize("scale", [1e-3, 0.5, 0.999, 1.0, 3.0])
@pytest.mark.parametrize("mode", ["analytic", "reference"])
def test_compensation_of_masks_that_are_less_steep_or_more(
    mode: Any, scale: float, simd_level: str
) -> None:
    """The larger of |scale e| and |e| may be either, in one tensor too, where 50 clamps."""
    embedding = torch.cat([torch.linspace(-80, 80, 333), torch.tensor([0.0, 1e-6, -1e-6])])
    got = torch.ones_like(embedding)
    ops.compensate_embedding_gradients_([got], [embedding], scale, 7.0, mode=mode)
    e = embedding.double()
    x = (e * float(torch.tensor(scale))).abs().clamp(max=50.0 if mode == "reference" else math.inf)
    wanted = 7.0 / scale * (x.cosh() + 1) / (e.cosh() + 1)
    wanted = wanted.clamp(max=torch.finfo(torch.float32).max)
    # A power takes over the rounding of what it is taken of.
    assert bool(((got - wanted).abs() <= 1e-6 * (1 + x + e.abs()) * wanted).all())


def test_compensated_gradients_equal_those_of_max_scale(rng: torch.Generator) -> None:
    """Autograd through the steep sigmoid and compensation, against the derivative taken at once."""
    embedding = (torch.randn(200, generator=rng, dtype=float64) / 4).requires_grad_()
    weight, upstream = (torch.randn(200, generator=rng, dtype=float64) for _ in range(2))
    plain = ops.masked_weight(weight, embedding, 9.0)
    (grad,) = torch.autograd.grad(plain, embedding, upstream)
    ops.compensate_embedding_gradients_([grad], [embedding], 9.0, 300.0)
    smooth = ops.masked_weight(weight, embedding, 9.0, max_scale=300.0)
    (wanted,) = torch.autograd.grad(smooth, embedding, upstream)
    torch.testing.assert_close(grad, wanted, rtol=1e-10, atol=1e-12)


@backends
@pytest.mark.parametrize("scale", [1e-3, 1.0, 400.0, 1e5])
def test_compensation_is_finite_and_keeps_zero(scale: float, backend: str, simd_level: str) -> None:
    sizes = [0.0, 1e-8, 1e-3, 1.0, 6.0, 100.0, 1e4, 1e30]
    embedding = torch.tensor([*sizes, *(-s for s in sizes)] * 3)
    for value in (0.0, 1e-45, 1e-30, 1.0, -3e38):
        got = torch.full_like(embedding, value)
        with clfast.backend(backend):
            ops.compensate_embedding_gradients_([got], [embedding], scale, 1e5)
        assert bool(got.isfinite().all())
        if value == 0:
            assert torch.equal(got, torch.zeros_like(got))


@backends
@pytest.mark.parametrize("mode", ["analytic", "reference"])
def test_compensation_is_finite_in_the_dtype_of_each_gradient(
    mode: Any, backend: str, simd_level: str
) -> None:
    grads = [torch.tensor([1.0, -1.0, 0.0] * 20, dtype=d) for d in (float16, bfloat16, float32)]
    wide = torch.tensor([1e308, -1e308, 0.0], dtype=float64)
    with clfast.backend(backend):
        ones = [torch.ones_like(grad) for grad in grads]
        for scale, clamp in ((1e-3, 5.0), (20.0, 50.0), (1e5, 200.0)):
            got = [grad.clone() for grad in grads]
            ops.compensate_embedding_gradients_(got, ones, scale, 1e5, mode=mode, clamp=clamp)
            for one in got:
                assert bool(one.isfinite().all())
                assert bool((one.sign() == grads[2]).all())
        found = wide.clone()
        ops.compensate_embedding_gradients_([found], [wide.sign()], 1e5, 1e5, mode=mode, clamp=1e3)
    largest = [65504.0, torch.finfo(bfloat16).max, torch.finfo(float32).max]
    assert [float(one.abs().max()) for one in got] == largest
    assert found.tolist() == [torch.finfo(float64).max, -torch.finfo(float64).max, 0.0]


@backends
def test_reserving_twice_adds_nothing(backend: str, rng: torch.Generator) -> None:
    embeddings = [torch.randn(30, generator=rng), torch.zeros(9), -torch.ones(2, 2)]
    reserved = _masks(embeddings, rng, 0.3)
    before = [r.clone() for r in reserved]
    with clfast.backend(backend):
        fresh = ops.reserve_(reserved, embeddings, 5.0)
        again = ops.reserve_(reserved, embeddings, 5.0)
    for old, new, embedding, count in zip(before, reserved, embeddings, fresh, strict=True):
        assert torch.equal(new, old | (embedding >= 0))
        assert int(count) == int((new & ~old).sum())
    assert again.tolist() == [0, 0, 0]
    assert bool(reserved[1].all())  # an embedding that never left 0 is open


def test_reserve_leaves_every_mask_when_one_embedding_is_bad(rng: torch.Generator) -> None:
    embeddings = [torch.ones(5), torch.tensor([1.0, math.nan])]
    reserved = [torch.zeros(5, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)]
    with pytest.raises(RuntimeError, match=r"reserve_: embeddings\[1\] holds NaN"):
        ops.reserve_(reserved, embeddings, 1.0)
    assert not any(bool(r.any()) for r in reserved)


def test_packing_by_hand() -> None:
    mask = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)
    packed = ops.pack_mask(mask)
    assert packed.tolist() == [0b11000001, 0b01000010]
    assert torch.equal(ops.unpack_mask(packed, (3, 5)), mask)
    assert torch.equal(ops.unpack_mask(packed, mask.shape), mask)
    assert ops.pack_mask(torch.zeros(0, 3, dtype=torch.bool)).shape == (0,)
    assert torch.equal(ops.pack_mask(mask.t()), ops.pack_mask(mask.t().contiguous()))


def test_versions_tell_autograd_of_the_change() -> None:
    grad, mask = torch.ones(3), torch.zeros(3, dtype=torch.bool)
    for change in (
        lambda: ops.block_gradients_([grad], [mask]),
        lambda: ops.compensate_embedding_gradients_([grad], [grad.clone()], 1.0, 1.0),
    ):
        version = grad._version
        change()
        assert grad._version > version
    version = mask._version
    ops.reserve_([mask], [grad], 1.0)
    assert mask._version > version


def test_second_derivatives_that_there_are_not_name_the_op(rng: torch.Generator) -> None:
    e = torch.randn(4, generator=rng, requires_grad=True)
    mask = torch.zeros(4, dtype=torch.bool)
    for name, function in (
        ("mask_sparsity", lambda: ops.mask_sparsity([e], [mask], 2.0)),
        ("masked_weights", lambda: ops.masked_weights([e], [e], [mask], 2.0)[0][0].sum()),
    ):
        (slope,) = torch.autograd.grad(function(), e, create_graph=True)
        with pytest.raises(RuntimeError, match=f"clfast::{name}: has no second derivative"):
            torch.autograd.grad(slope.sum(), e)


def test_transforms_of_torch_func(rng: torch.Generator) -> None:
    weight, embedding = (torch.randn(3, 4, generator=rng, dtype=float64) for _ in range(2))
    mask = [torch.zeros(3, 4, dtype=torch.bool)]

    def loss(w: Tensor, e: Tensor) -> Tensor:
        (masked,), sparsity = ops.masked_weights([w], [e], mask, 3.0)
        return (ops.masked_weight(w, e, 3.0) * masked).sum() + sparsity * ops.mask_sparsity(
            [e], mask, 3.0
        )

    found = torch.func.grad(loss, (0, 1))(weight, embedding)
    leaves = [t.clone().requires_grad_() for t in (weight, embedding)]
    wanted = torch.autograd.grad(loss(*leaves), leaves)
    torch.testing.assert_close(found, wanted)
    with pytest.raises(RuntimeError, match=r"clfast::block_gradients_: grads\[0\]"):
        torch.func.grad(lambda g: ops.block_gradients_([g], mask))(weight)


# Dynamo's own, of torch 2.13.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_training_step_compiles_without_graph_breaks(rng: torch.Generator) -> None:
    weights = [torch.randn(5, 4, generator=rng, requires_grad=True) for _ in range(2)]
    embeddings = [torch.randn(1, 4, generator=rng, requires_grad=True) for _ in range(2)]
    reserved = _masks(embeddings, rng)

    def loss() -> Tensor:
        masked, sparsity = ops.masked_weights(weights, embeddings, reserved, 3.0, max_scale=9.0)
        single = ops.masked_weight(weights[0], embeddings[0], 3.0)
        alone = ops.mask_sparsity(embeddings, reserved, 3.0)
        return (masked[0] @ masked[1].T @ single).sum() + sparsity + alone

    plain = torch.autograd.grad(loss(), weights + embeddings)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(), weights + embeddings)
    torch.testing.assert_close(found, plain)
    torch.compiler.reset()


def test_empty_lists() -> None:
    ops.block_gradients_([], [])
    ops.compensate_embedding_gradients_([], [], 1.0, 1.0)
    with pytest.raises(RuntimeError, match="embeddings must hold at least one tensor"):
        ops.mask_sparsity([], [], 1.0)
    with pytest.raises(RuntimeError, match="weights must hold at least one tensor"):
        ops.masked_weights([], [], [], 1.0)
