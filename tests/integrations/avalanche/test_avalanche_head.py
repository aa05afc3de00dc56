"""Hebb, MbPA and Mixture on the head of a strategy's model: what `clfast.attach` does by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from fake_strategy import FakeStrategy, Growing, batches, experience, loaded, network, same
from torch import Tensor, nn

import clfast
from clfast.integrations import avalanche
from clfast.memory import KeyValueMemory

METHODS = {"hebb": avalanche.Hebb, "mbpa": avalanche.MbPA, "mixture": avalanche.Mixture}


@pytest.mark.parametrize("arity", [2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_predictions_are_those_of_an_attachment(method: str, arity: int) -> None:
    strategy = FakeStrategy(network(), [METHODS[method]("classifier", k=5)])
    naive = FakeStrategy(network(), [])
    attachment = None
    for task in range(2):
        dataset = experience(task, arity=arity)
        strategy.train(dataset)
        naive.train(dataset)
        same(strategy.model, naive.model)  # training is as without
        attachment = attachment or clfast.attach(naive.model, "classifier", method=method, k=5)
        attachment.fit_memory((x, y) for x, y, *_ in loaded(dataset, 8))
        attachment.on_task_end()
    assert strategy.plugins[0].attachment is not None
    assert len(strategy.plugins[0].attachment.memory) == 48
    x = batches(experience(0, 10), 10)[0][0] + 0.1
    found = strategy.eval(x)
    torch.testing.assert_close(found, naive.eval(x), rtol=0, atol=0)
    assert attachment is not None
    attachment.detach()
    assert not torch.allclose(found, naive.eval(x), atol=1e-3)


def test_mini_batches_are_written_as_they_come() -> None:
    memory = KeyValueMemory(10)
    plugin = avalanche.Hebb("classifier", memory=memory, write="iteration")
    strategy = FakeStrategy(network(), [plugin])
    seen: list[int] = []

    class Counter:
        def before_training_iteration(self, strategy: FakeStrategy) -> None:
            seen.append(len(memory))

    strategy.plugins = [plugin, Counter()]
    strategy.train(experience(0))
    assert seen == [0, 8, 16]
    assert len(memory) == 24


class Replacing:
    """As GDumbPlugin: a deep copy of the model that was there first, for each experience."""

    first: nn.Module | None = None

    def before_train_dataset_adaptation(self, strategy: FakeStrategy) -> None:
        if self.first is None:
            self.first = copy.deepcopy(strategy.model)
        else:
            strategy.model = copy.deepcopy(self.first)
            strategy.optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.05)


@pytest.mark.parametrize("known", [False, True], ids=["fresh", "copied with its attachment"])
def test_a_model_that_is_replaced_is_followed(known: bool) -> None:
    """Keys of the model before mean nothing to the next one."""
    plugin = avalanche.Hebb("classifier", k=5)
    strategy = FakeStrategy(network(), [plugin, Replacing()])
    if known:
        strategy.eval(torch.ones(1, 1, 2, 3))  # the copy is made of a model with an attachment
    strategy.train(experience(0))
    before = strategy.model
    strategy.train(experience(1))
    assert strategy.model is not before
    attachment = plugin.attachment
    assert attachment is not None
    assert attachment.model is strategy.model
    assert len(attachment.memory) == 24  # of the second experience alone
    assert set(attachment.memory.values.tolist()) == {2, 3}
    x = torch.randn(4, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(before.eval()(x), plain(before)(x), rtol=0, atol=0)
    assert not torch.allclose(strategy.eval(x), plain(strategy.model)(x), atol=1e-3)


def plain(model: nn.Module) -> nn.Module:
    """The same parameters without hooks."""
    made = network().eval()
    made.load_state_dict(model.state_dict())
    return made


def test_a_head_that_grows() -> None:
    plugin = avalanche.Hebb("classifier", k=5)
    strategy = FakeStrategy(network(2), [plugin, Growing()])
    for task in range(3):
        strategy.train(experience(task))
    assert strategy.eval(torch.ones(2, 1, 2, 3)).shape == (2, 8)
    assert plugin.attachment is not None
    assert len(plugin.attachment.memory) == 72


def test_samples_of_a_device_and_a_size() -> None:
    sizes: list[int] = []
    plugin = avalanche.Hebb("classifier", mb_size=10)
    strategy = FakeStrategy(network(), [plugin])
    strategy.eval(torch.ones(1, 1, 2, 3))

    def seen(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        if not module.training:
            sizes.append(len(args[0]))

    strategy.model.features.register_forward_hook(seen)
    strategy.train(experience(0, 24))
    assert sizes == [10, 10, 4]
