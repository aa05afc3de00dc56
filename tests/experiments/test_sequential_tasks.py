"""Sequential MNIST-5k-5 and CIFAR on made-up images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clfast.experiments.sequential_tasks import (
    CIFAR100,
    METHODS,
    MNIST,
    Samples,
    learner,
    one_seed,
    run,
    stream_of,
    table,
)
from clfast.experiments.tables import MeanStd
from clfast.methods import ARM, ICaRL

TINY = replace(
    MNIST, recall=replace(MNIST.recall, steps=2), samples=30, width=20, seeds=2, threads=1
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


def test_a_stream_has_five_tasks_of_two_digits(images: tuple[Samples, Samples]) -> None:
    stream = stream_of(TINY, *images, 3)
    assert [task.classes for task in stream] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert all(task.train.y.bincount(minlength=10).amax() == 30 for task in stream)
    again, other = stream_of(TINY, *images, 3), stream_of(TINY, *images, 4)
    assert torch.equal(stream[1].train.x, again[1].train.x)
    assert not torch.equal(stream[1].train.x, other[1].train.x)


def test_methods_begin_with_the_same_network() -> None:
    models = [learner(name, TINY, 5).state_dict()["model"] for name in TINY.methods]
    for other in models[1:]:
        assert all(torch.equal(models[0][name], other[name]) for name in models[0])
    with pytest.raises(ValueError, match="methods must be"):
        learner("EWC", TINY, 0)


def test_a_run(images: tuple[Samples, Samples], tmp_path: Path) -> None:
    results, plot = run(TINY, *images, tmp_path / "run")
    assert [row[0] for row in results.rows] == list(METHODS)
    assert plot is not None
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
    again, _ = run(TINY, *images, tmp_path / "run")
    assert again.to_json() == results.to_json()


@pytest.mark.slow
def test_recalled_images_are_shown_and_change_nothing(
    images: tuple[Samples, Samples], tmp_path: Path
) -> None:
    config = replace(TINY, methods=("ARM", "ADI", "SGD"), seeds=1)
    run(config, *images, tmp_path / "with", save_recall=True)
    run(config, *images, tmp_path / "without")
    found = []
    for name in ("with", "without"):
        line = json.loads((tmp_path / name / "metrics.jsonl").read_text())
        found.append({method: record["matrix"] for method, record in line["results"].items()})
    assert found[0] == found[1]
    pictures = sorted(path.name for path in (tmp_path / "with").glob("recalled-*.png"))
    assert pictures == ["recalled-adi.png", "recalled-arm.png"]
    assert not list((tmp_path / "without").glob("recalled-*.png"))


def test_buffers_hold_what_the_configuration_says(images: tuple[Samples, Samples]) -> None:
    config = replace(TINY, memory=20, replay=3)
    assert learner("ER-MIR", config, 0).memory.capacity == 20
    assert learner("ER", config, 0).replay == 3
    assert learner("GEM", config, 0).per_task == 4
    icarl = learner("iCaRL", config, 0)
    assert isinstance(icarl, ICaRL)
    assert (icarl.exemplars.total, icarl.replay) == (20, 3)


def test_icarl_takes_its_steps_on_each_batch_and_keeps_exemplars_of_all_tasks(
    images: tuple[Samples, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    learners: list[ICaRL] = []
    observed = ICaRL.observe

    def observe(self: ICaRL, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        learners.append(self)
        return observed(self, x, y)

    monkeypatch.setattr(ICaRL, "observe", observe)
    config = replace(TINY, methods=("iCaRL",), memory=20, icarl_steps=3, batches=2)
    found = one_seed(config, *images, seed=0)["iCaRL"]
    assert len(learners) == 5 * 2 * 3
    assert learners[0].exemplars.y.bincount().tolist() == [2] * 10
    assert found["matrix"][-1][0] > 0.5


def test_options_reach_the_learner() -> None:
    config = replace(TINY, recall=replace(MNIST.recall, steps=7, diversity=0.0, start="noise"))
    method = learner("ARM", config, 0)
    assert isinstance(method, ARM)
    options = method._recall.options
    assert (options.steps, options.diversity, options.start) == (7, 0.0, "noise")


def test_a_method_that_diverges_is_counted_and_does_not_end_the_run(
    images: tuple[Samples, Samples], tmp_path: Path
) -> None:
    recall = replace(TINY.recall, lr=1e30)
    config = replace(TINY, recall=recall, methods=("ARM", "SGD"), seeds=1)
    results, plot = run(config, *images, tmp_path / "run")
    assert results.columns[:2] == ["method", "diverged"]
    assert [row[:2] for row in results.rows] == [["ARM", 1], ["SGD", 0]]
    assert results.rows[0][2:] == [None] * 3
    assert plot is not None
    assert plot.exists()
    assert run(replace(config, methods=("ARM",)), *images, tmp_path / "alone")[1] is None
    line = json.loads((tmp_path / "run/metrics.jsonl").read_text())
    assert line["results"]["ARM"]["diverged"].startswith("ARM.observe")
    with pytest.raises(ValueError, match="has its first seed"):
        run(config, *images, tmp_path / "run", save_recall=True)


def test_means_are_over_the_seeds_that_came_to_the_end() -> None:
    record = {"accuracy": 0.5, "forgetting": 0.25, "ms": 2.0, "matrix": [[0.5]]}
    lines = [{"ARM": record}, {"ARM": {"diverged": "NaN"}}, {"ARM": {**record, "accuracy": 0.7}}]
    (row,) = table(replace(TINY, methods=("ARM",)), lines).rows
    assert row[:2] == ["ARM", 1]
    assert row[2] == MeanStd.of([50.0, 70.0])
    assert row[3:] == [MeanStd.of([25.0, 25.0]), MeanStd.of([2.0, 2.0])]


def test_cifar_draws_ten_classes_and_names_them_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(12).repeat(8)
    x = torch.randint(256, (96, 3, 8, 8), generator=generator, dtype=torch.uint8)
    x[:, 0, 0, 0] = y.to(torch.uint8)
    config = replace(CIFAR100, samples=5)
    stream, other = (stream_of(config, (x, y), (x, y), seed) for seed in (0, 1))
    assert [task.classes for task in stream] == [(2 * i, 2 * i + 1) for i in range(5)]
    drawn = []
    for task in stream:
        assert task.train.x.max() <= 1
        assert task.train.y.bincount(minlength=10).tolist().count(5) == 2
        for label in task.classes:
            (was,) = (255 * task.train.x[task.train.y == label][:, 0, 0, 0]).unique().tolist()
            drawn.append(round(was))
    assert len(set(drawn)) == 10
    assert stream.class_order == tuple(drawn) != other.class_order


@pytest.mark.slow
def test_a_short_run_on_cifar(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(10).repeat(6)
    x = torch.randint(256, (60, 3, 8, 8), generator=generator, dtype=torch.uint8)
    recall = replace(CIFAR100.recall, images=12, steps=1)
    config = replace(
        CIFAR100, recall=recall, width=2, batches=1, methods=("ARM", "ER"), seeds=1, threads=1
    )
    results, _ = run(config, (x, y), (x, y), tmp_path / "run", save_recall=True)
    assert [row[0] for row in results.rows] == ["ARM", "ER"]
    assert (tmp_path / "run/recalled-arm.png").exists()
