"""`DCGANGenerator`: DGM's masked generator for digits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .image_size import doublings
from .last_layer import ToImages
from .masked_generator import Layer, MaskedGenerator, normal, xavier


class DCGANGenerator(MaskedGenerator):
    """A DCGAN generator whose hidden layers are masked for every task.

    z [B, noise] -> 4 x 4, 8 x 8, ... -> images [B, channels, size, size] in (-1, 1), by transposed
    convolutions 4 x 4, each but the last followed by batch normalisation and ReLU. A new one for 32
    x 32 has 4 g, 2 g and g channels, one for twice the size another map before them.

    Arguments are those of `MaskedGenerator`.
    """

    _TO_IMAGES = ToImages(4, 2, bias=False, fan="fan_in")

    @staticmethod
    def first_widths(width: int, size: int) -> tuple[int, ...]:
        maps = doublings(size, "DCGANGenerator.first_widths")
        return tuple(width << map for map in reversed(range(maps)))

    def _layers(self, maps: int) -> list[Layer]:
        return [Layer(map, map + 1, 4) for map in range(maps)]

    def _initial(
        self, shape: tuple[int, ...], added: bool, generator: torch.Generator | None
    ) -> Tensor:
        """The authors' two: one for the beginning, the other for what is added."""
        if added == (self.masks == "weight"):
            return normal(shape, generator)
        return xavier(shape, math.sqrt(2), generator)

    def _maps(self, z: Tensor, weights: Sequence[Tensor], task: int) -> Tensor:
        first, *others = weights
        # A transposed convolution of one pixel.
        x: Tensor = (z @ first.flatten(1)).unflatten(1, first.shape[1:])
        for weight, norm in zip([None, *others], self.norms, strict=True):
            if weight is not None:
                x = F.conv_transpose2d(x, weight, stride=2, padding=1)
            x = norm(x, task).relu()
        return x
