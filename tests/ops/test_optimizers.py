"""The masked optimiser steps, in what the checks of every op do not see; see also `tests/optim`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import clfast
from clfast import ops, reference

backends = pytest.mark.parametrize("backend", ["compiled", "reference"])

# Around what a thread takes at a time, and the vectors in it.
SIZES = (1, 7, 8, 9, 8191, 8192, 8193, 16_385, 40_000)


def _randn(rng: torch.Generator, count: int = 1) -> list[list[Tensor]]:
    return [[torch.randn(size, generator=rng) for size in SIZES] for _ in range(count)]


def _masks(rng: torch.Generator) -> list[Tensor]:
    return [torch.rand(size, generator=rng) < 0.5 for size in SIZES]


def _pack(masks: list[Tensor]) -> list[Tensor]:
    return [reference.masks.pack_mask(mask) for mask in masks]


def _adam(lists: list[list[Tensor]], masks: Any, **options: Any) -> None:
    params, grads, first, second = lists
    steps = list(range(1, len(params) + 1))
    ops.masked_adam_step_(params, grads, first, second, [], masks, steps=steps, lr=0.1, **options)


def test_a_step_of_adam_is_torchs(simd_level: str, rng: torch.Generator) -> None:
    """Its bias corrections, too: t of each parameter is its own."""
    params, grads, first, second = _randn(rng, 4)
    second = [v.square() for v in second]
    masks = _masks(rng)
    wanted = []
    for i, (p, g, m, v) in enumerate(zip(params, grads, first, second, strict=True)):
        parameter = torch.nn.Parameter(p.clone())
        parameter.grad = 0.5 * g.masked_fill(masks[i], 0)
        adam = torch.optim.Adam([parameter], lr=0.1, foreach=False)
        state = {"step": torch.tensor(float(i)), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
        adam.state[parameter] = state
        adam.step()
        wanted.append((torch.where(masks[i], p, parameter.detach()), state))
    given = [p.clone() for p in params]
    for reserved in (masks, _pack(masks)):
        lists = [[t.clone() for t in each] for each in (given, grads, first, second)]
        _adam(lists, reserved, clip=torch.tensor(0.5))
        for i, (p, state) in enumerate(wanted):
            torch.testing.assert_close(lists[0][i], p, rtol=2e-6, atol=2e-7)
            torch.testing.assert_close(lists[2][i], state["exp_avg"], rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(lists[3][i], state["exp_avg_sq"], rtol=1e-6, atol=1e-7)
            assert torch.equal(lists[0][i][masks[i]], given[i][masks[i]])


@backends
def test_reserved_entries_keep_their_bits(
    backend: str, simd_level: str, rng: torch.Generator
) -> None:
    """NaN, -0 and subnormal numbers, beside a decay and moments that would move anything."""
    odd = torch.tensor([math.nan, -math.inf, -0.0, 1e-42, 3.4e38, 1.0])
    for masks in (_masks(rng), _pack(_masks(rng.manual_seed(1)))):
        rng.manual_seed(1)
        bools = [
            m if m.dtype == torch.bool else reference.masks.unpack_mask(m, (size,))
            for m, size in zip(masks, SIZES, strict=True)
        ]
        lists = _randn(rng, 4)
        lists[3] = [v.square() for v in lists[3]]
        for p, mask in zip(lists[0], bools, strict=True):
            p[mask] = odd[torch.randint(0, 6, (int(mask.sum()),), generator=rng)]
        before = [p.clone() for p in lists[0]]
        with clfast.backend(backend):
            _adam(lists, masks, weight_decay=0.1, clip=torch.tensor(math.nan))
            for p, b, mask in zip(lists[0], before, bools, strict=True):
                assert p[mask].view(torch.int32).tolist() == b[mask].view(torch.int32).tolist()
                assert p[~mask].isnan().all()
            options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
            ops.masked_sgd_step_(lists[0], lists[1], lists[2], masks, **options)
            for p, b, mask in zip(lists[0], before, bools, strict=True):
                assert p[mask].view(torch.int32).tolist() == b[mask].view(torch.int32).tolist()


def test_an_infinite_parameter_without_decay_gets_no_nan() -> None:
    for decay, expected in ((0.0, math.inf), (0.1, math.nan)):
        p = [torch.tensor([math.inf, 1.0])]
        ops.masked_sgd_step_(p, [torch.ones(2)], [], [None], lr=0.1, weight_decay=decay)
        assert p[0][0].item() == expected or math.isnan(expected)
        assert p[0][0].isnan().item() == math.isnan(expected)


@backends
def test_tensors_are_changed_where_they_lie(backend: str, rng: torch.Generator) -> None:
    """In whatever order of memory; what lies around a view stays."""
    whole, buffer = torch.randn(6, 8, generator=rng), torch.randn(6, 8, generator=rng)
    params = [whole[1:4, ::2], torch.randn(7, 4, generator=rng).t()]
    grads = [torch.randn(p.shape, generator=rng) for p in params]
    buffers = [buffer[1:4, ::2], torch.zeros(4, 7)]
    masks = [torch.rand(p.shape, generator=rng) < 0.5 for p in params]
    places, around = [p.data_ptr() for p in params], whole.clone()
    wanted = [p.double() for p in params], [b.double() for b in buffers]
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}
    reference.optimizers.masked_sgd_step_(
        wanted[0], [g.double() for g in grads], wanted[1], masks, **options
    )
    with clfast.backend(backend):
        ops.masked_sgd_step_(params, grads, buffers, masks, **options)
    assert [p.data_ptr() for p in params] == places
    for ours, theirs in zip(params + buffers, wanted[0] + wanted[1], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)
    around[1:4, ::2] = whole[1:4, ::2]
    assert torch.equal(whole, around)


def test_the_norm_is_of_what_is_free(simd_level: str, rng: torch.Generator) -> None:
    (grads,), masks = _randn(rng), _masks(rng)
    free = torch.cat([g[~mask] for g, mask in zip(grads, masks, strict=True)]).double()
    for g, mask in zip(grads, masks, strict=True):
        g[mask] = math.nan
    for reserved in (masks, _pack(masks)):
        norm = ops.masked_grad_norm(grads, reserved)
        assert norm.shape == ()
        torch.testing.assert_close(norm, free.norm(), rtol=1e-14, atol=0)
    for scale in (1e-30, 1e30):  # whose squares are beyond float32
        norm = ops.masked_grad_norm([scale * g for g in grads], masks)
        torch.testing.assert_close(norm, scale * free.norm(), rtol=1e-6, atol=0)
    assert ops.masked_grad_norm(grads, [None] * len(grads)).isnan()


@backends
def test_autograd_sees_every_list_that_changes(backend: str) -> None:
    tensors = [torch.ones(2) for _ in range(4)]
    weight = torch.ones(2, requires_grad=True)
    products = [(weight * t).sum() for t in tensors]
    with clfast.backend(backend):
        ops.masked_adam_step_(
            *([tensors[0]], [torch.ones(2)], [tensors[1]], [tensors[2]], [tensors[3]], [None]),
            steps=[1],
            lr=0.1,
        )
    for product in products:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, at first use
@backends
def test_transforms_are_refused(backend: str) -> None:
    def stepped(p: Tensor) -> Tensor:
        p = p.clone()
        ops.masked_sgd_step_([p], [torch.ones(3)], [], [None], lr=0.1)
        return p.sum()

    with clfast.backend(backend):
        for op, function in (
            ("masked_sgd_step_: params", stepped),
            ("masked_grad_norm: grads", lambda g: ops.masked_grad_norm([g], [None])),
        ):
            with pytest.raises(RuntimeError, match=rf"clfast::{op}\[0\] requires grad"):
                torch.func.grad(function)(torch.ones(3))


@backends
def test_a_refused_step_changes_nothing(backend: str) -> None:
    params, grads = [torch.ones(3), torch.ones(2)], [torch.ones(3), torch.ones(3)]
    with clfast.backend(backend), pytest.raises(RuntimeError, match=r"grads\[1\] must have shape"):
        ops.masked_sgd_step_(params, grads, [], [None, None], lr=0.1)
    assert all((p == 1).all() for p in params)
