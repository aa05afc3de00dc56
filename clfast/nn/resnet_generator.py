"""`ResNetGenerator`: DGM's masked generator for natural images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .image_size import doublings
from .last_layer import ToImages
from .masked_generator import Layer, MaskedGenerator, xavier


class ResNetGenerator(MaskedGenerator):
    """A generator of residual blocks that are masked for every task.

    z [B, noise] -> 4 x 4, by a matrix; then blocks, each of which doubles the sides: batch
    normalisation, ReLU, nearest upsampling, 3 x 3, batch normalisation, ReLU, 3 x 3, and beside it
    upsampling and 1 x 1, all without bias; then batch normalisation, ReLU and the last layer, 3 x 3
    with bias -> images [B, channels, size, size] in (-1, 1). For 32 x 32 there are three blocks.

    Both ways through a block end in as many channels, so it grows by what the needier one needs.
    The 1 x 1 is there in every task; in the authors' code it is left out where a block has as many
    inputs as outputs, that is, until something has grown.

    `widths` has the channels of the 4 x 4 map, then for each block those between its two 3 x 3 and
    those after it; all are g in a new generator. Arguments are those of `MaskedGenerator`.
    """

    _TO_IMAGES = ToImages(3, 1, bias=True, fan="fan_out")

    @staticmethod
    def first_widths(width: int, size: int) -> tuple[int, ...]:
        return (width,) * (1 + 2 * doublings(size, "ResNetGenerator.first_widths"))

    def _layers(self, maps: int) -> list[Layer]:
        layers = [Layer(0, 1, 4)]
        for map in range(1, maps, 2):
            layers += [Layer(map, map + 1, 3), Layer(map + 1, map + 2, 3), Layer(map, map + 2, 1)]
        return layers

    def _initial(
        self, shape: tuple[int, ...], added: bool, generator: torch.Generator | None
    ) -> Tensor:
        del added
        inputs, outputs, kernel, _ = shape
        if kernel == 4:  # of the matrix, of which a channel of 4 x 4 is 16 outputs
            return xavier((inputs, 16 * outputs), 1.0, generator).view(shape)
        return xavier(shape, math.sqrt(2), generator)

    def _maps(self, z: Tensor, weights: Sequence[Tensor], task: int) -> Tensor:
        x = F.conv_transpose2d(z[:, :, None, None], weights[0])
        for block in range((len(weights) - 1) // 3):
            first, second, beside = weights[3 * block + 1 : 3 * block + 4]
            y = self.norms[2 * block](x, task).relu()
            y = F.conv_transpose2d(y, upsampling(first), stride=2, padding=1)
            y = self.norms[2 * block + 1](y, task).relu()
            y = F.conv_transpose2d(y, second, padding=1)
            # 1 x 1 sees no neighbours: a quarter of the work before upsampling.
            x = y + F.interpolate(F.conv_transpose2d(x, beside), scale_factor=2)
        maps: Tensor = self.norms[-1](x, task).relu()
        return maps


def upsampling(weight: Tensor) -> Tensor:
    """Nearest upsampling by 2 and then a transposed convolution by weight [C_in, C_out, 3, 3] with
    padding 1, as one of stride 2: [C_in, C_out, 4, 4], with padding 1.

    Of the nine products of a pixel those with the same input are added up before: four are left.
    """
    rows = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
    return F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))
