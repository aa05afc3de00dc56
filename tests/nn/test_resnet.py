"""The residual network: sizes, strides, and that its blocks are residual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clfast.nn import resnet18, resnet32
from clfast.nn.resnet import BasicBlock


def test_width_20_has_the_parameters_of_arm() -> None:
    count = sum(p.numel() for p in resnet18(10, width=20).parameters())
    assert count == 1_094_750


def test_width_64_has_the_parameters_of_the_paper() -> None:
    """11.69 million with 7x7 at first and 1000 classes (torchvision's count)."""
    network = resnet18(1000)
    count = sum(p.numel() for p in network.parameters())
    assert count - 3 * 64 * 3**2 + 3 * 64 * 7**2 == 11_689_512


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 28), (2, 5)])
def test_outputs(channels: int, side: int, rng: torch.Generator) -> None:
    network = resnet18(7, width=2, channels=channels)
    x = torch.rand(3, channels, side, side, generator=rng)
    assert network(x).shape == (3, 7)
    assert network.features(x).shape == (3, 16)
    torch.testing.assert_close(network.head(network.features(x)), network(x))


def test_each_stage_but_the_first_halves_the_sides(rng: torch.Generator) -> None:
    x, shapes = torch.rand(2, 3, 32, 32, generator=rng), []
    for layer in resnet18(10, width=2).features:
        x = layer(x)
        if isinstance(layer, BasicBlock):
            shapes.append(tuple(x.shape[1:]))
    stages = [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4)]
    assert shapes == [shape for shape in stages for _ in range(2)]


def test_a_block_adds_to_its_input(rng: torch.Generator) -> None:
    x = torch.randn(2, 3, 4, 4, generator=rng)
    same, other = BasicBlock(3, 3, 1), BasicBlock(3, 3, 2)
    for block in (same, other):
        nn.init.zeros_(block.body[-1].weight)
    torch.testing.assert_close(same(x), F.relu(x))
    torch.testing.assert_close(other(x), F.relu(other.shortcut(x)))


def test_resnet32_has_the_parameters_of_the_paper() -> None:
    """0.46 million (table 6) with shortcuts without parameters; here two are convolutions."""
    count = sum(p.numel() for p in resnet32(10).parameters())
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count - shortcuts == 464_154


def test_resnet32_has_three_stages_of_five_blocks(rng: torch.Generator) -> None:
    network = resnet32(7, width=2, channels=1)
    x, shapes = torch.rand(2, 1, 32, 32, generator=rng), []
    for layer in network.features:
        x = layer(x)
        if isinstance(layer, BasicBlock):
            shapes.append(tuple(x.shape[1:]))
    stages = [(2, 32, 32), (4, 16, 16), (8, 8, 8)]
    assert shapes == [shape for shape in stages for _ in range(5)]
    assert network.head(x).shape == (2, 7)


@pytest.mark.parametrize("make", [resnet18, resnet32])
def test_features_of_either_sign(make: Callable[..., nn.Module], rng: torch.Generator) -> None:
    x = torch.rand(4, 3, 8, 8, generator=rng)
    torch.manual_seed(0)
    features = make(2, width=4).get_submodule("features")
    torch.manual_seed(0)
    others = make(2, width=4, last_relu=False).get_submodule("features")
    assert bool((features(x) >= 0).all())
    assert bool((others(x) < 0).any())
    assert isinstance(features, nn.Sequential)
    assert isinstance(others, nn.Sequential)
    torch.testing.assert_close(F.relu(others[:-2](x)), features[:-2](x))
    name = rf"clfast\.nn\.{make.__name__}"
    with pytest.raises(TypeError, match=f"{name}: last_relu must be True or False"):
        make(2, last_relu="no")


@pytest.mark.parametrize("name", ["classes", "width", "channels"])
def test_wrong_arguments(name: str) -> None:
    def make(value: Any) -> nn.Module:
        return resnet18(**{"classes": 2, name: value})

    where = rf"clfast\.nn\.resnet18: {name}"
    with pytest.raises(ValueError, match=f"{where} must be at least 1, got 0"):
        make(0)
    with pytest.raises(TypeError, match=f"{where} must be an integer, got float"):
        make(2.0)
