"""`LastLayer`: from the maps of a generator to images, for a task or for each of its classes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .growth import grown
from .initial import initialise


class ToImages(NamedTuple):
    """What the last layer of an architecture is: a transposed convolution with padding 1."""

    kernel: int
    stride: int
    bias: bool
    fan: Literal["fan_in", "fan_out"]
    """Its initial values are within 1 / sqrt(k^2 channels), as those of ``nn.ConvTranspose2d``, or
    within 1 / sqrt(k^2 C), as those of ``nn.Conv2d``."""


class LastLayer(nn.Module):
    """Maps [B, C, H, W] to [B, channels, H', W'] by one transposed convolution, or by that of each
    image's class.

    ``weight`` is [C, channels, k, k], or [classes, C, channels, k, k] with as many classes as
    `add_classes` was told of, at first none; a state with another number of them can be loaded.

    Args:
        inputs: C.
        channels: of the images.
        kind: of the convolution.
        each_class: whether each class has a layer of its own.
        generator: on the CPU, of the initial values.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        inputs: int,
        channels: int,
        kind: ToImages,
        *,
        each_class: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.each_class = kind, each_class
        number = (0,) if each_class else ()
        weight = torch.empty(*number, inputs, channels, kind.kernel, kind.kernel)
        bias = torch.empty(*number, channels) if kind.bias else None
        if not each_class:
            initialise(weight, bias, generator, kind.fan)
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    @property
    def classes(self) -> int:
        """That have a layer of their own."""
        return len(self.weight) if self.each_class else 0

    @torch.no_grad()
    def add_classes(self, count: int, generator: torch.Generator | None = None) -> None:
        """Layers for so many more classes; those there are stay. Parameters are new ones."""
        old, old_bias = self.weight, self.bias
        number = self.classes + count
        weight = torch.empty(number, *old.shape[1:])
        bias = None if old_bias is None else torch.empty(number, *old_bias.shape[1:])
        for label in range(self.classes, number):
            initialise(
                weight[label], None if bias is None else bias[label], generator, self.kind.fan
            )
        self.weight = nn.Parameter(grown(old.detach(), weight.to(old)))
        if bias is not None and old_bias is not None:
            self.bias = nn.Parameter(grown(old_bias.detach(), bias.to(old_bias)))

    def forward(self, x: Tensor, classes: Tensor | None = None) -> Tensor:
        """Of maps x [B, C, H, W]; with a layer for each class also classes [B] int64.

        Raises:
            TypeError, ValueError: classes are not those of images, or (on the CPU) not known.
        """
        kernel, stride, *_ = self.kind
        if not self.each_class:
            return F.conv_transpose2d(x, self.weight, self.bias, stride, 1)
        index = self._index(classes, len(x))
        # Each image's product with the weights of its class, then the sum where kernels overlap.
        weight = self.weight[index].flatten(2).transpose(1, 2)
        height, width = ((side - 1) * stride + kernel - 2 for side in x.shape[2:])
        images = F.fold(weight @ x.flatten(2), (height, width), kernel, padding=1, stride=stride)
        return images if self.bias is None else images + self.bias[index][..., None, None]

    def _index(self, classes: Tensor | None, count: int) -> Tensor:
        where = type(self).__name__
        if classes is None:
            raise TypeError(f"{where}: each class has a layer; classes must be given, got None")
        if classes.dtype != torch.int64 or classes.shape != (count,):
            raise ValueError(
                f"{where}: classes must be int64 [{count}], got {classes.dtype} "
                f"{list(classes.shape)}"
            )
        if not classes.is_cuda and bool(((classes < 0) | (classes >= self.classes)).any()):
            raise ValueError(
                f"{where}: classes must be in 0..{self.classes - 1}, got {classes.tolist()}"
            )
        return classes

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        given = state_dict.get(prefix + "weight")
        if self.each_class and isinstance(given, Tensor) and given.dim() == self.weight.dim():
            number = len(given)
            self.weight = nn.Parameter(self.weight.new_empty(number, *self.weight.shape[1:]))
            if self.bias is not None:
                self.bias = nn.Parameter(self.bias.new_empty(number, *self.bias.shape[1:]))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
