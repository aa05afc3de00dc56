"""CIFAR-100 as features of a small network that was trained on half of its classes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..streams.cifar import Images
from .progress import track

NUM_CLASSES = 100


@dataclass(frozen=True)
class Features:
    """Images as the network sees them: x [N, d], y [N]."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def at(self, rows: Tensor) -> Features:
        """Those at `rows` [n] int64, or where `rows` [N] bool is True."""
        return Features(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Pretrained:
    """What the experiments start from; the head [100, d] was trained with the network."""

    old: Tensor  # [C_old] int64, ascending
    head: nn.Linear
    train: Features
    test: Features
    ms: float
    """The network's time for a test image, in batches of 100."""


def pretrained(
    train: Images, test: Images, seed: int, *, old_classes: int, epochs: int, dim: int
) -> Pretrained:
    """A network trained on all training images of `old_classes` random classes, and its features
    of everything. The global random state is not touched."""
    generator = torch.Generator().manual_seed(seed)
    old = torch.randperm(NUM_CLASSES, generator=generator)[:old_classes].sort().values
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, head = _network(dim), nn.Linear(dim, NUM_CLASSES)
        known = torch.isin(train[1], old)
        _fit(network, head, (train[0][known], train[1][known]), epochs, seed)
    network.eval()
    of_train = _features(network, train)
    start = time.perf_counter()
    of_test = _features(network, test)
    ms = 1e3 * (time.perf_counter() - start) / len(of_test)
    return Pretrained(old, head, of_train, of_test, ms)


def _network(dim: int) -> nn.Sequential:
    """[B, 3, 32, 32] -> [B, dim], not negative."""
    widths = (3, 24, 48, 96, 192)
    layers: list[nn.Module] = []
    for stage, (before, after) in enumerate(pairwise(widths)):
        stride = 1 if stage == 0 else 2
        layers += [
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    pooled = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], dim), nn.ReLU()]
    return nn.Sequential(*layers, *pooled)


def _fit(network: nn.Module, head: nn.Linear, samples: Images, epochs: int, seed: int) -> None:
    x, y = samples
    batches = -(-len(y) // 128)
    optimizer = torch.optim.SGD(
        [*network.parameters(), *head.parameters()], lr=0.1, momentum=0.9, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=epochs * batches
    )
    steps = (batch for _ in range(epochs) for batch in torch.randperm(len(y)).split(128))
    for batch in track(steps, f"Pre-training, seed {seed}", epochs * batches):
        optimizer.zero_grad()
        F.cross_entropy(head(network(_augmented(x[batch]))), y[batch]).backward()
        optimizer.step()
        schedule.step()


def _augmented(x: Tensor) -> Tensor:
    """Shifted by up to 4 pixels and mirrored, one draw a batch; then as the network takes them."""
    down, right = torch.randint(9, (2,)).tolist()
    shifted = F.pad(x, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]
    mirrored = torch.rand(len(x)) < 0.5
    return _normalised(torch.where(mirrored[:, None, None, None], shifted.flip(3), shifted))


def _normalised(x: Tensor) -> Tensor:
    return ((x.float() - 127.5) / 64).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _features(network: nn.Module, samples: Images) -> Features:
    x, y = samples
    return Features(torch.cat([network(_normalised(part)) for part in x.split(100)]), y)
