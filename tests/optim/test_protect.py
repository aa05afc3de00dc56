"""`protect`: what is reserved stays, whatever optimiser steps."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from optim_cases import (
    assert_close,
    assert_same_bits,
    copies,
    masks,
    packed,
    parameters,
    set_gradients,
)
from torch import Tensor, nn
from torch.optim import optimizer as torch_hooks

from clfast.optim import MaskedSGD, Protection, protect

MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "ours": lambda p: MaskedSGD(p, lr=0.1),
}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.fixture(autouse=True)
def _no_hook_is_left() -> Iterator[None]:
    hooks = (torch_hooks._global_optimizer_pre_hooks, torch_hooks._global_optimizer_post_hooks)
    gc.collect()  # protections of tests before, in cycles with models that are gone
    before = [list(each) for each in hooks]
    yield
    assert [list(each) for each in hooks] == before


def assert_kept(
    params: list[nn.Parameter], before: list[nn.Parameter], reserved: list[Tensor]
) -> None:
    for p, b, mask in zip(params, before, reserved, strict=True):
        assert_same_bits([p[mask]], [b[mask]])
        assert (p != b)[~mask].all()


@every_optimizer
@pytest.mark.parametrize("pack", [False, True])
def test_reserved_entries_stay(make: Any, pack: bool, rng: torch.Generator) -> None:
    params, reserved = parameters(rng), masks(rng)
    optimizer = make(params)
    set_gradients(rng, params)
    optimizer.step()  # momentum and moments from before
    before, unprotected = copies(params), copies(params)
    other = make(unprotected)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    given = [packed(mask) if pack else mask for mask in reserved]
    with protect(optimizer, dict(zip(params, given, strict=True))):
        for _ in range(3):
            set_gradients(rng, params, unprotected)
            optimizer.step()
            other.step()
            with torch.no_grad():
                for p, b, mask in zip(unprotected, before, reserved, strict=True):
                    p[mask] = b[mask]
    assert_kept(params, before, reserved)
    assert_same_bits(params, unprotected)


def test_a_step_full_of_nan(rng: torch.Generator) -> None:
    params, reserved = parameters(rng), masks(rng)
    with torch.no_grad():
        params[0][0] = math.nan  # of what is reserved, too
    before = copies(params)
    optimizer = torch.optim.Adam(params)
    for p in params:
        p.grad = torch.full_like(p, math.nan)
    with protect(optimizer, dict(zip(params, reserved, strict=True))):
        optimizer.step()
    for p, b, mask in zip(params, before, reserved, strict=True):
        assert_same_bits([p[mask]], [b[mask]])
        assert p[~mask].isnan().all()


def test_a_rebuilt_optimizer_is_covered(rng: torch.Generator) -> None:
    params, reserved = parameters(rng), masks(rng)
    before = copies(params)
    first = torch.optim.SGD(params, lr=0.1)
    protection = protect(first, dict(zip(params, reserved, strict=True)))
    del first
    gc.collect()
    for make in MAKERS.values():
        optimizer = make(params)
        set_gradients(rng, params)
        optimizer.step()
    assert_kept(params, before, reserved)
    protection.remove()
    protection.remove()
    set_gradients(rng, params)
    torch.optim.SGD(params, lr=0.1).step()
    assert all((p != b).all() for p, b in zip(params, before, strict=True))


def test_masks_are_live_and_others_are_free(rng: torch.Generator) -> None:
    weight, free = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    mask = torch.tensor([True, False, False])
    optimizer = torch.optim.SGD([weight, free], lr=1.0)
    weight.grad, free.grad = torch.ones(3), torch.ones(3)
    with protect(optimizer, {weight: mask}):
        optimizer.step()
        mask[1] = True
        optimizer.step()
    assert weight.tolist() == [1.0, 0.0, -1.0]
    assert free.tolist() == [-1.0, -1.0, -1.0]


def test_lbfgs(rng: torch.Generator) -> None:
    """Its iterations see reserved entries move; after the step they are what they were."""
    weight = nn.Parameter(torch.tensor([3.0, -2.0, 5.0]))
    mask = torch.tensor([True, False, False])
    optimizer = torch.optim.LBFGS([weight], max_iter=10, line_search_fn="strong_wolfe")
    seen = []

    def closure() -> Tensor:
        seen.append(float(weight.detach()[0]))
        optimizer.zero_grad()
        loss = (weight - 1).square().sum()
        loss.backward()
        return loss

    with protect(optimizer, {weight: mask}):
        optimizer.step(closure)
    assert seen[-1] != 3.0
    assert weight[0] == 3.0
    torch.testing.assert_close(weight.detach()[1:], torch.ones(2), rtol=1e-4, atol=1e-4)


def test_half_precision_is_protected_too() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.complex64):
        weight = nn.Parameter(torch.ones(3, dtype=dtype))
        optimizer = torch.optim.SGD([weight], lr=0.5)
        weight.grad = torch.ones(3, dtype=dtype)
        with protect(optimizer, {weight: torch.tensor([True, False, True])}):
            optimizer.step()
        assert weight.detach().real.tolist() == [1.0, 0.5, 1.0]


def test_a_step_within_a_step(rng: torch.Generator) -> None:
    """As of wrappers, which are optimisers over the same parameters."""

    class Twice(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.inner = inner
            super().__init__(inner.param_groups, {})

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            self.inner.step()
            self.inner.step()

    params, reserved = parameters(rng), masks(rng)
    before, others = copies(params), copies(params)
    with protect(
        optimizer := Twice(torch.optim.SGD(params, lr=0.1)),
        dict(zip(params, reserved, strict=True)),
    ):
        set_gradients(rng, params, others)
        optimizer.step()
    assert_kept(params, before, reserved)
    plain = torch.optim.SGD(others, lr=0.1)
    plain.step()
    plain.step()
    for p, other, mask in zip(params, others, reserved, strict=True):
        assert_close([p[~mask]], [other[~mask]], 0.0)


def test_protections_add_up() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with (
        protect(optimizer, {weight: torch.tensor([True, False, False])}),
        protect(optimizer, {weight: torch.tensor([False, True, False])}),
    ):
        optimizer.step()
    assert weight.tolist() == [1.0, 1.0, 0.0]


def test_a_step_that_raises_leaves_the_protection_in_order() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def fails() -> float:
        raise ArithmeticError

    with protect(optimizer, {weight: torch.tensor([True, False])}):
        with pytest.raises(ArithmeticError):
            optimizer.step(fails)
        optimizer.step()
        assert weight.tolist() == [1.0, 0.0]


class _Fails(torch.optim.Optimizer):
    """Adds 5, and then raises as long as it is told to."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__(params, {})
        self.raises = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p += 5
        if self.raises:
            raise ArithmeticError


@pytest.mark.parametrize("keep", [True, False], ids=["alive", "gone"])
@pytest.mark.parametrize("by", ["same", "other", "removal"])
def test_what_a_step_leaves_that_raises_is_set_back(by: str, keep: bool) -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    mask = torch.tensor([True, False, False])
    fails = [_Fails([weight])]
    protection = protect(fails[0], {weight: mask})
    with pytest.raises(ArithmeticError):
        fails[0].step()
    fails[0].raises = False
    following = fails[0] if by == "same" else torch.optim.SGD([weight], lr=1.0)
    if not keep:
        fails.clear()
    if by != "removal":
        change = 5.0 if by == "same" else -1.0
        following.step()
        assert weight.tolist() == [1.0, 6.0 + change, 6.0 + change]
        mask[1] = True
        following.step()
        assert weight.tolist() == [1.0, 6.0 + change, 6.0 + 2 * change]
    protection.remove()
    assert weight.tolist()[:2] == [1.0, 6.0 if by == "removal" else 6.0 + change]


def test_a_deepcopy_is_not_protected() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with protect(optimizer, {weight: torch.tensor([True, False])}):
        other = copy.deepcopy(optimizer)
        copied = other.param_groups[0]["params"][0]
        copied.grad = torch.ones(2)
        other.step()
        optimizer.step()
    assert copied.tolist() == [0.0, 0.0]
    assert weight.tolist() == [1.0, 0.0]


def test_nothing_is_kept_alive() -> None:
    """Neither by torch's list of hooks nor by a cycle."""
    gc.collect()
    gc.disable()
    try:
        weight = nn.Parameter(torch.ones(2))
        mask = torch.tensor([True, False])
        optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
        weight.grad = torch.ones(2)
        protection = protect(optimizer, {weight: mask})
        optimizer.step()
        alive = [weakref.ref(x) for x in (weight, mask, optimizer)]
        del weight, mask, optimizer
        assert [x() for x in alive] == [None, None, None]
        protection.remove()
        held = weakref.ref(protection)
        del protection
        assert held() is None
    finally:
        gc.enable()


def test_wrong_use(rng: torch.Generator) -> None:
    weight = nn.Parameter(torch.ones(3, 4))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    mask = torch.ones(3, 4, dtype=torch.bool)
    with pytest.raises(TypeError, match=r"protect: optimizer must be a torch.optim.Optimizer, got"):
        protect([weight], {weight: mask})  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"protect: key 0 of reserved, a tensor of shape \[2\], is"
    ):
        protect(optimizer, {torch.ones(2): mask})
    with pytest.raises(ValueError, match=r"protect: the mask of parameter 0 in group 0 must have"):
        protect(optimizer, {weight: mask[1:]})
    weight.grad = torch.ones(3, 4)
    with protect(optimizer, {weight: mask}) as protection:
        assert isinstance(protection, Protection)
        mask.resize_(2, 4)
        with pytest.raises(ValueError, match=r"protect: the mask of parameter 0 in group 0 must"):
            optimizer.step()
        assert (weight == 1).all()
