"""Experiences that JointTraining joins, and mini-batches that a replay has joined to past ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_strategy import FakeStrategy, Sample, experience, loaded, network, parameters

from clfast.integrations import avalanche
from clfast.memory import ReplayBuffer
from clfast.plugins import EWC, RehearsalPlugin


class Joint(FakeStrategy):
    """As JointTraining: one run over all experiences, of which the first is the strategy's."""

    def train_on_all(self, datasets: list[list[Sample]]) -> None:
        self._experiences = [SimpleNamespace(dataset=dataset) for dataset in datasets]
        self.joined = [sample for dataset in datasets for sample in dataset]
        self.train(datasets[0])

    def batches(self, dataset: Any) -> Any:
        return super().batches(self.joined)


class Updating:
    """The part of ReplayPlugin that asks a policy to store."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def after_training_exp(self, strategy: FakeStrategy) -> None:
        self.policy.update(strategy)


@pytest.mark.parametrize("arity", [2, 3])
def test_all_that_was_joined_is_stored(arity: int) -> None:
    replay = avalanche.Replay(100)
    er = avalanche.ER(memory=ReplayBuffer(100))
    hebb = avalanche.Hebb("classifier", k=5)
    policy = avalanche.HerdingBuffer(12, "classifier")
    ewc = avalanche.EWC(strength=0.0)
    strategy = Joint(network(), [replay, er, ewc, hebb, Updating(policy)])
    datasets = [experience(task, arity=arity) for task in range(3)]
    strategy.train_on_all(datasets)
    assert replay.buffer.counts(6).tolist() == [12] * 6
    assert isinstance(er.plugin, RehearsalPlugin)
    assert er.plugin.memory is not None
    assert er.plugin.memory.counts(6).tolist() == [12] * 6
    assert hebb.attachment is not None
    assert hebb.attachment.memory.values.bincount().tolist() == [12] * 6
    assert [y for _, y, *_ in policy.buffer] == sorted(list(range(6)) * 2)
    hebb.attachment.detach()
    plain = EWC(strategy.model, strength=0.0)
    plain.on_task_end(loaded(strategy.joined, 8))
    torch.testing.assert_close(ewc.state_dict(), plain.state_dict(), rtol=0, atol=0)


STORING = {
    "ER": lambda: avalanche.ER(memory=ReplayBuffer(100), store="iteration"),
    "GEM": lambda: avalanche.GEM(per_task=50, store="iteration"),
    "Hebb": lambda: avalanche.Hebb("classifier", write="iteration"),
    "Replay": lambda: avalanche.Replay(100, store="iteration"),
}


@pytest.mark.parametrize("name", STORING)
@pytest.mark.parametrize("size", [8, 40], ids=["mini-batches", "all at once"])
def test_what_is_replayed_is_not_stored_again(name: str, size: int) -> None:
    strategy = FakeStrategy(network(), [avalanche.Replay(10), STORING[name]()], size=size)
    strategy.train(experience(0))
    before = parameters(strategy.model)
    most, count = min(size, 24), min(size, 24) + min(size, 10)
    with pytest.raises(
        RuntimeError, match=rf"^{name}: .* this one has {count} samples, more than the {most} of"
    ):
        strategy.train(experience(1))
    torch.testing.assert_close(parameters(strategy.model), before, rtol=0, atol=0)
