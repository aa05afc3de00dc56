"""What users do wrong with MaskedSGD and MaskedAdam; nothing has moved then."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from clfast.optim import MaskedAdam, MaskedSGD


def _weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(3, 4))


@pytest.mark.parametrize("make", [MaskedSGD, MaskedAdam])
@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(4, 3, dtype=torch.bool), ValueError, r"must have shape [3, 4], got [4, 3]"),
        (torch.ones(3, 4), TypeError, r"must be bool, or uint8 from pack_mask, got torch.float32"),
        (torch.ones(3, dtype=torch.uint8), ValueError, r"packed and must have shape [2] for 12"),
        (torch.ones(3, 4, dtype=torch.bool, device="meta"), ValueError, r"must be on cpu as the"),
        ([True] * 12, TypeError, r"must be a tensor, got list"),
    ],
)
def test_masks_that_do_not_fit(make: Any, mask: Any, error: Any, message: str) -> None:
    weight, other = _weight(), _weight()
    groups = [{"params": [other]}, {"params": [nn.Parameter(torch.ones(2)), weight]}]
    wanted = rf"{make.__name__}: the mask of parameter 1 in group 1 .*{re.escape(message)}"
    with pytest.raises(error, match=wanted):
        make(groups, reserved={weight: mask})
    optimizer = make(groups, lr=0.1)
    optimizer.reserved[weight] = mask
    weight.grad, other.grad = torch.ones(3, 4), torch.ones(3, 4)
    with pytest.raises(error, match=wanted):
        optimizer.step()
    assert (other == 1).all()  # nor has the first group moved
    assert not optimizer.state


def test_other_wrong_use() -> None:
    weight = _weight()
    mask = torch.ones(3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"key 0 of reserved, a tensor of shape \[3, 4\], is"):
        MaskedSGD([weight], reserved={_weight(): mask})
    with pytest.raises(TypeError, match=r"MaskedSGD: keys of reserved must be parameters"):
        MaskedSGD([weight], reserved={"weight": mask})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"MaskedAdam: reserved must be a mapping"):
        MaskedAdam([weight], reserved=[(weight, mask)])  # type: ignore[arg-type]
    for dtype in (torch.float16, torch.bfloat16, torch.complex64):
        with pytest.raises(TypeError, match=r"parameter 1 in group 0 must be float32 or float64"):
            MaskedAdam([weight, nn.Parameter(torch.ones(2, dtype=dtype))])
    for option in ("foreach", "fused", "differentiable", "capturable"):
        with pytest.raises(ValueError, match=f"MaskedAdam: {option} of group 0 is not offered"):
            MaskedAdam([{"params": [weight], option: True}])


@pytest.mark.parametrize("make", [MaskedSGD, MaskedAdam])
def test_numbers_that_are_none(make: Any) -> None:
    weight = _weight()
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"{make.__name__}: clip_norm must be finite and in"):
            make([weight], clip_norm=wrong)
    for lr in (-1.0, math.nan, math.inf):
        with pytest.raises(
            ValueError, match=rf"{make.__name__}: lr must be finite and in \[0, inf"
        ):
            make([weight], lr=lr)
    for kind in ("a", torch.ones(2)):
        for name in ("clip_norm", "lr"):
            wanted = rf"{make.__name__}: {name} must be a number, got {type(kind).__name__}"
            with pytest.raises(TypeError, match=wanted):
                make([weight], **{name: kind})


def test_a_group_that_is_refused_is_not_added() -> None:
    optimizer = MaskedSGD([_weight()])
    with pytest.raises(TypeError, match=r"parameter 0 in group 1 must be float32 or float64"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2).half())]})
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_are_refused() -> None:
    weight = _weight()
    weight.grad = torch.ones(3, 4).to_sparse()
    for make in (MaskedSGD, MaskedAdam):
        with pytest.raises(RuntimeError, match=r"the gradient of parameter 0 in group 0 must be d"):
            make([weight]).step()


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (MaskedSGD, "lr", math.nan),
        (MaskedSGD, "momentum", -0.5),
        (MaskedSGD, "dampening", math.inf),
        (MaskedSGD, "weight_decay", math.inf),
        (MaskedAdam, "lr", -1.0),
        (MaskedAdam, "betas", (1.0, 0.9)),
        (MaskedAdam, "eps", math.nan),
    ],
)
def test_options_that_went_wrong_later(make: Any, name: str, value: Any) -> None:
    weights = [_weight(), _weight()]
    optimizer = make([{"params": [weight]} for weight in weights])
    optimizer.param_groups[1][name] = value
    for weight in weights:
        weight.grad = torch.ones(3, 4)
    with pytest.raises(ValueError, match=rf"{make.__name__}: {name} of group 1 must be"):
        optimizer.step()
    assert all((weight == 1).all() for weight in weights)


def _wrong_states() -> list[Any]:
    ones, exp_avg = torch.ones(3, 4), "the state exp_avg of parameter 1 in group 1 "
    momentum = "the state momentum_buffer of parameter 1 in group 1 "
    step = "the state step of parameter 1 in group 1 "
    return [
        (MaskedSGD, {"momentum_buffer": torch.ones(4, 3)}, ValueError, momentum + "must have"),
        (MaskedSGD, {"momentum_buffer": ones.half()}, TypeError, momentum + "must be torch"),
        (MaskedAdam, {"exp_avg": torch.ones(2)}, ValueError, exp_avg + r"must have shape \[3, 4\]"),
        (MaskedAdam, {"exp_avg": ones.double()}, TypeError, exp_avg + "must be torch.float32 as"),
        (MaskedAdam, {"exp_avg": ones.to("meta")}, ValueError, exp_avg + "must be on cpu as"),
        (MaskedAdam, {"exp_avg": [1.0]}, TypeError, exp_avg + "must be a tensor, got list"),
        (MaskedAdam, {"step": torch.tensor(3)}, TypeError, step + "must be a 0-D floating point"),
        (MaskedAdam, {"step": 3}, TypeError, step + "must be a 0-D floating point"),
        (MaskedAdam, {"step": torch.tensor(math.nan)}, ValueError, step + "must be finite and"),
    ]


@pytest.mark.parametrize(("make", "wrong", "error", "message"), _wrong_states())
def test_a_state_of_other_parameters(make: Any, wrong: Any, error: Any, message: str) -> None:
    """Of the last of all batches: another group, and another dtype within it."""
    first, second, last = _weight(), nn.Parameter(torch.ones(2).double()), _weight()
    momentum = {"momentum": 0.9} if make is MaskedSGD else {}
    optimizer = make([{"params": [first]}, {"params": [second, last]}], lr=0.1, **momentum)
    for p in (first, second, last):
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = copy.deepcopy((optimizer.state_dict()["state"], [first, second, last]))
    kept = optimizer.state[last]
    right = {name: kept[name] for name in wrong}
    kept.update(wrong)
    with pytest.raises(error, match=f"{make.__name__}: {message}.*; load the state of an opt"):
        optimizer.step()
    kept.update(right)
    after = (optimizer.state_dict()["state"], [first, second, last])
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def _later() -> list[Any]:
    """What goes wrong behind a step, of the last of two parameters of one batch."""
    both = (MaskedSGD, MaskedAdam)
    mask = r"the mask of parameter 1 in group \d must have shape"
    state = r"the state .* of parameter 1 in group \d must"
    step = r"the state step of parameter 1 in group \d must"
    gradient = r"the gradient of parameter 1 in group \d must"

    def replace_mask(optimizer: Any, p: Any) -> None:
        optimizer.reserved[p] = torch.ones(4, 3, dtype=torch.bool)

    def reshape_mask(optimizer: Any, p: Any) -> None:
        optimizer.reserved[p].resize_(4, 3)

    def reshape_parameter(optimizer: Any, p: Any) -> None:
        p.data = torch.ones(4, 3)

    def replace_parameter(optimizer: Any, p: Any) -> None:
        new = optimizer.param_groups[-1]["params"][1] = nn.Parameter(torch.ones(4, 3))
        new.grad = torch.ones(4, 3)
        optimizer.reserved[new], optimizer.state[new] = optimizer.reserved[p], optimizer.state[p]

    def widen_parameter(optimizer: Any, p: Any) -> None:
        p.data = torch.ones(3, 4, dtype=torch.float64)

    def narrow_parameter(optimizer: Any, p: Any) -> None:
        p.data = torch.ones(3, 4, dtype=torch.float16)

    def replace_gradient(optimizer: Any, p: Any) -> None:
        p.grad.data = torch.ones(4, 3)

    def widen_gradient(optimizer: Any, p: Any) -> None:
        p.grad.data = torch.ones(3, 4, dtype=torch.float64)

    def sparse_gradient(optimizer: Any, p: Any) -> None:
        p.grad = torch.ones(3, 4).to_sparse()

    def expand_parameter(optimizer: Any, p: Any) -> None:
        p.data = torch.ones(1, 4).expand(3, 4)

    def expand_state(optimizer: Any, p: Any) -> None:
        kept = optimizer.state[p]
        for name in kept:
            if name != "step":
                kept[name] = torch.ones(1, 4).expand(3, 4)

    def move_mask(optimizer: Any, p: Any) -> None:
        optimizer.reserved[p] = optimizer.reserved[p].to("meta")

    def move_state(optimizer: Any, p: Any) -> None:
        kept = optimizer.state[p]
        kept.update({name: kept[name].to("meta") for name in kept if name != "step"})

    def widen_state(optimizer: Any, p: Any) -> None:
        kept = optimizer.state[p]
        kept.update({name: kept[name].double() for name in kept if name != "step"})

    def number_as_state(optimizer: Any, p: Any) -> None:
        kept = optimizer.state[p]
        kept.update({name: 1.0 for name in kept if name != "step"})

    def count_in_integers(optimizer: Any, p: Any) -> None:
        optimizer.state[p]["step"] = torch.tensor(1)

    def ask_for_another_pass(optimizer: Any, p: Any) -> None:
        optimizer.param_groups[-1]["fused"] = True

    found: list[Any] = [
        (both, replace_mask, ValueError, mask),
        (both, reshape_mask, ValueError, mask),
        (both, reshape_parameter, ValueError, r"of parameter 1 in group \d must have shape"),
        (both, replace_parameter, ValueError, r"of parameter 1 in group \d must have shape"),
        (both, widen_parameter, TypeError, f"{gradient} be torch.float64 as the parameter is"),
        (both, narrow_parameter, TypeError, r"parameter 1 in group \d must be float32 or float64"),
        (both, replace_gradient, ValueError, f"{gradient} have shape"),
        (both, widen_gradient, TypeError, f"{gradient} be torch.float32 as the parameter is"),
        (both, sparse_gradient, RuntimeError, f"{gradient} be dense"),
        (both, expand_parameter, ValueError, r"parameter 1 in group \d must not be expanded"),
        (both, expand_state, ValueError, f"{state} not be expanded"),
        (both, move_mask, ValueError, r"the mask of parameter 1 in group \d must be on cpu"),
        (both, move_state, ValueError, f"{state} be on cpu as the parameter is, got meta"),
        (both, widen_state, TypeError, f"{state} be torch.float32 as the parameter is"),
        (both, number_as_state, TypeError, f"{state} be a tensor, got float"),
        ((MaskedAdam,), count_in_integers, TypeError, f"{step} be a 0-D floating point tensor"),
        (both, ask_for_another_pass, ValueError, r"fused of group \d is not offered"),
    ]
    return [
        pytest.param(make, change, error, message, id=f"{make.__name__}-{change.__name__}")
        for makes, change, error, message in found
        for make in makes
    ]


def _same(one: Any, other: Any) -> bool:
    """To the bit; on the meta device there are none."""
    if isinstance(one, torch.Tensor):
        like = (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
        return like and (one.is_meta or torch.equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("others", ["of its batch", "of another group"])
@pytest.mark.parametrize(("make", "change", "error", "message"), _later())
def test_what_went_wrong_behind_a_step(
    make: Any, change: Any, error: Any, message: str, others: str
) -> None:
    """Though a step looks at what it is given only where the op does not, or has refused it: an op
    for each group must not fail behind another."""
    apart, first, last = _weight(), _weight(), _weight()
    momentum = {"momentum": 0.9} if make is MaskedSGD else {}
    masks = {p: torch.zeros(3, 4, dtype=torch.bool) for p in (first, last)}
    before_it = [{"params": [apart]}] if others == "of another group" else []
    groups = [*before_it, {"params": [first, last]}]
    optimizer = make(groups, lr=0.1, reserved=masks, **momentum)
    for group in groups:
        for p in group["params"]:
            p.grad = torch.ones(3, 4)
    optimizer.step()
    change(optimizer, last)

    def everything() -> Any:
        return [apart, first, last, *(dict(optimizer.state[p]) for p in (apart, first, last))]

    before = copy.deepcopy(everything())
    with pytest.raises(error, match=message):
        optimizer.step()
    assert _same(everything(), before)


def test_a_number_is_no_state_of_a_0d_parameter() -> None:
    weight = nn.Parameter(torch.ones(()))
    weight.grad = torch.ones(())
    optimizer = MaskedSGD([weight], lr=0.1, momentum=0.9)
    optimizer.state[weight]["momentum_buffer"] = 1.0
    with pytest.raises(TypeError, match="state momentum_buffer of parameter 0 in group 0 must be"):
        optimizer.step()
    assert weight == 1


def test_a_parameter_that_comes_later_does_not_fail_behind_others() -> None:
    """Its first step is a call of its own."""
    first, last = _weight(), _weight()
    optimizer = MaskedSGD([first, last], lr=0.1, momentum=0.9, dampening=0.1)
    first.grad = torch.ones(3, 4)
    optimizer.step()
    last.grad = torch.ones(3, 4)
    optimizer.reserved[last] = torch.zeros(4, 3, dtype=torch.bool)
    before = copy.deepcopy(first)
    with pytest.raises(ValueError, match="the mask of parameter 1 in group 0 must have shape"):
        optimizer.step()
    assert torch.equal(first, before)
    assert last not in optimizer.state
