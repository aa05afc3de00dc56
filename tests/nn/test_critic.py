"""Critics: sizes, the penalty on slopes, and the ResNet-18 of DGM's natural images."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clfast.nn import dcgan_critic, resnet18, resnet_critic
from clfast.nn.image_convolution import ImageConv2d


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_sizes(size: int) -> None:
    critic = dcgan_critic(1, 2, width=2, size=size)
    assert critic.score.in_features == 16 * 2 * size // 8
    assert critic(torch.zeros(3, 1, size, size))[1].shape == (3, 2)
    assert resnet_critic(1, 2, width=1, hidden=4)(torch.zeros(3, 1, size, size))[0].shape == (3,)


@pytest.mark.parametrize("size", [8, 40])
def test_sizes_that_cannot_be(size: int) -> None:
    with pytest.raises(ValueError, match=r"^dcgan_critic: size must be"):
        dcgan_critic(1, 2, size=size)


CRITICS = {"dcgan": (dcgan_critic, {}), "resnet": (resnet_critic, {"hidden": 5})}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CRITICS)
def test_gradients_of_the_penalty_on_slopes(name: str, training: bool, channels: int) -> None:
    """Those of autograd's double backward, on top of others; running statistics as of a pass."""
    make, options = CRITICS[name]
    critic = make(channels, 3, width=3, **options, generator=seeded()).double()
    x, warm = torch.randn(2, 6, channels, 32, 32, generator=seeded(1), dtype=torch.float64)
    critic(warm)
    critic.train(training)
    other = copy.deepcopy(critic)
    for each in (critic, other):
        each(warm)[0].sum().backward()
    before = x.clone()
    penalty = critic.add_penalty_gradients(x, 0.7)
    assert torch.equal(x, before)
    assert not penalty.requires_grad

    u = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(other(u)[0].sum(), u, create_graph=True)
    expected = 0.7 * (slopes.square().sum((1, 2, 3)).sqrt() - 1).square().mean()
    expected.backward()
    torch.testing.assert_close(penalty, expected.detach(), rtol=1e-10, atol=1e-12)
    for (key, p), q in zip(critic.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None) == key.startswith("classify"), key
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-10)
    for value, wanted in zip(critic.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-12)


def test_the_penalty_where_all_slopes_are_0() -> None:
    critic = dcgan_critic(1, 2, width=2, generator=seeded())
    nn.init.zeros_(critic.score.weight)
    penalty = critic.add_penalty_gradients(torch.rand(3, 1, 32, 32, generator=seeded(1)), 2.0)
    assert penalty == 2
    for p in critic.parameters():
        assert p.grad is None or not p.grad.any()


def test_the_penalty_under_autocast() -> None:
    critic = dcgan_critic(1, 2, width=4, generator=seeded())
    other = copy.deepcopy(critic)
    x = torch.rand(8, 1, 32, 32, generator=seeded(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = critic.add_penalty_gradients(x, 1.0)
    torch.testing.assert_close(penalty, other.add_penalty_gradients(x, 1.0), rtol=0.05, atol=0.05)
    found, expected = critic.score.weight.grad, other.score.weight.grad
    assert found is not None
    assert expected is not None
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_gradients_by_images(channels: int, dtype: torch.dtype) -> None:
    conv = ImageConv2d(channels, 4).to(dtype)
    x = torch.randn(2, channels, 6, 4, generator=seeded(), dtype=dtype)
    upper = torch.randn(2, 4, 3, 2, generator=seeded(1), dtype=dtype)
    x.requires_grad_()
    output = conv(x)
    expected = F.conv2d(x, conv.weight, stride=2, padding=2)
    torch.testing.assert_close(output, expected)
    inputs = [x, conv.weight]
    found = torch.autograd.grad(output, inputs, upper)
    wanted = torch.autograd.grad(expected, inputs, upper)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(conv.into_images(upper, x.detach()), wanted[0])
    if dtype == torch.float64:

        def run(x: Tensor, weight: Tensor) -> Tensor:
            result: Tensor = torch.func.functional_call(conv, {"weight": weight}, (x,))
            return result

        assert torch.autograd.gradgradcheck(run, (x, conv.weight))


def test_gradients_by_images_within_torch_func() -> None:
    conv = ImageConv2d(2, 3).double()
    x = torch.randn(4, 2, 6, 4, generator=seeded(), dtype=torch.float64)
    each = torch.func.vmap(torch.func.grad(lambda image: conv(image[None]).square().sum()))(x)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(conv(x).square().sum(), x)
    torch.testing.assert_close(each, expected)


def plain(state: dict[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """In train mode, from the state alone: a ResNet-18, and what follows it."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = (x.mean((0, 2, 3), keepdim=True) for x in (x, x))
        var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
        scale, shift = (state[f"{name}.{kind}"][:, None, None] for kind in ("weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def conv(x: Tensor, name: str, stride: int, padding: int) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)

    net = "features.0.features"
    x = norm(conv(x, f"{net}.0", 1, 1), f"{net}.1").relu()
    for block in range(8):
        at, stride = f"{net}.{3 + block}", 2 if block in (2, 4, 6) else 1
        y = norm(conv(x, f"{at}.body.0", stride, 1), f"{at}.body.1").relu()
        y = norm(conv(y, f"{at}.body.3", 1, 1), f"{at}.body.4")
        if stride == 2:
            x = norm(conv(x, f"{at}.shortcut.0", 2, 0), f"{at}.shortcut.1")
        x = (x + y).relu()
    x = x.mean((2, 3)) @ state["features.0.head.weight"].T + state["features.0.head.bias"]
    x = norm(x[..., None, None], "features.1")[..., 0, 0].relu()
    score = x @ state["score.weight"].T + state["score.bias"]
    return score[:, 0], x @ state["classify.weight"].T + state["classify.bias"]


def test_the_resnet() -> None:
    critic = resnet_critic(3, 4, width=2, hidden=6, generator=seeded()).double()
    x = torch.rand(5, 3, 16, 16, generator=seeded(1)).double()
    state = critic.state_dict()
    for found, expected in zip(critic(x), plain(state, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert critic.features[1].momentum == 0.01
    score, logits = critic.eval()(x)
    critic.add_classes(2, seeded(2))
    assert torch.equal(critic(x)[0], score)
    torch.testing.assert_close(critic(x)[1][:, :4], logits)


def test_initial_values_are_pytorchs_and_of_the_generator() -> None:
    before = torch.get_rng_state()
    one, other = (resnet_critic(3, 4, width=2, hidden=6, generator=seeded()) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    ours, theirs = one.features[0].state_dict(), resnet18(6, 2, 3).state_dict()
    for name, value in other.state_dict().items():
        assert torch.equal(value, one.state_dict()[name])
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if "norm" in name or value.dim() < 2:
            continue
        bound = 1 / math.sqrt(value[0].numel())
        assert 0.8 * bound < float(value.abs().max()) <= 1.0001 * bound
    for name, module in one.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            assert bool((module.weight == 1).all()), name
            assert not bool(module.bias.any() or module.running_mean.any()), name
            assert bool((module.running_var == 1).all()), name


def test_one_image_in_train_mode() -> None:
    critic = resnet_critic(1, 2, width=1, hidden=4, generator=seeded())
    x = torch.rand(6, 1, 16, 16, generator=seeded(1))
    critic(x)
    norm = critic.features[1]
    before = norm.running_mean.clone()
    features = critic.features[0](x[:1])
    expected = (features - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
    torch.testing.assert_close(critic.features[1](features), expected)
    assert torch.equal(norm.running_mean, before)
    assert critic(x[:1])[0].isfinite().all()
