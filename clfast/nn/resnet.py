"""ResNet-18 and ResNet-32 for small images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import boolean, integer


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, Fig. 5 left): [B, inside, H, W] to
    [B, outside, H / stride, W / stride], rounded up. The shortcut is a convolution of 1x1 where
    input and output differ in shape. Without ``last_relu`` the sum is the output as it is."""

    last_relu = True

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            convolution = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.body(x) + self.shortcut(x)
        return F.relu(total) if self.last_relu else total


def resnet18(
    classes: int, width: int = 64, channels: int = 3, *, last_relu: bool = True
) -> nn.Sequential:
    """The network of He et al. 2016 with a first convolution of 3x3 and no pooling after it, as
    images of 32x32 take it; in PyTorch's default initialisation.

    Four stages of two blocks have 1, 2, 4 and 8 times ``width`` channels; each but the first halves
    the sides. ``width=20`` is the network of ARM and of GEM (1.09 million parameters).

    Args:
        classes: C, outputs.
        width: channels of the first stage.
        channels: of the images.
        last_relu: whether the last block ends in a ReLU; without, features have either sign, as a
            cosine head wants them (LUCIR).

    Returns:
        From images [B, channels, H, W] of any size to logits [B, C]: ``features``, whose outputs
        are [B, 8 width], and ``head``, an ``nn.Linear``.

    Raises:
        TypeError, ValueError: a size that is no integer, or below 1; a switch that is none.
    """
    stages = ((1, 1), (2, 2), (2, 4), (2, 8))
    return _resnet(classes, width, channels, stages, 2, last_relu, "clfast.nn.resnet18")


def resnet32(
    classes: int, width: int = 16, channels: int = 3, *, last_relu: bool = True
) -> nn.Sequential:
    """The network of He et al. 2016, section 4.2, for images of 32x32, with shortcuts of 1x1
    convolutions where shapes change; in PyTorch's default initialisation.

    Three stages of five blocks have 1, 2 and 4 times ``width`` channels; each but the first halves
    the sides. ``width=16`` is the network of iCaRL, LUCIR and Mnemonics on CIFAR (0.47 million
    parameters).

    Args:
        classes: C, outputs.
        width: channels of the first stage.
        channels: of the images.
        last_relu: see `resnet18`.

    Returns:
        From images [B, channels, H, W] of any size to logits [B, C]: ``features``, whose outputs
        are [B, 4 width], and ``head``, an ``nn.Linear``.

    Raises:
        TypeError, ValueError: a size that is no integer, or below 1; a switch that is none.
    """
    stages = ((1, 1), (2, 2), (2, 4))
    return _resnet(classes, width, channels, stages, 5, last_relu, "clfast.nn.resnet32")


def _resnet(
    classes: int,
    width: int,
    channels: int,
    stages: Sequence[tuple[int, int]],
    blocks: int,
    last_relu: bool,
    where: str,
) -> nn.Sequential:
    """Stages of so many blocks each, given by stride and by channels as multiples of the width."""
    classes = integer(classes, "classes", where, least=1)
    width = integer(width, "width", where, least=1)
    channels = integer(channels, "channels", where, least=1)
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inside = width
    for stride, multiple in stages:
        for block in range(blocks):
            layers.append(BasicBlock(inside, multiple * width, 1 if block else stride))
            inside = multiple * width
    last = layers[-1]
    assert isinstance(last, BasicBlock)
    last.last_relu = boolean(last_relu, "last_relu", where)
    features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(features=features, head=nn.Linear(inside, classes)))
