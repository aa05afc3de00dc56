"""Networks for tests of methods that train a whole model."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Three convolutions, two of them around a shortcut, with batch normalisation."""

    def __init__(self, classes: int = 4, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(3))
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.stem(x)))
        y = self.norms[2](self.second(F.relu(self.norms[1](self.first(x)))))
        features: Tensor = F.relu(x + y).mean((2, 3))
        logits: Tensor = self.head(features)
        return logits


def mlp(inputs: int = 48, classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 20), nn.ReLU(), nn.Linear(20, classes))


def batches(
    count: int, *shape: int, classes: int = 4, size: int = 5, seed: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Batches of random images in [0, 1], each with the classes of one half of all."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        y = torch.randint(classes // 2, (size,), generator=generator)
        x = torch.rand(size, *shape, generator=generator, dtype=torch.float64)
        found.append((x, y + classes // 2 * (2 * i // count)))
    return found


def same(first: Any, second: Any) -> bool:
    """Whether two states are equal, bit for bit."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    return bool(first == second)
