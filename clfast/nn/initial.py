"""Initial values of layers that are drawn from a generator."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn


def initialise(
    weight: Tensor,
    bias: Tensor | None,
    generator: torch.Generator | None,
    fan: Literal["fan_in", "fan_out"] = "fan_in",
) -> None:
    """As PyTorch initialises linear layers and convolutions: uniform within 1 / sqrt(fan).

    Args:
        weight: [outputs, inputs, ...]; the fan is inputs, or outputs, times what follows.
        bias: of any shape.
    """
    nn.init.kaiming_uniform_(weight, math.sqrt(5), mode=fan, generator=generator)
    if bias is not None:
        inputs = weight.shape[0 if fan == "fan_out" else 1] * weight[0, 0].numel()
        bound = 1 / math.sqrt(inputs)
        nn.init.uniform_(bias, -bound, bound, generator=generator)
