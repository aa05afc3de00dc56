"""Convolution and batch normalisation under `QuickSecondDerivatives`, against PyTorch's own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clfast.nn.second_order import QuickSecondDerivatives


def leaf(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def twice_differentiable(function: Any, *inputs: Tensor) -> None:
    def quick(*values: Tensor) -> Tensor:
        with QuickSecondDerivatives():
            result: Tensor = function(*values)
        return result

    assert torch.allclose(quick(*inputs), function(*inputs), rtol=1e-12, atol=1e-12)
    assert "_" in type(quick(*inputs).grad_fn).__name__  # a Function of the module
    assert torch.autograd.gradcheck(quick, inputs)
    assert torch.autograd.gradgradcheck(quick, inputs)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1}, {"groups": 2, "dilation": 2, "padding": (2, 3)}],
)
def test_derivatives_of_convolutions(options: dict[str, Any], biased: bool) -> None:
    weight = leaf(4, 4 // options.get("groups", 1), 3, 3, seed=1)
    bias = [leaf(4, seed=2)] if biased else []
    twice_differentiable(
        lambda x, w, *b: F.conv2d(x, w, *(b or [None]), **options), leaf(2, 4, 5, 4), weight, *bias
    )


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("channels", [1, 2, 3, 8, 16])
@pytest.mark.parametrize(
    ("side", "options"),
    [(1, {"stride": 2}), (1, {"stride": (2, 3), "padding": 1}), (3, {"stride": 2, "padding": 1})],
)
def test_products_of_strided_convolutions(
    channels: int, side: int, options: dict[str, Any], dtype: torch.dtype, digits: float
) -> None:
    weight = leaf(4, channels, side, side, seed=1)
    x = leaf(5, channels, 8, 8)
    found, wanted = (
        products_of(lambda x, w: F.conv2d(x, w, **options), *given)
        for given in (
            (QuickSecondDerivatives(), x.detach().to(dtype), weight.detach().to(dtype)),
            (nullcontext(), x.detach(), weight.detach()),
        )
    )
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= digits * b.norm()


def products_of(
    function: Any, context: AbstractContextManager[Any], x: Tensor, weight: Tensor
) -> list[Tensor]:
    x, weight = x.requires_grad_(), weight.requires_grad_()
    with context:
        loss = function(x, weight).square().mean()
    gradients = torch.autograd.grad(loss, [x, weight], create_graph=True)
    vectors = [leaf(*g.shape, seed=i).to(g.dtype) for i, g in enumerate(gradients)]
    second = torch.autograd.grad(gradients, [x, weight], vectors)
    return [each.double() for each in (*gradients, *second)]


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (5, 3), (3, 3, 4)])
def test_derivatives_of_batch_normalisation(shape: tuple[int, ...]) -> None:
    twice_differentiable(
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True, 0.1, 1e-2),
        *(leaf(*shape), leaf(3, seed=1), leaf(3, seed=2)),
    )


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (1, 3)])
def test_derivatives_of_batch_normalisation_by_running_statistics(shape: tuple[int, ...]) -> None:
    mean, variance = leaf(3, seed=3).detach(), leaf(3, seed=4).detach().square()
    twice_differentiable(
        lambda x, w, b: F.batch_norm(x, mean, variance, w, b, False, 0.1, 1e-2),
        *(leaf(*shape), leaf(3, seed=1), leaf(3, seed=2)),
    )


def vector_products(
    context: AbstractContextManager[Any], net: nn.Module, *, training: bool
) -> list[Tensor]:
    net.train(training)
    x, inputs = leaf(3, 2, 6, 6), list(net.parameters())
    with context:
        loss = net(x).square().mean()
    gradients = torch.autograd.grad(loss, inputs, create_graph=True)
    vectors = [leaf(*g.shape, seed=i).detach() for i, g in enumerate(gradients)]
    return list(torch.autograd.grad(gradients, [x, *inputs], vectors))


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding="same", bias=False),
            nn.BatchNorm2d(4, affine=False),
            nn.Tanh(),
            nn.Conv2d(4, 2, 3, stride=2),
        ).double()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("linear_use", [False, True])
def test_products_with_second_derivatives_of_a_network(linear_use: bool, training: bool) -> None:
    wanted = vector_products(nullcontext(), network(), training=training)
    quick = QuickSecondDerivatives(linear_use=linear_use)
    found = vector_products(quick, network(), training=training)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= 1e-12 * (1 + b.norm())


def test_values_that_are_not_leaves_are_computed_for_linear_use() -> None:
    scale, weight, x = leaf(1), leaf(3, 2, 3, 3), leaf(2, 2, 4, 4)
    products = []
    for context in (nullcontext(), QuickSecondDerivatives(linear_use=True)):
        with context:
            loss = F.conv2d(x, scale.square() * weight).square().mean()
        gradient = torch.autograd.grad(loss, scale, create_graph=True)
        products.append(torch.autograd.grad(gradient, [scale, weight, x]))
    for a, b in zip(*products, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


def test_batch_statistics_leave_running_ones() -> None:
    norm = nn.BatchNorm2d(3)
    with QuickSecondDerivatives():
        norm(torch.rand(4, 3, 2, 2))
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert torch.equal(norm.running_var, torch.ones(3))
    with QuickSecondDerivatives(), pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.rand(1, 3, 1, 1))


def test_running_statistics_in_eval_mode() -> None:
    norm = nn.BatchNorm2d(3).eval()
    norm.running_mean.fill_(2.0)
    x = torch.rand(4, 3, 2, 2)
    with QuickSecondDerivatives():
        found = norm(x)
        with pytest.raises(RuntimeError, match="running_mean"):
            F.batch_norm(x, None, None, training=False)
    assert torch.allclose(found, norm(x))


def test_views_of_what_a_convolution_gives() -> None:
    x, weight = leaf(3, 2, 4, 4), leaf(5, 2, 3, 3)
    with QuickSecondDerivatives():
        rows = F.conv2d(x, weight).view(3, -1)
        assert rows.view(torch.int64).dtype == torch.int64
    assert torch.allclose(rows, F.conv2d(x, weight).view(3, -1), rtol=1e-12)


def test_other_calls_are_left_alone() -> None:
    x, weight = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 3, 3)
    with QuickSecondDerivatives():
        assert F.conv2d(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16
        one = F.conv2d(x[0], weight)
        with torch.autocast("cpu", torch.bfloat16):
            assert F.conv2d(x, weight).dtype == torch.bfloat16
        mapped = torch.func.vmap(lambda image: F.conv2d(image[None], weight))(x)
    assert torch.allclose(one, F.conv2d(x, weight)[0])
    assert torch.allclose(mapped[:, 0], F.conv2d(x, weight), rtol=1e-5)
