"""A small network, images, and `Mnemonics` with few steps, for the tests of selections."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from networks import same
from torch import Tensor, nn

from clfast.methods.mnemonics import Mnemonics

CLASSES = 3


def network(dtype: torch.dtype = torch.float64) -> Any:
    """In train mode, with running statistics that are not the first ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(36, 6),
        )
        head = nn.Linear(6, CLASSES)
        features(torch.rand(20, 1, 5, 5))
    return SimpleNamespace(features=features.to(dtype), head=head.to(dtype))


def images(count: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    x = 0.5 * torch.rand(count, 1, 5, 5, generator=generator, dtype=torch.float64)
    x[torch.arange(count), 0, y] += 0.5
    return x, y


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mnemonics(objective: Any = "bop_full", **options: Any) -> Mnemonics:
    few: dict[str, Any] = {"steps": 3, "epochs": 2, "inner_lr": 0.2, "lr": 1.0, "batch": 9}
    return Mnemonics(objective, **{**few, **options})


def state(net: Any) -> dict[str, Any]:
    modules = [*net.features.modules(), *net.head.modules()]
    values = [*net.features.parameters(), *net.head.parameters()]
    return {
        "features": net.features.state_dict(),
        "head": net.head.state_dict(),
        "modes": torch.tensor([m.training for m in modules]),
        "tracking": torch.tensor([getattr(m, "track_running_stats", False) for m in modules]),
        "grads": torch.tensor([p.grad is not None for p in values]),
        "flags": torch.tensor([p.requires_grad for p in values]),
        "random": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
    }


@contextmanager
def unchanged(net: Any) -> Iterator[None]:
    before = copy.deepcopy(state(net))
    yield
    assert same(before, state(net))
