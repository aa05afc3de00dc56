"""`CropAndFlip`: random shifts and mirror images of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .._arguments import boolean, integer


class CropAndFlip:
    """Each image is shifted by up to ``padding`` pixels, zeros coming in, and every second is
    mirrored, left to right, by chance: what networks for CIFAR are trained with (He et al. 2016,
    section 4.2).

    Args:
        padding: at least 0.
        flip: whether images are mirrored.

    Raises:
        TypeError, ValueError: an argument that cannot be.
    """

    def __init__(self, padding: int = 4, *, flip: bool = True) -> None:
        self.padding = integer(padding, "padding", "CropAndFlip", least=0)
        self.flip = boolean(flip, "flip", "CropAndFlip")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Another batch like ``images`` [B, Ch, H, W]; ``generator`` is on the CPU.

        Raises ValueError for other shapes.
        """
        if images.dim() != 4:
            raise ValueError(f"CropAndFlip: images must be [B, Ch, H, W], got {list(images.shape)}")
        count, _, height, width = images.shape
        shifts = torch.randint(2 * self.padding + 1, (2, count, 1), generator=generator)
        rows = shifts[0] + torch.arange(height)
        columns = shifts[1] + torch.arange(width)
        if self.flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = F.pad(images, (self.padding,) * 4)
        rows, columns = rows.to(images.device), columns.to(images.device)
        samples = torch.arange(count, device=images.device)
        # The index in the middle leaves the channels last.
        picked = padded[samples[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return picked.movedim(3, 1).contiguous()
