"""Critics: sizes, and the ResNet-18 of DGM's natural images."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clfast.nn import dcgan_critic, resnet18, resnet_critic


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
