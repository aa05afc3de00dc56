"""`ConditionalGenerator`: images of classes that batch normalisation is told (MeRGAN)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .image_size import doublings


class ConditionalGenerator(nn.Module):
    """A DCGAN generator with conditional batch normalisation.

    z [B, noise], classes [B] -> 4 x 4, 8 x 8, ... -> images [B, channels, size, size] in (-1, 1)
    by transposed convolutions without bias. Each but the last is followed by batch normalisation
    whose scale and shift belong to the class, and ReLU; for 32 x 32 the layers have 4 g, 2 g and g
    outputs, for twice the size there is another before them.

    Args:
        width: g.
        classes: the most there will be.
        size: of the images.
        generator: on the CPU, of the initial weights, N(0, 0.02).

    Raises:
        TypeError, ValueError: size is no power of two from 16 on.
    """

    def __init__(
        self,
        channels: int,
        noise: int,
        width: int,
        classes: int,
        *,
        size: int = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        maps = doublings(size, type(self).__name__)
        sizes = [noise, *(width << map for map in reversed(range(maps))), channels]
        self.weights = nn.ParameterList(
            nn.init.normal_(torch.empty(i, o, 4, 4), 0.0, 0.02, generator=generator)
            for i, o in pairwise(sizes)
        )
        hidden = sizes[1:-1]
        self.norms = nn.ModuleList(nn.BatchNorm2d(size, affine=False) for size in hidden)
        self.scales = nn.ParameterList(torch.ones(classes, size) for size in hidden)
        self.shifts = nn.ParameterList(torch.zeros(classes, size) for size in hidden)

    def forward(self, z: Tensor, classes: Tensor) -> Tensor:
        """Images [B, channels, size, size] of noise [B, noise] and classes [B] int64."""
        x = F.conv_transpose2d(z[:, :, None, None], self.weights[0])
        for norm, scale, shift, weight in zip(
            self.norms, self.scales, self.shifts, list(self.weights)[1:], strict=True
        ):
            x = norm(x) * scale[classes][..., None, None] + shift[classes][..., None, None]
            x = F.conv_transpose2d(x.relu(), weight, stride=2, padding=1)
        return x.tanh()
