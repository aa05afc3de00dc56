"""Derivatives of ops under nested transforms of torch.func: right, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_samples import CASES, OpCase
from sizes import Sizes
from torch import Tensor
from torch.func import grad, hessian, jacrev, vmap

from clfast import ops

# torch's own: vmap runs ops that it has no rule for one input after the other.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

# They compute their gradient with their value.
AT_ONCE = (
    *("recall_loss", "divergence", "soft_cross_entropy", "image_prior", "total_variation"),
    *("distillation_loss", "margin_ranking_loss"),
)
TWICE = ("soft_cross_entropy", "distillation_loss", "margin_ranking_loss")
at_once = pytest.mark.parametrize("case", [c for c in CASES if c.name in AT_ONCE], ids=str)


def _of_first(case: OpCase, rng: torch.Generator) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """The op as a function to one number of its first input, and float64 values of that."""
    sizes = Sizes(batch=3, dim=4, k=3, classes=5)
    (first, *rest), kwargs = case.make(sizes, torch.float64, rng)
    return (lambda x: case.op(x, *rest, **kwargs).sum()), first


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


@at_once
def test_gradients_of_many_inputs_at_once(case: OpCase, rng: torch.Generator) -> None:
    function, x = _of_first(case, rng)
    inputs = torch.stack([x, 2 * x, x + 0.5])
    wanted = torch.stack([_slope(function, each) for each in inputs])
    torch.testing.assert_close(vmap(grad(function))(inputs), wanted)
    torch.testing.assert_close(vmap(jacrev(function))(inputs), wanted)


@at_once
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, at first use
def test_second_derivatives(case: OpCase, rng: torch.Generator) -> None:
    function, x = _of_first(case, rng)
    with pytest.raises(RuntimeError, match=rf"clfast::{case.name}: has no derivative in forward"):
        hessian(function)(x)  # forward over reverse
    twice = jacrev(jacrev(function))
    if case.name in TWICE:
        wanted: Any = torch.autograd.functional.hessian(function, x)
        torch.testing.assert_close(twice(x), wanted)
        return
    with pytest.raises(RuntimeError, match=rf"clfast::{case.name}: has no second derivative"):
        twice(x)


def test_herding_of_many_sets_at_once_is_refused_by_name(rng: torch.Generator) -> None:
    features, labels = torch.randn(2, 9, 3, generator=rng), torch.arange(9) % 2
    with pytest.raises(RuntimeError, match=r"clfast::herding: .* which vmap cannot follow"):
        vmap(lambda each: ops.herding(each, labels, 2)[0])(features)
