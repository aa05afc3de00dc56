"""MaskedSGD and MaskedAdam beside torch's, which they are where nothing is reserved."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from optim_cases import (
    assert_close,
    assert_same_bits,
    copies,
    every_pair,
    masks,
    packed,
    parameters,
    set_gradients,
)
from torch import Tensor, nn

import clfast
from clfast.optim import MaskedAdam, MaskedSGD


def _masked_by_hand(optimizer: Any, params: list[nn.Parameter], reserved: list[Tensor]) -> None:
    """A step of torch's, with gradients zeroed and reserved entries set back."""
    before = copies(params)
    for p, mask in zip(params, reserved, strict=True):
        if p.grad is not None:
            p.grad[mask] = 0
    optimizer.step()
    with torch.no_grad():
        for p, kept, mask in zip(params, before, reserved, strict=True):
            p[mask] = kept[mask]


@every_pair
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_without_masks_it_is_torchs(
    ours: Any, theirs: Any, options: dict[str, Any], dtype: torch.dtype, rng: torch.Generator
) -> None:
    params = parameters(rng, dtype)
    others = copies(params)
    masked, plain = ours(params, **options), theirs(others, **options)
    for _ in range(30):
        set_gradients(rng, params, others)
        masked.step()
        plain.step()
    assert_close(params, others, 2e-6 if dtype == torch.float32 else 1e-14)


@every_pair
def test_free_entries_move_as_without_masks(
    ours: Any, theirs: Any, options: dict[str, Any], simd_level: str, rng: torch.Generator
) -> None:
    params, reserved = parameters(rng), masks(rng)
    others, start = copies(params), copies(params)
    masked = ours(params, **options, reserved=dict(zip(params, reserved, strict=True)))
    plain = theirs(others, **options)
    for _ in range(20):
        set_gradients(rng, params, others)
        for p, mask in zip(params, reserved, strict=True):
            assert p.grad is not None
            p.grad[mask] = math.nan
        masked.step()
        _masked_by_hand(plain, others, reserved)
    assert_close(params, others, 2e-6)
    for p, kept, mask in zip(params, start, reserved, strict=True):
        assert_same_bits([p[mask]], [kept[mask]])
        assert (p != kept)[~mask].all()


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (MaskedSGD, {"momentum": 0.9, "nesterov": True}),
        (MaskedAdam, {"amsgrad": True}),
        (MaskedAdam, {"decoupled_weight_decay": True}),
    ],
)
def test_reserved_entries_stay_for_ever(
    make: Any, options: dict[str, Any], rng: torch.Generator
) -> None:
    """10,000 steps, with momentum and moments from before the reservation."""
    weight = nn.Parameter(torch.randn(3, 5, generator=rng))
    mask = torch.zeros(3, 5, dtype=torch.bool)
    optimizer = make([weight], lr=1e-3, weight_decay=0.01, **options, reserved={weight: mask})
    for _ in range(10):
        set_gradients(rng, [weight])
        optimizer.step()
    # Live: in place, in the optimiser that is under way.
    mask.copy_(torch.rand(mask.shape, generator=rng) < 0.5)
    before = weight.detach().clone()
    state = {name: kept for name, kept in optimizer.state[weight].items() if name != "step"}
    assert all((kept[mask] != 0).all() for kept in state.values())
    for _ in range(10_000):
        optimizer.step()
    assert_same_bits([weight[mask]], [before[mask]])
    assert (weight != before)[~mask].all()


def test_old_moments_move_weights_of_torchs_adam(rng: torch.Generator) -> None:
    """What the masks are for: a gradient of 0 does not keep a weight."""
    for make in (
        lambda p: torch.optim.Adam([p]),
        lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9),
    ):
        p = nn.Parameter(torch.ones(3))
        optimizer = make(p)
        p.grad = torch.ones(3)
        optimizer.step()
        kept, p.grad = p.detach().clone(), torch.zeros(3)
        optimizer.step()
        assert (p != kept).all()


@every_pair
def test_packed_masks_do_the_same(
    ours: Any, theirs: Any, options: dict[str, Any], rng: torch.Generator
) -> None:
    params, reserved = parameters(rng), masks(rng)
    others = copies(params)
    of_bool = ours(params, **options, reserved=dict(zip(params, reserved, strict=True)))
    of_bits = ours(
        others,
        **options,
        reserved={p: packed(mask) for p, mask in zip(others, reserved, strict=True)},
    )
    for _ in range(5):
        set_gradients(rng, params, others)
        of_bool.step()
        of_bits.step()
    assert_same_bits(params, others)


@every_pair
def test_reserved_state_sees_no_gradient(ours: Any, theirs: Any, options: dict[str, Any]) -> None:
    p = nn.Parameter(torch.ones(4))
    mask = torch.tensor([True, False, True, False])
    optimizer = ours([p], **{**options, "weight_decay": 0.1}, reserved={p: mask})
    for value in (math.nan, math.inf, -math.inf, 3.0):
        p.grad = torch.where(mask, value, 1.0)
        optimizer.step()
        for name, state in optimizer.state[p].items():
            if name != "step":
                assert (state[mask] == 0).all()
                assert (state[~mask] != 0).all()


@every_pair
def test_large_tensors_in_any_order_of_memory(
    ours: Any, theirs: Any, options: dict[str, Any], rng: torch.Generator
) -> None:
    whole = torch.randn(40, 60, 9, 3, generator=rng)
    for layout in (
        whole,
        whole.to(memory_format=torch.channels_last),
        whole.transpose(0, 3),
        torch.randn(40, 60, 9, 6, generator=rng)[..., ::2],
    ):
        params = [nn.Parameter(layout)]
        others = [nn.Parameter(layout.detach().clone(memory_format=torch.contiguous_format))]
        mask = torch.rand(layout.shape, generator=rng) < 0.5
        for given in (mask, torch.empty_like(layout, dtype=torch.bool).copy_(mask), packed(mask)):
            one = ours(params, **options, reserved={params[0]: given})
            two = ours(others, **options, reserved={others[0]: mask})
            for _ in range(2):
                set_gradients(rng, params, others)
                one.step()
                two.step()
            assert_close(params, others, 1e-6)


@every_pair
def test_state_dicts_load_into_each_other(
    ours: Any, theirs: Any, options: dict[str, Any], rng: torch.Generator
) -> None:
    params = parameters(rng)
    others = copies(params)
    first: tuple[Any, Any] = (ours(params, **options), theirs(others, **options))
    for optimizer, of in zip(first, (params, others), strict=True):
        for _ in range(3):
            set_gradients(torch.Generator().manual_seed(1), of)
            optimizer.step()
    states = [io.BytesIO(), io.BytesIO()]
    for optimizer, file in zip(first, states, strict=True):
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
    ours_dict, theirs_dict = (torch.load(file) for file in states)
    assert ours_dict["param_groups"] == theirs_dict["param_groups"]
    assert ours_dict["state"].keys() == theirs_dict["state"].keys()
    for mine, torchs in zip(
        ours_dict["state"].values(), theirs_dict["state"].values(), strict=True
    ):
        assert mine.keys() == torchs.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], torchs[name], rtol=1e-6, atol=1e-6)
    second = (ours(params, lr=1.0), theirs(others, lr=1.0))
    second[0].load_state_dict(theirs_dict)
    second[1].load_state_dict(ours_dict)
    for _ in range(3):
        set_gradients(rng, params, others)
        second[0].step()
        second[1].step()
    assert_close(params, others, 2e-6)


def test_state_of_adamw_and_of_fused_adam_loads(rng: torch.Generator) -> None:
    for theirs in (
        lambda p: torch.optim.AdamW(p, lr=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
        lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    ):
        params = parameters(rng)
        others = copies(params)
        plain = theirs(others)
        set_gradients(rng, params, others)
        plain.step()
        with torch.no_grad():
            for p, other in zip(params, others, strict=True):
                p.copy_(other)
        optimizer = MaskedAdam(params)
        optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
        for _ in range(3):
            set_gradients(rng, params, others)
            optimizer.step()
            plain.step()
        assert_close(params, others, 2e-6)
        assert optimizer.param_groups[0]["fused"] is None


@every_pair
def test_copies_keep_masks_of_their_own_parameters(
    ours: Any, theirs: Any, options: dict[str, Any], rng: torch.Generator
) -> None:
    params, reserved = parameters(rng), masks(rng)
    optimizer = ours(
        params, **options, reserved=dict(zip(params, reserved, strict=True)), clip_norm=0.5
    )
    set_gradients(rng, params)
    optimizer.step()
    for made in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        new_params, new_optimizer = made((params, optimizer))
        assert all(p is q for p, q in zip(new_optimizer.reserved, new_params, strict=True))
        old_params, old_optimizer = copy.deepcopy((params, optimizer))
        set_gradients(torch.Generator().manual_seed(5), old_params, new_params)
        old_optimizer.step()
        new_optimizer.step()
        assert_same_bits(new_params, old_params)
        assert new_optimizer.clip_norm == 0.5


@every_pair
def test_clipping_is_of_what_is_free(
    ours: Any, theirs: Any, options: dict[str, Any], rng: torch.Generator
) -> None:
    params, reserved = parameters(rng), masks(rng)
    others = copies(params)
    masked = ours(
        [{"params": params[:2]}, {"params": params[2:], "lr": 0.03}],
        **options,
        reserved=dict(zip(params, reserved, strict=True)),
        clip_norm=0.7,
    )
    plain = theirs([{"params": others[:2]}, {"params": others[2:], "lr": 0.03}], **options)
    for scale in (1.0, 1e-3, 100.0):
        set_gradients(rng, params, others)
        for p, other, mask in zip(params, others, reserved, strict=True):
            assert p.grad is not None
            assert other.grad is not None
            p.grad *= scale
            other.grad.copy_(p.grad)
            p.grad[mask] = math.inf
            other.grad[mask] = 0
        given = [p.grad.clone() for p in params if p.grad is not None]
        masked.step()
        assert_same_bits([p.grad for p in params if p.grad is not None], given)
        torch.nn.utils.clip_grad_norm_(others, 0.7)
        _masked_by_hand(plain, others, reserved)
    assert_close(params, others, 2e-6)


def test_norms_of_two_dtypes_are_one(rng: torch.Generator) -> None:
    params = [
        nn.Parameter(torch.zeros(3)),
        nn.Parameter(torch.zeros(2, dtype=torch.float64)),
    ]
    optimizer = MaskedSGD(params, lr=1.0, clip_norm=1.0)
    params[0].grad, params[1].grad = torch.full((3,), 3.0), torch.full((2,), 4.0).double()
    optimizer.step()
    norm = math.sqrt(3 * 9 + 2 * 16)
    assert params[0].tolist() == pytest.approx([-3 / norm] * 3)
    assert params[1].tolist() == pytest.approx([-4 / norm] * 2)


def test_groups_and_later_groups(rng: torch.Generator) -> None:
    params, reserved = parameters(rng), masks(rng)
    others = copies(params)
    both: list[Any] = []
    for of, make in ((params, MaskedAdam), (others, torch.optim.Adam)):
        groups = [{"params": of[:2], "lr": 0.01}, {"params": of[2:4], "weight_decay": 0.1}]
        optimizer = make(groups, lr=0.1)
        optimizer.add_param_group({"params": of[4:], "betas": (0.5, 0.5), "lr": 0.3})
        both.append(optimizer)
    both[0].reserved.update(zip(params, reserved, strict=True))
    for _ in range(4):
        set_gradients(rng, params, others)
        params[1].grad = others[1].grad = None  # no step is counted for it
        both[0].step()
        _masked_by_hand(both[1], others, reserved)
    assert_close(params, others, 2e-6)
    assert params[1] not in both[0].state
    set_gradients(rng, params, others)
    both[0].step()
    _masked_by_hand(both[1], others, reserved)
    assert_close(params, others, 2e-6)
    assert [int(both[0].state[p]["step"]) for p in params] == [5, 1, 5, 5, 5, 5]


def test_momentum_of_a_parameter_that_comes_later_is_not_dampened(rng: torch.Generator) -> None:
    params = parameters(rng)
    others = copies(params)
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.4}
    masked, plain = MaskedSGD(params, **options), torch.optim.SGD(others, **options)
    for step in range(4):
        set_gradients(rng, params, others)
        if step < 2:
            params[0].grad = others[0].grad = None
        masked.step()
        plain.step()
    assert_close(params, others, 1e-6)


def test_closures_and_schedulers(rng: torch.Generator) -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    mask = torch.tensor([True, False])
    optimizer = MaskedSGD([weight], lr=0.5, reserved={weight: mask})
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 5.0
    assert weight.tolist() == [1.0, 0.0]
    scheduler.step()
    with torch.no_grad():
        weight.copy_(torch.tensor([1.0, 4.0]))
    optimizer.step(closure)
    assert weight.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("make", [MaskedSGD, MaskedAdam])
def test_grad_scaler_skips_steps_that_overflow(make: Any) -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = make([weight], lr=0.1, reserved={weight: torch.tensor([True, False])})
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor in (1.0, math.inf, 1.0):
        before = weight.detach().clone()
        optimizer.zero_grad()
        scaler.scale((factor * weight).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert weight[0] == 1.0
        assert (weight[1] == before[1]) == (factor == math.inf)
    expected = 2 - 0.1 * 2
    assert float(weight[1].detach()) == pytest.approx(expected, rel=1e-5)
    assert scaler.get_scale() == 512.0


def test_hooks_of_torch_run() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = MaskedAdam([weight])
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.step()
    assert seen == ["before", "after"]


def test_the_reference_backend_does_the_same(rng: torch.Generator) -> None:
    params, reserved = parameters(rng, torch.float64), masks(rng)
    others = copies(params)
    optimizers = [
        MaskedAdam(of, lr=0.1, reserved=dict(zip(of, reserved, strict=True)), clip_norm=1.0)
        for of in (params, others)
    ]
    for _ in range(5):
        set_gradients(rng, params, others)
        optimizers[0].step()
        with clfast.backend("reference"):
            optimizers[1].step()
    assert_close(params, others, 1e-13)


def test_autograd_sees_the_step() -> None:
    weight = nn.Parameter(torch.ones(2))
    loss = weight.square().sum()
    optimizer = MaskedSGD([weight], lr=0.1)
    weight.grad = torch.ones(2)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
