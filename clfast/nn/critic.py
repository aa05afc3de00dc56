"""`Critic`: the network of an AC-GAN that tells images from real ones, and classes apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .growth import grown
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

    def add_penalty_gradients(self, x: Tensor, weight: float) -> Tensor:
        """Add the gradients of a penalty on slopes (Gulrajani et al.) to those of the parameters.

        Args:
            x: [B, channels, size, size]; a constant.
            weight: of mean_i (||d score_i / d x_i||_2 - 1)^2.

        Returns:
            The penalty, a scalar without a graph.
        """
        x = x.detach().requires_grad_()
        scores, _ = self(x)
        (slopes,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        penalty = slope_penalty(slopes, weight)
        penalty.backward(inputs=list(self.parameters()))  # not by x
        return penalty.detach()

    @torch.no_grad()
    def add_classes(self, count: int, generator: torch.Generator | None = None) -> None:
        """More logits; those there are stay."""
        old = self.classify
        wider = _linear(old.in_features, old.out_features + count, generator).to(old.weight)
        grown(old.weight, wider.weight)
        grown(old.bias, wider.bias)
        self.classify = wider


def slope_penalty(slopes: Tensor, weight: float) -> Tensor:
    """`weight` mean_i (||slopes_i||_2 - 1)^2 of [B, ...]."""
    penalty: Tensor = weight * (slopes.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


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
