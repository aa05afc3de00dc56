"""`ConvolutionalCritic`: DGM's critic of digits, with gradients of its penalty by hand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .critic import Critic, slope_penalty
from .image_convolution import ImageConv2d
from .image_size import doublings
from .second_order import batch_norm_back_twice

_aten = torch.ops.aten


class _Norm(NamedTuple):
    """Batch normalisation, and the moments by which it has normalised."""

    module: nn.BatchNorm2d
    mean: Tensor
    scale: Tensor

    def back(self, maps: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients in the maps that it normalised, in its weight and in its bias."""
        of_batch = (None, None, self.mean, self.scale, True, self.module.eps, (True, True, True))
        found: tuple[Tensor, Tensor, Tensor] = _aten.native_batch_norm_backward(
            grad, maps, self.module.weight, *of_batch
        )
        return found


class _Layer(NamedTuple):
    """A block, and what it made of x: maps by the convolution, then the output."""

    conv: nn.Conv2d
    norm: _Norm | None
    slope: float
    x: Tensor
    maps: Tensor
    output: Tensor

    def rectified(self, grad: Tensor) -> Tensor:
        """Times the derivative of LeakyReLU."""
        found: Tensor = _aten.leaky_relu_backward(grad, self.output, self.slope, True)
        return found

    def into_x(self, grad: Tensor) -> Tensor:
        """The gradient in x, of that in the maps."""
        if isinstance(self.conv, ImageConv2d):
            return self.conv.into_images(grad, self.x)
        return self.into(grad, self.x, of_x=True)[0]

    def into(
        self, grad: Tensor, x: Tensor, *, of_x: bool = False, of_weight: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Gradients in what it was given, were it x, and in the convolution's weight."""
        options = (None, *_sizes(self.conv), (of_x, of_weight, False))
        found = _aten.convolution_backward(grad, x, self.conv.weight, *options)
        return found[0], found[1]


class _Passed(NamedTuple):
    """A gradient on its way back through a layer."""

    behind: Tensor  # the normalisation
    before: Tensor
    of_weight: Tensor  # the normalisation's
    of_bias: Tensor


class ConvolutionalCritic(Critic):
    """A `Critic` of blocks of a convolution without bias, batch normalisation, which may be left
    out, and LeakyReLU; then flattened."""

    @torch.no_grad()
    def add_penalty_gradients(self, x: Tensor, weight: float) -> Tensor:
        """As `Critic` has it, but by hand in train mode.

        With v the penalty's derivative by the slopes s, that by a parameter is the derivative of
        the sum of v s at constant v. Since s comes of a backward pass that is linear in what it
        passes back, v takes the same way forwards. The rest of what the backward pass depends on
        are the normalised maps of the forward pass, and behind them all layers before; not the
        score, nor on which side of 0 the input of LeakyReLU is.

        PyTorch differentiates batch normalisation's backward pass term by term, and a convolution's
        by a convolution with kernels as large as the images.
        """
        if not self.training or torch.is_autocast_enabled(x.device.type):
            with torch.enable_grad():
                return super().add_penalty_gradients(x, weight)
        layers = self._run(x)
        slopes, passed = self._slopes(layers)
        with torch.enable_grad():
            penalty = slope_penalty(slopes.requires_grad_(), weight)
        (along,) = torch.autograd.grad(penalty, slopes)
        self._add_through_maps(layers, self._add_along(layers, passed, along))
        return penalty.detach()

    def _run(self, x: Tensor) -> list[_Layer]:
        """The forward pass."""
        layers: list[_Layer] = []
        for conv, module, activation in self._blocks():
            output = maps = conv(x)
            norm = None
            if module is not None:
                assert module.momentum is not None
                assert module.num_batches_tracked is not None
                module.num_batches_tracked.add_(1)
                running = (module.running_mean, module.running_var)
                options = (*running, True, module.momentum, module.eps)
                output, *moments = torch.native_batch_norm(
                    maps, module.weight, module.bias, *options
                )
                norm = _Norm(module, *moments)
            output = activation(output)
            layers.append(_Layer(conv, norm, activation.negative_slope, x, maps, output))
            x = output
        return layers

    def _slopes(self, layers: list[_Layer]) -> tuple[Tensor, list[_Passed]]:
        """The scores' gradients by x, and what they were in every layer."""
        features = layers[-1].output
        grad = torch.empty_like(features).copy_(self.score.weight.view(1, *features.shape[1:]))
        passed: list[_Passed] = []
        for layer in reversed(layers):
            behind = layer.rectified(grad)
            before, *sums = (behind, behind, behind)
            if layer.norm is not None:
                before, *sums = layer.norm.back(layer.maps, behind)
            grad = layer.into_x(before)
            passed.append(_Passed(behind, before, *sums))
        return grad, passed[::-1]

    def _add_along(
        self, layers: list[_Layer], passed: list[_Passed], along: Tensor
    ) -> list[Tensor | None]:
        """Add the gradients through what the backward pass multiplied by; those in its maps, where
        they were normalised."""
        into_maps: list[Tensor | None] = []
        for layer, given in zip(layers, passed, strict=True):
            conv, into_map = layer.conv, None
            _add(conv.weight, layer.into(given.before, along, of_weight=True)[1])
            along = _aten.convolution(along, conv.weight, None, *_sizes(conv))
            if layer.norm is not None:
                module, mean, scale = layer.norm
                zero = torch.zeros_like(mean)
                along, into_map, into_weight = batch_norm_back_twice(
                    (True, module.eps),
                    *(given.behind, layer.maps, module.weight, mean, scale),
                    *(given.of_weight, given.of_bias, along, zero, zero),
                )
                _add(module.weight, into_weight)
            into_maps.append(into_map)
            along = layer.rectified(along)
        _add(self.score.weight, along.flatten(1).sum(0, keepdim=True))
        return into_maps

    def _add_through_maps(self, layers: list[_Layer], into_maps: list[Tensor | None]) -> None:
        """Add the gradients of the forward pass, of those in its maps."""
        grad: Tensor | None = None  # in the layer's output
        for layer, into_map in zip(reversed(layers), reversed(into_maps), strict=True):
            if grad is not None:
                grad = layer.rectified(grad)
                if layer.norm is not None:
                    grad, into_weight, into_bias = layer.norm.back(layer.maps, grad)
                    _add(layer.norm.module.weight, into_weight)
                    _add(layer.norm.module.bias, into_bias)
            if into_map is not None:
                grad = into_map if grad is None else grad.add_(into_map)
            if grad is not None:
                of_x = layer is not layers[0]
                grad, into_weight = layer.into(grad, layer.x, of_x=of_x, of_weight=True)
                _add(layer.conv.weight, into_weight)

    def _blocks(self) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d | None, nn.LeakyReLU]]:
        assert isinstance(self.features, nn.Sequential)
        conv, norm = None, None
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                conv, norm = module, None
            elif isinstance(module, nn.BatchNorm2d):
                norm = module
            elif isinstance(module, nn.LeakyReLU):
                assert conv is not None
                yield conv, norm, module


def _sizes(conv: nn.Conv2d) -> tuple[object, ...]:
    return conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups


def _add(parameter: Tensor, grad: Tensor) -> None:
    parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)


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
        if number:
            conv = nn.utils.skip_init(nn.Conv2d, inputs, outputs, 5, 2, 2, **options)
        else:
            conv = nn.utils.skip_init(ImageConv2d, inputs, outputs, device="cpu")
        nn.init.normal_(conv.weight, 0.0, 0.02, generator=generator)
        layers.append(conv)
        if number:
            norm = nn.BatchNorm2d(outputs)
            nn.init.normal_(norm.weight, 1.0, 0.02, generator=generator)
            layers.append(norm)
        layers.append(nn.LeakyReLU(0.2))
    features = nn.Sequential(*layers, nn.Flatten())
    return ConvolutionalCritic(features, sizes[-1] * 16, classes, generator=generator)
