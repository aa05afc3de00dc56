"""Convolution and batch normalisation under `QuickSecondDerivatives`, against PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable
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


CONVOLUTIONS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"groups": 2, "dilation": 2, "padding": (2, 3)},
    {"side": 1, "stride": 2},
    {"side": 1, "stride": (1, 2), "padding": 1},
]


@pytest.mark.parametrize("options", CONVOLUTIONS)
@pytest.mark.parametrize("image_order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("weight_order", [torch.contiguous_format, torch.channels_last])
def test_results_are_in_the_order_that_pytorch_gives_them(
    options: dict[str, Any], image_order: torch.memory_format, weight_order: torch.memory_format
) -> None:
    options = dict(options)
    side, groups = options.pop("side", 3), options.get("groups", 1)
    x = leaf(2, 4, 6, 7).detach().contiguous(memory_format=image_order).requires_grad_()
    weight = (
        leaf(6, 4 // groups, side, side, seed=1).detach().contiguous(memory_format=weight_order)
    )
    norm = nn.BatchNorm2d(6).double()
    strides = []
    for context in (nullcontext(), QuickSecondDerivatives()):
        with context:
            images = F.conv2d(x, weight, **options)
            strides.append([images.stride(), norm(images).stride(), (-images).stride()])
    assert strides[0] == strides[1]


ORDERLESS: dict[str, Callable[[Tensor], object]] = {
    "properties": lambda h: (
        h.shape,
        h.size(1),
        len(h),
        h.dtype.itemsize,
        h.dim(),
        h.requires_grad,
    ),
    "activations": lambda h: [f(h) for f in (F.relu, torch.relu, F.gelu, torch.tanh, F.leaky_relu)],
    "modules": lambda h: nn.Sequential(nn.ReLU(True), nn.SiLU(), nn.MaxPool2d(2), nn.Softplus())(h),
    "arithmetic": lambda h: (1 - h / 2 + 2 * h - 1 / h) ** 2,
    "in place": lambda h: h.mul_(2).add_(1).relu_(),
    "normalised": lambda h: nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4)).double()(h),
    "another": lambda h: F.conv2d(h, leaf(3, 4, 1, 1)),
    "slices": lambda h: torch.cat([h[:, :, ::2], F.pad(h[:, :2, 1::2], (0, 0, 0, 0, 1, 1))]),
    "one pixel": lambda h: torch.flatten(F.adaptive_avg_pool2d(h, 1), 1).view(-1),
    "means": lambda h: F.dropout(h.mean((2, 3)), 0.5),
    "the sum over images": lambda h: h.sum(0).view(-1),
}


@pytest.mark.parametrize("name", ORDERLESS)
def test_calls_that_do_not_depend_on_the_order_of_images(name: str) -> None:
    found = []
    for context in (quick := QuickSecondDerivatives(channels_last=True), nullcontext()):
        torch.manual_seed(0)
        with context:
            found.append(ORDERLESS[name](F.conv2d(leaf(2, 2, 6, 6), leaf(4, 2, 3, 3))))
    assert quick.rearranged
    assert not quick.exposed
    torch.testing.assert_close(*found)


IN_ORDER: dict[str, Callable[[Tensor], object]] = {
    "reshape": lambda h: h.reshape(2, -1),
    "reshape, of torch": lambda h: torch.reshape(h, (2, -1)),
    "flatten": nn.Flatten(),
    "contiguous": lambda h: h.contiguous(),
    "as_strided": lambda h: h.as_strided((2, 2), (1, 2)),
    "stride": lambda h: h.stride(),
    "data": lambda h: h.data,
    "numpy": lambda h: h.detach().numpy(),
    "dropout": F.dropout,
    "random numbers": lambda h: torch.rand_like(h),
    "another order of dimensions": lambda h: h.permute(0, 2, 3, 1),
    "one image": lambda h: h[0],
    "a view of one pixel": lambda h: h[:1, :, :1, :1],
    "another dimension": lambda h: F.relu(h)[None],
    "in a list": lambda h: torch.stack([h, h]),
    "by name": lambda h: torch.ravel(input=h),
    "what comes of it": lambda h: F.relu(h + 1).ravel(),
    "vmap": lambda h: torch.func.vmap(lambda image: image.sum())(h),
}


@pytest.mark.parametrize("name", IN_ORDER)
def test_calls_that_may_depend_on_the_order_of_images(name: str) -> None:
    for channels_last in (False, True):
        with QuickSecondDerivatives(channels_last=channels_last) as quick:
            IN_ORDER[name](F.conv2d(leaf(2, 2, 6, 6), leaf(4, 2, 3, 3)))
        assert quick.exposed == quick.rearranged == channels_last


def test_images_that_are_in_channels_last_order_already() -> None:
    x = leaf(2, 2, 6, 6).detach().contiguous(memory_format=torch.channels_last)
    with QuickSecondDerivatives(channels_last=True) as quick:
        F.conv2d(x, leaf(4, 2, 3, 3)).permute(0, 2, 3, 1).view(-1)
    assert not quick.rearranged


LAYERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "convolution": lambda x, w, b: F.conv2d(x, w[:, :, None, None] * torch.ones(3, 3), b),
    "grouped": lambda x, w, b: F.conv2d(x, w[:, :1, None, None] * torch.ones(2, 2), b, groups=3),
    "batch": lambda x, w, b: F.batch_norm(x, None, None, w[0], b, True),
    "running": lambda x, w, b: F.batch_norm(x, b.detach() * 0, b.detach() * 0 + 2, w[0], b),
}


@pytest.mark.parametrize("other_path", [False, True])
@pytest.mark.parametrize("by", ["x", "weight"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_third_derivative_raises(name: str, by: str, other_path: bool) -> None:
    x, weight, bias = leaf(4, 3, 5, 5), leaf(3, 3, seed=1), leaf(3, seed=2)
    with QuickSecondDerivatives():
        loss = LAYERS[name](x, weight.double(), bias).tanh().sum()
    if other_path:
        loss = loss + x.pow(5).sum() + weight.pow(5).sum()
    inputs = {"x": x, "weight": weight}
    for _ in range(2):
        found = torch.autograd.grad(loss, list(inputs.values()), create_graph=True)
        loss = sum((g.square().sum() for g in found), start=torch.zeros(()))
    with pytest.raises(RuntimeError, match=r"QuickSecondDerivatives: .* no third derivative"):
        torch.autograd.grad(loss, inputs[by])


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
