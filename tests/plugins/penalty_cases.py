"""Penalty plugins, the network and the tasks that the tests train, and the loop."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clfast.plugins import EWC, MAS, SI, OnlineEWC, QuadraticPlugin, RWalk

float64 = torch.float64
Batch = tuple[Tensor, Tensor]
Table = dict[str, Tensor]

PLUGINS: dict[str, Callable[[nn.Module], QuadraticPlugin]] = {
    "EWC": lambda model: EWC(model, strength=30.0),
    "exact EWC": lambda model: EWC(model, strength=30.0, targets="exact"),
    "OnlineEWC": lambda model: OnlineEWC(model, strength=30.0, gamma=0.7),
    "SI": lambda model: SI(model, strength=2.0),
    "total SI": lambda model: SI(model, strength=2.0, gradient="total"),
    "MAS": lambda model: MAS(model, strength=3.0),
    "RWalk": lambda model: RWalk(model, strength=5.0),
}
every_plugin = pytest.mark.parametrize("name", PLUGINS)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).to(float64)


def tasks(count: int = 3) -> list[list[Batch]]:
    rng = torch.Generator().manual_seed(1)
    return [
        [
            (torch.randn(n, 5, generator=rng).double(), torch.randint(4, (n,), generator=rng))
            for n in (8, 8, 3)
        ]
        for _ in range(count)
    ]


def parameters(model: nn.Module) -> Table:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def pulled(plugin: QuadraticPlugin, model: nn.Module) -> Table:
    """The penalty's gradient a little away from the parameters."""
    elsewhere = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3
    found = torch.autograd.grad(plugin.penalty(), list(model.parameters()))
    names = [name for name, _ in model.named_parameters()]
    model.load_state_dict(elsewhere)
    return dict(zip(names, found, strict=True))


def train(
    plugin: QuadraticPlugin, model: nn.Module, batches: list[Batch], lr: float, how: str = "after"
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for x, y in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if how != "after":
            loss = plugin.before_backward(loss)
        loss.backward()
        plugin.after_backward()
        optimizer.step()
        plugin.after_step()
