"""`Critic`: the network of an AC-GAN that tells images from real ones, and classes apart."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from .growth import grown


class Critic(nn.Module):
    """Images [B, channels, 32, 32] -> a score [B] and logits [B, classes] (DGM).

    Three convolutions 5 x 5 of stride 2 with `width`, 2 `width` and 4 `width` outputs, without
    bias, and batch normalisation after the second and third, as the authors of DGM have it although
    the critic is one of WGAN-GP; LeakyReLU 0.2; then one linear layer for each output.

    Args:
        classes: how many there are so far, at least 1; see `add_classes`.
        generator: on the CPU, of the initial values: N(0, 0.02) for convolutions, N(1, 0.02) for
            the weights of batch normalisation, PyTorch's own for linear layers.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: int = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = [channels, width, 2 * width, 4 * width]
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
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.score = _linear(sizes[-1] * 16, 1, generator)
        self.classify = _linear(sizes[-1] * 16, classes, generator)

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


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, device="cpu")
    nn.init.kaiming_uniform_(layer.weight, math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(inputs)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
