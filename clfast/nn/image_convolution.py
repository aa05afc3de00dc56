"""`ImageConv2d`: the first convolution of a critic, through which a generator learns."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

_aten = torch.ops.aten
_SIZES = ((2, 2), (2, 2), (1, 1), False, (0, 0), 1)


class ImageConv2d(nn.Conv2d):
    """``nn.Conv2d(channels, outputs, 5, 2, 2, bias=False)`` on images of even sides.

    On CPUs PyTorch pads an image of few channels to many for the gradient by it; here that is a
    convolution with an output for each channel of every second pixel.

    Args:
        channels, outputs: of images and maps.
        device: of the weight.
    """

    def __init__(self, channels: int, outputs: int, device: torch.device | str = "cpu") -> None:
        super().__init__(channels, outputs, 5, 2, 2, bias=False, device=device)

    def forward(self, x: Tensor) -> Tensor:
        learns = torch.is_grad_enabled() and x.requires_grad
        # torch.func knows only PyTorch's own.
        within = torch._C._functorch.maybe_current_level() is not None
        if not learns or not x.is_cpu or within or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        output: Tensor = _Convolution.apply(x, self.weight)
        return output

    def into_images(self, grad: Tensor, x: Tensor) -> Tensor:
        """The gradient by images x, of that by their maps."""
        if grad.is_cpu:
            return _into_images(grad, self.weight)
        mask = (True, False, False)
        found: Tensor = _aten.convolution_backward(grad, x, self.weight, None, *_SIZES, mask)[0]
        return found


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        output: Tensor = _aten.convolution(x, weight, None, *_SIZES)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_weight = None
        if ctx.needs_input_grad[1]:
            mask = (False, True, False)
            of_weight = _aten.convolution_backward(grad, x, weight, None, *_SIZES, mask)[1]
        return _into_images(grad, weight), of_weight


def _into_images(grad: Tensor, weight: Tensor) -> Tensor:
    """Pixel 2 j + a of a row is the sum over m of grad at j + 1 - m by weight 2 m + a."""
    outputs, channels = weight.shape[:2]
    halves = F.pad(weight, (0, 1, 0, 1)).unflatten(3, (3, 2)).unflatten(2, (3, 2))
    kernels = halves.flip(2, 4).permute(1, 3, 5, 0, 2, 4).reshape(4 * channels, outputs, 3, 3)
    return F.pixel_shuffle(F.conv2d(grad, kernels, padding=1), 2)
