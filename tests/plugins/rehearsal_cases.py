"""Plugins with stored samples, the network and the tasks that their tests train, and the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clfast.memory import ReplayBuffer
from clfast.plugins import AGEM, ER, ERMIR, GEM, RehearsalPlugin

Batch = tuple[Tensor, Tensor]

LR = 0.2
CAPACITY = 14


def of_buffer(kind: Any, **options: Any) -> Callable[[nn.Module], RehearsalPlugin]:
    def make(model: nn.Module, **more: Any) -> RehearsalPlugin:
        given = {"replay": 5, "generator": torch.Generator().manual_seed(3), **options, **more}
        plugin: RehearsalPlugin = kind(model, ReplayBuffer(CAPACITY), **given)
        return plugin

    return make


PLUGINS: dict[str, Any] = {
    "ER": of_buffer(ER),
    "ERMIR": of_buffer(ERMIR, lr=LR, candidates=9),
    "AGEM": of_buffer(AGEM),
    "GEM": lambda model, **more: GEM(model, **{"per_task": 6, **more}),
}
every_plugin = pytest.mark.parametrize("name", PLUGINS)
every_buffer = pytest.mark.parametrize("name", ["ER", "ERMIR", "AGEM"])


def network(outputs: int = 6, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = (nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, outputs))
    return nn.Sequential(*layers).double()


def tasks(count: int = 3) -> list[list[Batch]]:
    """Two classes each, of samples that look alike."""
    rng = torch.Generator().manual_seed(1)
    return [
        [
            (
                torch.randn(n, 5, generator=rng).double(),
                torch.randint(2, (n,), generator=rng) + 2 * task,
            )
            for n in (8, 8, 4)
        ]
        for task in range(count)
    ]


def train(
    plugin: RehearsalPlugin,
    model: nn.Module,
    batches: list[Batch],
    how: str = "after",
    store: bool = False,
) -> None:
    """`how`: "after", or "both" of the ways, of which nothing is added twice."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for x, y in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if how == "both":
            loss = plugin.before_backward(loss)
        loss.backward()
        plugin.after_backward()
        optimizer.step()
        plugin.after_step()
        if store:
            plugin.store(x, y)


def taught(name: str, count: int = 2) -> tuple[nn.Sequential, RehearsalPlugin]:
    """So many tasks have ended, and one more has begun."""
    model = network()
    plugin: RehearsalPlugin = PLUGINS[name](model)
    for batches in tasks(count):
        train(plugin, model, batches)
        plugin.on_task_end(batches)
    train(plugin, model, tasks(count + 1)[-1][:1])
    return model, plugin


def with_gradients(model: nn.Module, scale: float = 1.0) -> list[Tensor]:
    """Of a batch of the third task; copies."""
    x, y = tasks(3)[2][0]
    model.zero_grad()
    (F.cross_entropy(model(x.to(next(model.parameters()))), y) * scale).backward()
    return gradients(model)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def assert_same(first: nn.Module, second: nn.Module, **tolerance: float) -> None:
    """Parameters and running statistics."""
    given = tolerance or {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(dict(first.state_dict()), dict(second.state_dict()), **given)


def everything(plugin: RehearsalPlugin, model: nn.Module) -> Any:
    """All that a call which fails must leave alone."""
    return [
        plugin.state_dict(),
        {name: t.clone() for name, t in model.state_dict().items()},
        gradients(model),
        plugin.loss,
    ]


def assert_as_before(plugin: RehearsalPlugin, model: nn.Module, kept: Any) -> None:
    assert equal(everything(plugin, model), kept)


def equal(first: Any, second: Any) -> bool:
    """Bit for bit; one NaN is as another."""
    if isinstance(first, Tensor):
        same = (first == second) | ((first != first) & (second != second))
        return first.shape == second.shape and bool(same.all())
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)
