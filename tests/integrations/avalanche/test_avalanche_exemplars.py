"""Exemplars of a strategy's experiences: those of the selections of `clfast.methods`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fake_strategy import FakeStrategy, batches, experience, network, parameters
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader

import clfast
from clfast import ops
from clfast.integrations import avalanche
from clfast.methods import RandomSelection
from clfast.methods.exemplar_selection import Exemplars


class Storing:
    """The part of ReplayPlugin that asks a policy to store."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def after_training_exp(self, strategy: FakeStrategy) -> None:
        self.policy.update(strategy)


def trained(policy: Any, tasks: int, *, arity: int = 2) -> FakeStrategy:
    strategy = FakeStrategy(network(), [Storing(policy)])
    for task in range(tasks):
        strategy.train(experience(task, arity=arity))
    return strategy


def labels(policy: Any) -> list[int]:
    return [sample[1] for sample in policy.buffer]


@pytest.mark.parametrize("normalize", [True, False])
def test_herding(normalize: bool) -> None:
    """The picks of the greedy loop on the head's inputs, class by class."""
    policy = avalanche.HerdingBuffer(11, "classifier", normalize=normalize)
    strategy = trained(policy, 1)
    (x, y), count = batches(experience(0), 24)[0], 5
    features = strategy.model.features(x).detach().double()
    if normalize:
        features = F.normalize(features)
    expected: list[Tensor] = []
    for label in (0, 1):
        rows = (y == label).nonzero()[:, 0]
        mean, total, left = features[rows].mean(0), torch.zeros(10).double(), rows.tolist()
        for k in range(1, count + 1):
            best = min(left, key=lambda r: float((mean - (total + features[r]) / k).norm()))
            left.remove(best)
            total += features[best]
            expected.append(x[best])
    assert policy.exemplars is not None
    torch.testing.assert_close(policy.exemplars.x, torch.stack(expected), rtol=0, atol=0)
    assert policy.exemplars.y.tolist() == [0] * 5 + [1] * 5


def test_old_classes_keep_their_first() -> None:
    policy = avalanche.HerdingBuffer(12, "classifier")
    strategy = trained(policy, 1)
    first = policy.exemplars
    assert first is not None
    assert labels(policy) == [0] * 6 + [1] * 6
    strategy.train(experience(1))
    assert labels(policy) == sorted([0, 1, 2, 3] * 3)
    assert torch.equal(policy.exemplars.x[:3], first.x[:3])
    assert torch.equal(policy.exemplars.x[3:6], first.x[6:9])
    policy.resize(strategy, 8)
    assert policy.max_size == 8
    assert labels(policy) == sorted([0, 1, 2, 3] * 2)
    assert torch.equal(policy.exemplars.x[:2], first.x[:2])


class Shifting(RandomSelection):
    def adjust(
        self, network: Any, exemplars: Exemplars, *, generator: torch.Generator
    ) -> Exemplars:
        return Exemplars(exemplars.x + 1, exemplars.y)


def test_old_classes_are_adjusted() -> None:
    """By the selection, and those of the experience are not."""
    policy = avalanche.ExemplarBuffer(12, "classifier", Shifting())
    strategy = trained(policy, 1)
    first = policy.exemplars
    assert first is not None
    strategy.train(experience(1))
    assert torch.equal(policy.exemplars.x[:6], first.x[[0, 1, 2, 6, 7, 8]] + 1)
    stream = {tuple(x.flatten().tolist()) for x, _ in experience(1)}
    assert {tuple(x.flatten().tolist()) for x in policy.exemplars.x[6:]} <= stream


def test_a_class_that_comes_again_is_selected_from_all_there_is() -> None:
    policy = avalanche.HerdingBuffer(8, "classifier")
    strategy = trained(policy, 1)
    stored = policy.exemplars
    assert stored is not None
    again = [(x + 0.5, 0) for x, y in experience(0) if y == 0][:3]
    strategy.train(again)
    pool = torch.cat([torch.stack([x for x, _ in again]), stored.x[:4]])
    features = F.normalize(strategy.model.features(pool).detach())
    (picks,) = ops.herding(features, torch.zeros(7, dtype=torch.int64), 4)
    assert labels(policy) == [0] * 4 + [1] * 4
    assert torch.equal(policy.exemplars.x[:4], pool[picks])
    assert torch.equal(policy.exemplars.x[4:], stored.x[4:])


def test_a_class_of_few_samples_gives_all() -> None:
    policy = avalanche.ExemplarBuffer(12, "classifier", RandomSelection())
    strategy = FakeStrategy(network(), [Storing(policy)])
    few = [sample for sample in experience(0) if sample[1] == 1][:2]
    strategy.train([sample for sample in experience(0) if sample[1] == 0] + few)
    assert labels(policy) == [0] * 6 + [1] * 2


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("arity", [2, 3])
def test_samples_are_like_the_stream_s(arity: int, as_tensor: bool) -> None:
    """A loader puts them together with those of the stream."""
    policy = avalanche.HerdingBuffer(8, "classifier")
    assert len(policy.buffer) == 0
    strategy = FakeStrategy(network(), [Storing(policy)])
    stream: list[Any] = []
    for task in range(2):
        made = experience(task, arity=arity)
        if as_tensor:
            made = [(x, torch.tensor(y), *rest) for x, y, *rest in made]
        strategy.train(made)
        stream += made
    parts: list[Any] = [stream, policy.buffer]
    joined: Any = ConcatDataset(parts)
    (batch,) = DataLoader(joined, batch_size=100)
    assert len(batch) == arity
    assert batch[1].tolist() == [y for _, y, *_ in stream] + [0, 0, 1, 1, 2, 2, 3, 3]
    if arity == 3:
        assert batch[2].tolist() == [0] * 24 + [1] * 24 + [0] * 4 + [1] * 4
    assert policy.buffer.targets == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("objective", ["bop_full", "bop_fc", "proto"])
def test_mnemonics_are_trained(objective: str) -> None:
    options: dict[str, Any] = {"objective": objective, "epochs": 3, "steps": 2, "lr": 1.0}
    policy = avalanche.MnemonicsBuffer(8, "classifier", **options, seed=3)
    strategy = trained(policy, 1)
    assert policy.exemplars is not None
    first = policy.exemplars.x
    real = torch.stack([x for x, _ in experience(0)])
    distances = torch.cdist(first.flatten(1), real.flatten(1)).amin(1)
    assert bool((distances > 0).all())
    losses = policy.selection.select_losses
    assert losses[-1] < losses[0]
    before = parameters(strategy.model)
    policy.update(strategy)
    torch.testing.assert_close(parameters(strategy.model), before, rtol=0, atol=0)
    strategy.train(experience(1))
    assert labels(policy) == sorted([0, 1, 2, 3] * 2)
    again = avalanche.MnemonicsBuffer(8, "classifier", **options, seed=3)
    trained(again, 1)
    assert again.exemplars is not None
    assert torch.equal(again.exemplars.x, first)


def test_a_head_that_adapts_does_not_judge() -> None:
    """Features are the head's inputs, whoever is attached to it."""
    plain, attached = (avalanche.HerdingBuffer(8, "classifier") for _ in range(2))
    trained(plain, 2)
    strategy = FakeStrategy(network(), [avalanche.Hebb("classifier"), Storing(attached)])
    for task in range(2):
        strategy.train(experience(task))
    assert plain.exemplars is not None
    assert attached.exemplars is not None
    assert torch.equal(plain.exemplars.x, attached.exemplars.x)
    assert clfast.methods.attachment.attached(strategy.model) is not None
