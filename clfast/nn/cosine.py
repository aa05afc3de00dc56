"""`CosineLinear`: a last layer of cosines, whose outputs have one range for classes old and new."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._arguments import integer
from ..ops import cosine_logits


class CosineLinear(nn.Module):
    """sigma · cos(x, w_c): [B, inputs] to [B, outputs] (Hou et al., CVPR 2019, "Learning a unified
    classifier incrementally via rebalancing", Eq. 4).

    ``weight`` [outputs, inputs] holds the class embeddings, of any length, and ``sigma`` [] is
    learnt beside them; it begins at 1.

    Args:
        inputs, outputs: d and C.

    Raises:
        TypeError, ValueError: a size that is no integer of at least 1.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.in_features = integer(inputs, "inputs", "CosineLinear", least=1)
        self.out_features = integer(outputs, "outputs", "CosineLinear", least=1)
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.sigma = nn.Parameter(torch.ones(()))
        nn.init.uniform_(self.weight, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits. Raises RuntimeError for x that is not [B, inputs]."""
        return cosine_logits(x, self.weight, self.sigma)

    def cosines(self, x: Tensor) -> Tensor:
        """In [-1, 1]: the logits before sigma. Raises as `forward`."""
        return cosine_logits(x, self.weight, self.sigma.new_ones(()))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
