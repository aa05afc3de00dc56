"""ResNet-18 for small images."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import integer


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, Fig. 5 left): [B, inside, H, W] to
    [B, outside, H / stride, W / stride], rounded up. The shortcut is a convolution of 1x1 where
    input and output differ in shape."""

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
        return F.relu(self.body(x) + self.shortcut(x))


def resnet18(classes: int, width: int = 64, channels: int = 3) -> nn.Sequential:
    """The network of He et al. 2016 with a first convolution of 3x3 and no pooling after it, as
    images of 32x32 take it; in PyTorch's default initialisation.

    Four stages of two blocks have 1, 2, 4 and 8 times ``width`` channels; each but the first halves
    the sides. ``width=20`` is the network of ARM and of GEM (1.09 million parameters).

    Args:
        classes: C, outputs.
        width: channels of the first stage.
        channels: of the images.

    Returns:
        From images [B, channels, H, W] of any size to logits [B, C]: ``features``, whose outputs
        are [B, 8 width], and ``head``, an ``nn.Linear``.

    Raises:
        TypeError, ValueError: an argument that is no integer, or below 1.
    """
    where = "clfast.nn.resnet18"
    classes = integer(classes, "classes", where, least=1)
    width = integer(width, "width", where, least=1)
    channels = integer(channels, "channels", where, least=1)
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inside = width
    for stride, outside in ((1, width), (2, 2 * width), (2, 4 * width), (2, 8 * width)):
        layers += [BasicBlock(inside, outside, stride), BasicBlock(outside, outside, 1)]
        inside = outside
    features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(features=features, head=nn.Linear(inside, classes)))
