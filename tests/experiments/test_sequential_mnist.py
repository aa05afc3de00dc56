"""Sequential MNIST-5k-5 on made-up digits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clfast.experiments.images import Images
from clfast.experiments.sequential_mnist import (
    METHODS,
    RECALL,
    SequentialMnist,
    learner,
    run,
    stream_of,
)
from clfast.methods import ARM

TINY = SequentialMnist(
    recall=replace(RECALL, steps=2), samples=30, batch=10, hidden=20, seeds=2, threads=1
)


@pytest.fixture(scope="module")
def images() -> Images:
    """A blob a digit, and noise."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(10).repeat(40)
    x = 0.3 * torch.rand(400, 1, 28, 28, generator=generator)
    for digit in range(10):
        x[y == digit, :, 2 * digit : 2 * digit + 6, 4:24] += 0.7
    return Images((x, y), (x[:100], y[:100]), (x[200:], y[200:]))


def test_a_stream_has_five_tasks_of_two_digits(images: Images) -> None:
    stream = stream_of(TINY, images, 3)
    assert [task.classes for task in stream] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert all(task.train.y.bincount(minlength=10).amax() == 30 for task in stream)
    again, other = stream_of(TINY, images, 3), stream_of(TINY, images, 4)
    assert torch.equal(stream[1].train.x, again[1].train.x)
    assert not torch.equal(stream[1].train.x, other[1].train.x)


def test_methods_begin_with_the_same_network() -> None:
    models = [learner(name, TINY, 5).state_dict()["model"] for name in TINY.methods]
    for other in models[1:]:
        assert all(torch.equal(models[0][name], other[name]) for name in models[0])
    with pytest.raises(ValueError, match="methods must be"):
        learner("EWC", TINY, 0)


def test_a_run(images: Images, tmp_path: Path) -> None:
    table, plot = run(TINY, images, tmp_path / "run")
    assert [row[0] for row in table.rows] == list(METHODS)
    assert plot.read_bytes()[:4] == b"\x89PNG"
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    for line in lines:
        for record in line["results"].values():
            assert 0 <= record["accuracy"] <= 1
            last = record["matrix"][-1]
            assert record["accuracy"] == pytest.approx(sum(last) / 5)
        # Plain training knows the last task and none before it.
        assert line["results"]["SGD"]["matrix"][-1][0] < 0.5
    again, _ = run(TINY, images, tmp_path / "run")
    assert again.to_json() == table.to_json()


def test_recalled_images_are_shown_and_change_nothing(images: Images, tmp_path: Path) -> None:
    config = replace(TINY, methods=("ARM", "ADI", "SGD"), seeds=1)
    run(config, images, tmp_path / "with", save_recall=True)
    run(config, images, tmp_path / "without")
    found = []
    for name in ("with", "without"):
        line = json.loads((tmp_path / name / "metrics.jsonl").read_text())
        found.append({method: record["matrix"] for method, record in line["results"].items()})
    assert found[0] == found[1]
    pictures = sorted(path.name for path in (tmp_path / "with").glob("recalled-*.png"))
    assert pictures == ["recalled-adi.png", "recalled-arm.png"]
    assert not list((tmp_path / "without").glob("recalled-*.png"))


def test_buffers_hold_what_the_configuration_says(images: Images) -> None:
    config = replace(TINY, memory=20, replay=3)
    assert learner("ER-MIR", config, 0).memory.capacity == 20
    assert learner("ER", config, 0).replay == 3
    assert learner("GEM", config, 0).per_task == 4


def test_options_reach_the_learner() -> None:
    config = replace(TINY, recall=replace(RECALL, steps=7, diversity=0.0, start="noise"))
    method = learner("ARM", config, 0)
    assert isinstance(method, ARM)
    options = method._recall.options
    assert (options.steps, options.diversity, options.start) == (7, 0.0, "noise")
