"""The network, the tasks and the plain loop that Lightning's callbacks are compared to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clfast.memory import ReplayBuffer
from clfast.plugins import AGEM, ER, EWC, GEM, MAS, SI, OnlineEWC, Plugin, RWalk

Batch = tuple[Tensor, Tensor]

PLUGINS: dict[str, Callable[[nn.Module], Plugin]] = {
    "EWC": lambda model: EWC(model, strength=5.0),
    "OnlineEWC": lambda model: OnlineEWC(model, strength=5.0),
    "SI": lambda model: SI(model, strength=5.0),
    "MAS": lambda model: MAS(model, strength=5.0),
    "RWalk": lambda model: RWalk(model, strength=5.0),
    "ER": lambda model: ER(model, ReplayBuffer(20), replay=6),
    "AGEM": lambda model: AGEM(model, ReplayBuffer(20), replay=6),
    "GEM": lambda model: GEM(model, per_task=10),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))


def tasks() -> list[list[Batch]]:
    rng = torch.Generator().manual_seed(1)
    return [
        [
            (torch.randn(n, 5, generator=rng), torch.randint(4, (n,), generator=rng))
            for n in (8, 8, 4, 8)
        ]
        for _ in range(2)
    ]


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def tasks_ended(plugin: Plugin) -> int:
    state = plugin.state_dict()
    ended: int = state["tasks"] if "tasks" in state else state["task"]
    return ended


def plain_loop(
    model: nn.Module,
    plugins: Sequence[Plugin],
    *,
    epochs: int = 1,
    accumulate: int = 1,
    clip: float | None = None,
) -> None:
    for batches in tasks():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(epochs):
            for index, (x, y) in enumerate(batches):
                (F.cross_entropy(model(x), y) / accumulate).backward()
                if (index + 1) % accumulate:
                    continue
                for plugin in plugins:
                    plugin.after_backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
                for plugin in plugins:
                    plugin.after_step()
        for plugin in plugins:
            plugin.on_task_end(batches)
