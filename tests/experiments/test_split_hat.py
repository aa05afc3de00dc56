"""Split MNIST with a head for every task, on made-up images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from clfast.cli import main
from clfast.experiments.images import Samples
from clfast.experiments.split_hat import (
    METHODS,
    Shuffled,
    SplitHAT,
    learner,
    one_run,
    run,
    stream_of,
)
from clfast.methods import HAT, Finetune

TINY = SplitHAT(
    widths=(30, 30),
    epochs=2,
    batch=16,
    sparsity=0.1,
    max_scale=50.0,
    samples=15,
    threads=1,
    seeds=2,
)


@pytest.fixture(scope="module")
def images() -> tuple[Samples, Samples]:
    """A blob a digit, and noise."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(10).repeat(40)
    x = 0.3 * torch.rand(400, 1, 28, 28, generator=generator)
    for digit in range(10):
        x[y == digit, :, 2 * digit : 2 * digit + 6, 4:24] += 0.7
    return (x, y), (x[200:], y[200:])


def test_a_stream_has_five_tasks_with_labels_of_their_own(images: tuple[Samples, Samples]) -> None:
    stream = stream_of(TINY, *images, 3)
    assert [task.classes for task in stream] == 5 * [(0, 1)]
    for task in stream:
        assert task.train.x.shape == (30, 784)
        assert task.train.y.bincount().tolist() == [15, 15]
        assert task.test.y.bincount().tolist() == [20, 20]
    # Rows 4 to 8 are bright in digit 2, which is the first of the second task.
    two = stream[1].test.x[stream[1].test.y == 0].view(-1, 28, 28)
    assert two[:, 4:10, 4:24].min() >= 0.7
    other = stream_of(TINY, *images, 4)
    assert not torch.equal(stream[1].train.x, other[1].train.x)


def test_batches_come_in_another_order_every_epoch() -> None:
    y = torch.arange(10)
    batches = Shuffled(y.float()[:, None], y, 4, torch.Generator().manual_seed(0))
    assert len(batches) == 3
    first, second = (torch.cat([labels for _, labels in batches]) for _ in range(2))
    assert sorted(first.tolist()) == list(range(10))
    assert not torch.equal(first, second)
    assert all(torch.equal(x[:, 0].long(), labels) for x, labels in batches)


def test_methods_begin_with_the_same_weights() -> None:
    x = torch.rand(3, 784)
    hard, soft, plain = (learner(name, TINY, 5) for name in METHODS)
    assert isinstance(hard, HAT)
    assert isinstance(soft, HAT)
    assert isinstance(plain, Finetune)
    assert hard.layers["hidden1"].mask.keep == "binary"
    assert soft.layers["hidden1"].mask.keep == "soft"
    for method in (soft, hard):
        first = method.layers["hidden1"]
        assert torch.equal(first.weight, plain.model[0].weight)
        assert torch.equal(method.model.heads(x[:, :30]), plain.model[-1](x[:, :30]))
    with pytest.raises(ValueError, match="methods must be of"):
        learner("EWC", TINY, 0)


def test_a_run(images: tuple[Samples, Samples], tmp_path: Path) -> None:
    tables, plots = run(TINY, *images, tmp_path / "run")
    assert all(plot.read_bytes()[:4] == b"\x89PNG" for plot in plots)
    assert [plot.name for plot in plots] == ["accuracy.png", "capacity.png"]
    assert [row[0] for row in tables[0].rows] == list(METHODS)
    assert len(tables) == 4
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    for line in lines:
        record = line["results"]["HAT"]
        assert record["changed"] == record["moved"] == [0] * 4
        assert record["outputs"] == [80] * 4
        assert record["forgetting"] == 0
        for row in range(5):
            assert record["matrix"][-1][row] == record["matrix"][row][row]
        for layer in ("hidden1", "hidden2"):
            shares = record["reserved"][layer]
            assert shares == sorted(shares)
            assert shares[0] == record["used"][layer][0]
            assert all(u <= r for u, r in zip(record["used"][layer], shares, strict=True))
        assert min(line["results"]["SGD"]["changed"]) > 70
        assert line["results"]["SGD"]["used"] == {}
    written = json.loads((tmp_path / "run/tables.json").read_text())
    assert [table["title"] for table in written] == [table.title for table in tables]
    again, _ = run(TINY, *images, tmp_path / "run")
    assert again[0].to_json() == tables[0].to_json()


def test_plain_training_leaves_past_heads_alone(images: tuple[Samples, Samples]) -> None:
    method = learner("SGD", TINY, 0)
    stream = stream_of(TINY, *images, 0)
    one_run(method, TINY, stream, 0)
    heads = method.model[-1]
    assert heads.tasks == 5
    assert [p.requires_grad for p in heads.parameters()] == 8 * [False] + 2 * [True]


def test_runs_of_plain_training_alone_have_no_capacity(
    images: tuple[Samples, Samples], tmp_path: Path
) -> None:
    config = replace(TINY, methods=("SGD",), seeds=1, epochs=1)
    tables, plots = run(config, *images, tmp_path / "run")
    assert len(tables) == 2
    assert [plot.name for plot in plots] == ["accuracy.png"]


def test_the_command_knows_the_methods(tmp_path: Path) -> None:
    command = main.commands["run"].commands["hat"]
    (option,) = [each for each in command.params if each.name == "methods"]
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == METHODS
    found = CliRunner().invoke(main, ["run", "hat", "--root", str(tmp_path), "--out", "x"])
    assert found.exit_code == 1
    assert "load_mnist: no train-images" in found.output
