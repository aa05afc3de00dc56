"""Plugins for a model on a GPU learn what they learn on the CPU; named after their ops, so that
`make gpu-check` finds it."""

from __future__ import annotations

from typing import Any

import lwf_cases
import penalty_cases
import pytest
import rehearsal_cases
import torch
from torch import Tensor, nn

from clfast import ops
from clfast.memory import ReplayBuffer
from clfast.nn import resnet18
from clfast.plugins import AGEM, ER, ERMIR, GEM, LwF, Plugin

pytestmark = pytest.mark.cuda

Batch = tuple[Tensor, Tensor]


def moved(tasks: list[list[Batch]], device: str) -> list[list[Batch]]:
    return [[(x.to(device), y.to(device)) for x, y in batches] for batches in tasks]


def assert_same(states: list[dict[str, Tensor]]) -> None:
    wanted, got = ({name: t.cpu() for name, t in state.items()} for state in states)
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("how", ["after", "before"])
@penalty_cases.every_plugin
def test_penalties(name: str, how: str) -> None:
    found, importances = [], []
    for device in ("cpu", "cuda"):
        model = penalty_cases.network().to(device)
        plugin = penalty_cases.PLUGINS[name](model)
        for batches in moved(penalty_cases.tasks(), device):
            penalty_cases.train(plugin, model, batches, lr=0.02, how=how)
            plugin.on_task_end(batches)
        found.append(model.state_dict())
        importances.append(plugin.state_dict()["importances"])
    assert all(t.is_cuda for t in importances[1].values())
    assert_same(found)
    assert_same(importances)


REHEARSAL: dict[str, Any] = {
    "ER": lambda model, device: ER(model, ReplayBuffer(14, device=device), replay=5),
    "ERMIR": lambda model, device: ERMIR(
        model, ReplayBuffer(14, device=device), replay=5, lr=rehearsal_cases.LR, candidates=9
    ),
    "AGEM": lambda model, device: AGEM(model, ReplayBuffer(14, device=device), replay=5),
    "GEM": lambda model, device: GEM(model, per_task=6),
}


@pytest.mark.parametrize("buffer", ["cpu", "cuda"])
@pytest.mark.parametrize("name", REHEARSAL)
def test_stored_samples(name: str, buffer: str) -> None:
    found = []
    for device, place in (("cpu", "cpu"), ("cuda", buffer)):
        model = rehearsal_cases.network().to(device)
        plugin = REHEARSAL[name](model, place)
        for batches in moved(rehearsal_cases.tasks(), device):
            rehearsal_cases.train(plugin, model, batches)
            plugin.on_task_end(batches)
        found.append(model.state_dict())
    assert_same(found)


def test_lwf() -> None:
    found = []
    for device in ("cpu", "cuda"):
        model = rehearsal_cases.network().to(device)
        plugin = LwF(model)
        for batches in moved(rehearsal_cases.tasks(), device):
            lwf_cases.train(plugin, model, batches)
            plugin.on_task_end(batches)
        found.append(model.state_dict())
    assert_same(found)


def plugins_of(model: nn.Module) -> list[Plugin]:
    penalties = [penalty_cases.PLUGINS[name](model) for name in ("EWC", "SI", "MAS", "RWalk")]
    return [*penalties, *(make(model, "cuda") for make in REHEARSAL.values())]


def test_states_come_back_on_the_gpu() -> None:
    model = rehearsal_cases.network().cuda()
    (batches,) = moved(rehearsal_cases.tasks(1), "cuda")
    for plugin, fresh in zip(plugins_of(model), plugins_of(model), strict=True):
        x, y = batches[0]
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        plugin.after_backward()
        plugin.after_step()
        plugin.on_task_end(batches)
        fresh.load_state_dict(plugin.state_dict())
        assert rehearsal_cases.equal(fresh.state_dict(), plugin.state_dict())


@pytest.mark.parametrize("op", ["fisher", "mas"])
def test_importances_of_a_residual_network(op: str) -> None:
    torch.manual_seed(0)
    model = resnet18(10, width=4).double().eval()
    x, y = torch.randn(6, 3, 16, 16).double(), torch.arange(6)
    found = []
    for device in ("cpu", "cuda"):
        model.to(device)
        given = x.to(device)
        if op == "fisher":
            found.append(ops.per_sample_fisher(model, given, y.to(device)))
        else:
            found.append(ops.mas_importance(model, given))
    assert_same(found)
