"""`Critic`: the network of an AC-GAN that tells images from real ones, and classes apart."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .growth import grown
from .image_size import doublings
from .initial import initialise
from .resnet import resnet18


class Critic(nn.Module):
    """Images [B, channels, size, size] -> a score [B] and logits [B, classes] (DGM).

    One linear layer for each, on the same features; see `dcgan_critic` and `resnet_critic`.

    Args:
        features: from images to [B, width].
        width: of the features.
        classes: how many there are so far, at least 1; see `add_classes`.
        generator: on the CPU, of the initial values of the linear layers, which are PyTorch's.
    """

    def __init__(
        self,
        features: nn.Module,
        width: int,
        classes: int,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.score = _linear(width, 1, generator)
        self.classify = _linear(width, classes, generator)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The score of every image, large for real ones, and its logits."""
        features = self.features(x)
        scores: Tensor = self.score(features)
        return scores[:, 0], self.classify(features)

    @torch.no_grad()
    def add_classes(self, count: int, generator: torch.Generator | None = None) -> None:
        """More logits; those there are stay."""
        old = self.classify
        wider = _linear(old.in_features, old.out_features + count, generator).to(old.weight)
        grown(old.weight, wider.weight)
        grown(old.bias, wider.bias)
        self.classify = wider


def dcgan_critic(
    channels: int,
    classes: int,
    *,
    width: int = 32,
    size: int = 32,
    generator: torch.Generator | None = None,
) -> Critic:
    """A critic of convolutions 5 x 5 of stride 2 without bias.

    They have `width`, 2 `width`, ... outputs, down to 4 x 4: three for images of 32 x 32. There is
    batch normalisation after each but the first, as the authors of DGM have it although the critic
    is one of WGAN-GP; then LeakyReLU 0.2.

    Args:
        channels, size: of the images.
        classes: at least 1.
        generator: on the CPU, of the initial values: N(0, 0.02) for convolutions, N(1, 0.02) for
            the weights of batch normalisation, PyTorch's own for linear layers.

    Raises:
        TypeError, ValueError: size is no power of two from 16 on.
    """
    sizes = [channels, *(width << i for i in range(doublings(size, "dcgan_critic")))]
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        options = {"bias": False, "device": "cpu"}
        conv = nn.utils.skip_init(nn.Conv2d, inputs, outputs, 5, 2, 2, **options)
        nn.init.normal_(conv.weight, 0.0, 0.02, generator=generator)
        layers.append(conv)
        if number:
            norm = nn.BatchNorm2d(outputs)
            nn.init.normal_(norm.weight, 1.0, 0.02, generator=generator)
            layers.append(norm)
        layers.append(nn.LeakyReLU(0.2))
    features = nn.Sequential(*layers, nn.Flatten())
    return Critic(features, sizes[-1] * 16, classes, generator=generator)


def resnet_critic(
    channels: int,
    classes: int,
    *,
    width: int = 64,
    hidden: int = 2048,
    generator: torch.Generator | None = None,
) -> Critic:
    """A ResNet-18 as critic, as DGM's authors have it for ImageNet: :func:`clfast.nn.resnet18` with
    `hidden` outputs, batch normalisation of momentum 0.01 and ReLU before the linear layers.

    Args:
        channels: of the images, which may be of any size.
        classes: at least 1.
        width: of the ResNet.
        generator: on the CPU, of the initial values, which are PyTorch's.

    Raises:
        TypeError, ValueError: a number below 1.
    """
    with torch.device("meta"):
        network = resnet18(hidden, width, channels)
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            initialise(module.weight, module.bias, generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    features = nn.Sequential(network, _RowNorm(hidden, momentum=0.01), nn.ReLU())
    return Critic(features, hidden, classes, generator=generator)


class _RowNorm(nn.BatchNorm1d):
    """One row, whose variance is nothing to divide by, is normalised by the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 1:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, device="cpu")
    initialise(layer.weight, layer.bias, generator)
    return layer
