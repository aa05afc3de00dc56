"""Permuted MNIST in small: the protocol, the run folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clfast.experiments.images import NUM_CLASSES, Images
from clfast.experiments.permuted_mnist import PermutedMnist, Trial, run

TINY = PermutedMnist(
    tasks=3,
    samples=200,
    epochs=4,
    batch=20,
    hidden=30,
    fisher_samples=100,
    stored=(20, 40),
    k=10,
    queries=60,
    evaluated=(1, 3),
    seeds=2,
    threads=1,
)


@pytest.fixture(scope="module")
def images() -> Images:
    """Ten patterns of 6 x 6 under noise."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(NUM_CLASSES, 1, 6, 6, generator=generator)

    def samples(count: int) -> tuple[Tensor, Tensor]:
        y = torch.randint(NUM_CLASSES, (count,), generator=generator)
        noise = 0.3 * torch.rand(count, 1, 6, 6, generator=generator)
        return patterns[y] + noise, y

    return Images(samples(300), samples(10), samples(100))


def test_a_trial(images: Images) -> None:
    state = torch.get_rng_state()
    trial = Trial(TINY, images, seed=0)
    for task in range(TINY.tasks):
        trial.learn(task)
        assert [len(m) for m in trial._memories.values()] == [20 * (task + 1), 40 * (task + 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert [len(t.train.y) for t in trial.stream] == [200] * 3
    found = {record["method"]: record for record in trial.accuracies(3)}
    assert list(found) == TINY.methods
    assert all(0 <= r["accuracy"] <= 1 for r in found.values())
    # The network of "MLP" and its neighbours of earlier tasks know more than the network alone.
    assert found["MbPA (40 a task)"]["accuracy"] > found["MLP"]["accuracy"]
    again = Trial(TINY, images, seed=0)
    for task in range(TINY.tasks):
        again.learn(task)
    accuracies = [r["accuracy"] for r in again.accuracies(3)]
    assert accuracies == [r["accuracy"] for r in found.values()]


def test_a_run_goes_on_with_the_seeds_that_are_missing(images: Images, tmp_path: Path) -> None:
    table, _ = run(replace(TINY, seeds=1), images, tmp_path / "one")
    assert [row[0] for row in table.rows] == TINY.methods
    assert len(table.columns) == 3
    table, plot = run(TINY, images, tmp_path / "two")
    written = (tmp_path / "two" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    assert plot.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "two" / "metrics.jsonl").write_text(json.dumps(lines[0]) + "\n")
    resumed, _ = run(TINY, images, tmp_path / "two")
    assert [row[:3] for row in resumed.rows] == [row[:3] for row in table.rows]


def test_without_memories_the_networks_learn_the_same(images: Images, tmp_path: Path) -> None:
    config = replace(TINY, seeds=1)
    whole, _ = run(config, images, tmp_path / "whole")
    networks, _ = run(replace(config, stored=()), images, tmp_path / "networks")
    assert networks.rows == whole.rows[:2]


def test_evaluations_beyond_the_tasks_are_refused(images: Images, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluated must be numbers of tasks in \[1, 3\]"):
        run(replace(TINY, evaluated=(1, 4)), images, tmp_path)
