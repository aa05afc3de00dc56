"""Plugins for any loop, in a strategy: the calls of a loop written out, at the same places."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fake_strategy import (
    FakeStrategy,
    Growing,
    batches,
    experience,
    grown,
    loaded,
    network,
    parameters,
    same,
)
from torch import Tensor, nn

from clfast import plugins
from clfast.integrations import avalanche
from clfast.memory import ReplayBuffer
from clfast.plugins import Plugin

PENALTIES: dict[str, dict[str, Any]] = {
    "EWC": {"strength": 3.0},
    "OnlineEWC": {"strength": 3.0, "gamma": 0.5},
    "SI": {"strength": 0.5},
    "MAS": {"strength": 0.1},
    "RWalk": {"strength": 0.5},
}


@pytest.mark.parametrize("arity", [2, 3])
@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_is_that_of_the_loop(name: str, arity: int) -> None:
    options = PENALTIES[name]
    adapter = getattr(avalanche, name)(**options)
    strategy = FakeStrategy(network(), [adapter])
    model = network()
    plugin = getattr(plugins, name)(model, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for task in range(3):
        dataset = experience(task, arity=arity)
        strategy.train(dataset)
        for x, y, *_ in batches(dataset, 8):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            plugin.after_backward()
            optimizer.step()
            plugin.after_step()
        plugin.on_task_end(loaded(dataset, 8))
        same(strategy.model, model)
    assert adapter.plugin.tasks == 3
    naive = FakeStrategy(network(), [])
    for task in range(3):
        naive.train(experience(task, arity=arity))
    assert not torch.equal(naive.model.classifier.weight, strategy.model.classifier.weight)


class Recorder(Plugin):
    """Writes down what it is called for."""

    def __init__(self, model: nn.Module, *, weight: float = 2.0) -> None:
        self.model, self.weight = model, weight
        self.calls: list[str] = []

    def before_backward(self, loss: Tensor) -> Tensor:
        assert all(p.grad is None for p in self.model.parameters())
        self.calls.append("before_backward")
        return loss + self.weight

    def after_backward(self, *, scale: float = 1.0) -> None:
        assert scale == 1
        assert all(p.grad is not None for p in self.model.parameters())
        self.before = parameters(self.model)
        self.calls.append("after_backward")

    def after_step(self) -> None:
        assert not torch.equal(self.before["classifier.bias"], self.model.classifier.bias)
        self.calls.append("after_step")

    def on_task_end(self, loader: Any = None) -> None:
        sizes = [len(x) for x, *_ in loader]
        self.calls.append(f"on_task_end {sizes}")

    def state_dict(self) -> dict[str, Any]:
        return {"calls": list(self.calls)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.calls = list(state_dict["calls"])


def test_the_order_of_the_calls() -> None:
    adapter = avalanche.Adapter(Recorder, mb_size=10, weight=5.0)
    strategy = FakeStrategy(network(), [adapter])
    step = ["before_backward", "after_backward", "after_step"]
    for task in range(2):
        strategy.train(experience(task, 16))
    assert isinstance(adapter.plugin, Recorder)
    assert adapter.plugin.calls == 2 * (2 * step + ["on_task_end [10, 6]"])
    assert min(strategy.losses) > 5


def test_without_a_size_batches_are_those_of_training() -> None:
    adapter = avalanche.Adapter(Recorder)
    FakeStrategy(network(), [adapter], size=5).train(experience(0, 12))
    assert isinstance(adapter.plugin, Recorder)
    assert adapter.plugin.calls[-1] == "on_task_end [5, 5, 2]"


def test_a_state_that_waits_is_saved_again() -> None:
    strategy = FakeStrategy(network(), [avalanche.EWC(strength=3.0)])
    strategy.train(experience(0))
    state, adapter = strategy.plugins[0].state_dict(), avalanche.EWC(strength=3.0)
    adapter.load_state_dict(state)
    torch.testing.assert_close(adapter.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("begun", [False, True], ids=["before", "in between"])
def test_a_state_goes_on(begun: bool) -> None:
    """A new strategy with a loaded model and a loaded state is the strategy before."""
    strategy = FakeStrategy(network(), [avalanche.EWC(strength=3.0)])
    strategy.train(experience(0))
    adapter, model = avalanche.EWC(strength=3.0), network(seed=1)
    other = FakeStrategy(model, [adapter])
    if begun:
        other.train(experience(0))
    model.load_state_dict(strategy.model.state_dict())
    adapter.load_state_dict(strategy.plugins[0].state_dict())
    for each in (strategy, other):
        each.train(experience(1))
    same(strategy.model, other.model)
    assert adapter.plugin is not None
    torch.testing.assert_close(
        adapter.state_dict(), strategy.plugins[0].state_dict(), rtol=0, atol=0
    )
    assert avalanche.EWC(strength=3.0).state_dict() == {}


def test_the_loss_of_the_strategy_is_the_task_s_alone() -> None:
    """The closed form is no part of the graph, and is none of the loss."""
    plain, pulled = (
        FakeStrategy(network(), []),
        FakeStrategy(network(), [avalanche.MAS(strength=9.0)]),
    )
    for strategy in (plain, pulled):
        strategy.train(experience(0))
        strategy.train(experience(1, 8))
    assert plain.losses == pulled.losses


def rehearsal(name: str) -> dict[str, Any]:
    if name == "GEM":
        return {"per_task": 6}
    lr = {"lr": 0.05} if name == "ERMIR" else {}
    return {"memory": ReplayBuffer(12), "replay": 5, **lr}


@pytest.mark.parametrize("store", ["experience", "iteration"])
@pytest.mark.parametrize("arity", [2, 3])
@pytest.mark.parametrize("name", ["ER", "ERMIR", "AGEM", "GEM"])
def test_rehearsal_is_that_of_the_loop(name: str, arity: int, store: str) -> None:
    adapter = getattr(avalanche, name)(store=store, **rehearsal(name))
    strategy = FakeStrategy(network(), [adapter])
    model = network()
    plugin = getattr(plugins, name)(model, **rehearsal(name))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for task in range(3):
        dataset = experience(task, arity=arity)
        strategy.train(dataset)
        for x, y, *_ in batches(dataset, 8):
            optimizer.zero_grad()
            plugin.before_backward(F.cross_entropy(model(x), y)).backward()
            plugin.after_backward()
            optimizer.step()
            if store == "iteration":
                plugin.store(x, y)
        plugin.on_task_end(loaded(dataset, 8))
        same(strategy.model, model)
    assert adapter.plugin.task == 3
    assert adapter.plugin.loss is not None


@pytest.mark.parametrize("arity", [2, 3])
def test_lwf_is_that_of_the_loop(arity: int) -> None:
    """With a head that grows, whose new outputs the teacher has not."""
    adapter = avalanche.LwF(strength=2.0, temperature=2.0)
    strategy = FakeStrategy(network(2), [Growing(), adapter])
    model = network(2)
    teacher: nn.Module | None = None
    for task in range(3):
        dataset = experience(task, arity=arity)
        torch.manual_seed(task)
        strategy.train(dataset)
        torch.manual_seed(task)
        model.classifier = grown(model.classifier)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for x, y, *_ in batches(dataset, 8):
            optimizer.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            if teacher is not None:
                with torch.no_grad():
                    target = (teacher(x)[:, : 2 * task] / 2).softmax(1)
                mine = (logits[:, : 2 * task] / 2).log_softmax(1)
                loss = loss + 2 * F.kl_div(mine, target, reduction="batchmean")
            loss.backward()
            optimizer.step()
        teacher = copy.deepcopy(model).eval()
        torch.testing.assert_close(parameters(strategy.model), parameters(model))
    assert adapter.plugin is not None


class Passing:
    """As MIRPlugin: a pass of its own before the backward one."""

    def before_backward(self, strategy: FakeStrategy) -> None:
        replayed = strategy.model(torch.ones(3, 1, 2, 3))
        strategy.loss = strategy.loss + F.cross_entropy(replayed, torch.zeros(3).long())


def test_lwf_is_of_the_strategy_s_own_pass() -> None:
    """Whether another plugin makes its pass before or after it."""
    found = []
    for plugins_of in (
        [Passing(), avalanche.LwF(strength=2.0)],
        [avalanche.LwF(strength=2.0), Passing()],
    ):
        strategy = FakeStrategy(network(), plugins_of)
        for task in range(2):
            strategy.train(experience(task))
        found.append(parameters(strategy.model))
    torch.testing.assert_close(found[0], found[1])
