"""Past samples in the mini-batches of a strategy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fake_strategy import FakeStrategy, experience, network, same

from clfast.integrations import avalanche
from clfast.memory import ReplayBuffer


class Watcher:
    """Keeps what criterion and model see."""

    def __init__(self) -> None:
        self.seen: list[list[torch.Tensor]] = []

    def before_forward(self, strategy: FakeStrategy) -> None:
        self.seen.append([part.clone() for part in strategy.mbatch])


def run(plugin: avalanche.Replay, *, arity: int = 2, tasks: int = 3) -> list[list[torch.Tensor]]:
    watcher = Watcher()
    strategy = FakeStrategy(network(), [plugin, watcher])
    for task in range(tasks):
        strategy.train(experience(task, arity=arity))
    return watcher.seen


@pytest.mark.parametrize("policy", ["class_balanced", "reservoir", "ring"])
@pytest.mark.parametrize("arity", [2, 3])
def test_new_samples_are_followed_by_past_ones(arity: int, policy: Any) -> None:
    plugin = avalanche.Replay(20, policy=policy, batch_size_mem=6)
    seen = run(plugin, arity=arity)
    assert [len(batch) for batch in seen] == [arity] * 9
    assert [len(batch[0]) for batch in seen] == [8] * 3 + [14] * 6
    plain = run(avalanche.Replay(20), tasks=1)
    for batch, new in zip(seen[:3], plain, strict=True):
        assert torch.equal(batch[0], new[0])
    past = {tuple(x.flatten().tolist()): y for x, y, *_ in experience(0)}
    for batch in seen[3:6]:
        assert set(batch[1][:8].tolist()) == {2, 3}
        old = batch[0][8:]
        assert len(old.unique(dim=0)) == 6  # without replacement
        for x, y in zip(old, batch[1][8:].tolist(), strict=True):
            assert past[tuple(x.flatten().tolist())] == y
        if arity == 3:
            assert batch[2].tolist() == [1] * 8 + [0] * 6
    assert len(plugin.buffer) == 20
    assert plugin.buffer.rows.keys() == ({"x", "y"} if arity == 2 else {"x", "y", "task"})
    if policy == "class_balanced":
        assert sorted(plugin.buffer.counts(6).tolist()) == [3, 3, 3, 3, 4, 4]


def test_as_many_as_the_mini_batch_and_no_more_than_there_are() -> None:
    assert [len(batch[0]) for batch in run(avalanche.Replay(20))] == [8] * 3 + [16] * 6
    small = run(avalanche.Replay(4, batch_size_mem=100))
    assert [len(batch[0]) for batch in small] == [8] * 3 + [12] * 6


def test_a_stream_that_is_seen_once() -> None:
    """Mini-batches are stored after their step, and what was replayed is not stored again."""
    plugin = avalanche.Replay(100, store="iteration", batch_size_mem=5)
    seen = run(plugin)
    assert [len(batch[0]) for batch in seen] == [8] + [13] * 8
    assert len(plugin.buffer) == 72
    assert len(plugin.buffer.rows["x"].unique(dim=0)) == 72


def test_the_step_is_on_both() -> None:
    """A strategy that is given the joined mini-batches steps as one that replays."""
    plugin = avalanche.Replay(20, generator=torch.Generator().manual_seed(5))
    strategy = FakeStrategy(network(), [plugin])
    strategy.train(experience(0))
    model = network()
    model.load_state_dict(strategy.model.state_dict())
    buffer = ReplayBuffer(20, policy="class_balanced")
    buffer.load_state_dict(plugin.state_dict())
    strategy.train(experience(1, 8))
    drawn = buffer.sample(8)
    joined = [*experience(1, 8), *zip(drawn["x"], drawn["y"], strict=True)]
    plain = FakeStrategy(model, [], size=16)
    plain.train(joined)
    same(strategy.model, model)


def test_a_state_goes_on() -> None:
    plugin, other = avalanche.Replay(20), avalanche.Replay(20)
    strategy = FakeStrategy(network(), [plugin, Watcher()])
    for task in range(2):
        strategy.train(experience(task))
    other.load_state_dict(plugin.state_dict())
    for each in (strategy, FakeStrategy(network(), [other, Watcher()])):
        each.train(experience(0))
        assert [len(batch[0]) for batch in each.plugins[1].seen[-3:]] == [16] * 3
    for name in ("x", "y"):
        assert torch.equal(plugin.buffer.rows[name], other.buffer.rows[name])
