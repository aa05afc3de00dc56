"""Online adaptation: the protocol of a trial, the run folder, the tuning, the images."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clfast.experiments import online_report, online_tuning
from clfast.experiments.images import NUM_CLASSES, Images, Samples, load_images, of_classes
from clfast.experiments.online_adaptation import (
    DIGITS,
    MNIST,
    PRESETS,
    WINDOWS,
    OnlineAdaptation,
    Trial,
    paper_learners,
    threads,
)
from clfast.methods import Hebb, Parametric

METHODS = ["Parametric", "Mixture", "MbPA", "Hebb"]
TINY = replace(
    DIGITS,
    chunk=10,
    pretrain_per_class=10,
    pretrain_epochs=20,
    base_lr=5e-4,
    k=20,
    seeds=2,
    dim=16,
    timed_chunks=2,
    timed_queries=2,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As runs have it: two threads on tiny layers take far longer on a busy machine."""
    with threads(1):
        yield


def samples(per_class: int, seed: int) -> Samples:
    """A blurred spot for each class, at a place of its own."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(NUM_CLASSES).repeat(per_class)
    x = 0.2 * torch.rand(len(y), 1, 8, 8, generator=generator)
    for row, label in enumerate(y.tolist()):
        top, left = 3 * (label // 4), 2 * (label % 4)
        x[row, 0, top : top + 2, left : left + 2] += 0.8
    order = torch.randperm(len(y), generator=generator)
    return x[order], y[order]


@pytest.fixture(scope="module")
def images() -> Images:
    return Images(samples(12, 0), samples(6, 1), samples(12, 2))


def ran(trial: Trial) -> Trial:
    for x, y in trial.stream:
        trial.step(x, y)
    return trial


def test_a_trial_follows_the_protocol(images: Images) -> None:
    state = torch.get_rng_state()
    trial = Trial(TINY, images.pool, images.test, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert len(trial.old) == 5
    memory = trial.base.memory
    assert memory is not None
    assert memory.seen(10)[trial.old].tolist() == [10] * 5
    assert len(memory) == 50
    assert list(trial.learners) == METHODS
    hebb = trial.learners["Hebb"]
    assert isinstance(hebb, Hebb)
    assert list(hebb.base_classes) == trial.old.tolist()
    for learner in trial.learners.values():
        assert (learner.features, learner.head) == (trial.base.features, trial.base.head)
        assert learner.memory is memory
    right: dict[str, list[Tensor]] = {name: [] for name in METHODS}
    labels = []
    for step, (x, y) in enumerate(trial.stream):
        assert len(memory) == 50 + 10 * step
        before = {name: learner.predict(x) for name, learner in trial.learners.items()}
        weight = trial.base.head.weight.clone()
        trial.step(x, y)
        assert not torch.equal(weight, trial.base.head.weight)
        for name in METHODS:
            right[name].append(before[name] == y)
        labels.append(y)
    assert sorted(torch.cat(labels).tolist()) == sorted(images.test[1].tolist())
    new = ~torch.isin(torch.cat(labels), trial.old)
    for record in trial.results():
        mine = torch.cat(right[record["method"]])
        assert record["all"] == pytest.approx(mine.float().mean().item())
        assert record["new"] == pytest.approx(mine[new].float().mean().item())
        assert record["old"] == pytest.approx(mine[~new].float().mean().item())
        assert len(record["curve"]) == WINDOWS
        last = mine.tensor_split(WINDOWS)[-1][new.tensor_split(WINDOWS)[-1]]
        assert record["curve"][-1] == pytest.approx(last.float().mean().item())
        assert record["ms"] > 0
        assert (record["naive_ms"] is None) == (record["method"] == "Parametric")


def accuracies(trial: Trial) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in record.items() if "ms" not in name}
        for record in trial.results()
    ]


def test_a_seed_decides_a_trial(images: Images) -> None:
    one, again, other = (ran(Trial(TINY, images.pool, images.test, seed)) for seed in (1, 1, 2))
    assert accuracies(one) == accuracies(again)
    assert accuracies(one) != accuracies(other)


def test_a_shared_base_model_equals_one_for_each_method(images: Images) -> None:
    together = accuracies(ran(Trial(TINY, images.pool, images.test, 0)))
    for number, name in enumerate(METHODS):

        def alone(
            config: OnlineAdaptation, base: Parametric, old: Any, name: str = name
        ) -> dict[str, Parametric]:
            return {name: paper_learners(config, base, old)[name]}

        assert accuracies(ran(Trial(TINY, images.pool, images.test, 0, alone))) == [
            together[number]
        ]


def test_hebb_learns_new_classes_first(images: Images) -> None:
    records = ran(Trial(TINY, images.pool, images.test, 0)).results()
    new = {record["method"]: record["new"] for record in records}
    assert new["Hebb"] > max(new["Parametric"], new["Mixture"], new["MbPA"])
    assert all(record["old"] > 0.9 for record in records)


def test_a_run_folder(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    threads = torch.get_num_threads()
    results, plot = online_report.run(TINY, images, tmp_path / "run")
    assert torch.get_num_threads() == threads
    assert plot == tmp_path / "run" / "new_classes.png"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == asdict(TINY)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    assert [line["seed"] for line in logged] == [0, 1]
    assert [row[0] for row in results.rows] == METHODS
    saved = json.loads((tmp_path / "run" / "table.json").read_text())
    for number, row in enumerate(saved["rows"]):
        of_seeds = [100 * line["methods"][number]["all"] for line in logged]
        assert row[3]["mean"] == pytest.approx(sum(of_seeds) / 2)
        if row[0] == "Parametric":
            assert row[5:] == [None, None]
        else:
            assert row[6] == pytest.approx(row[5] / row[4])

    # Cut short after the first seed, it runs the second again and no other.
    (tmp_path / "run" / "metrics.jsonl").write_text(lines[0] + "\n")
    seeds = []

    class Spy(Trial):
        def __init__(self, config: OnlineAdaptation, pool: Any, stream: Any, seed: int) -> None:
            seeds.append(seed)
            super().__init__(config, pool, stream, seed)

    monkeypatch.setattr(online_report, "Trial", Spy)
    online_report.run(TINY, images, tmp_path / "run")
    online_report.run(TINY, images, tmp_path / "run")
    assert seeds == [1]
    with pytest.raises(ValueError, match="another config: k is 20 there, 30 now"):
        online_report.run(replace(TINY, k=30), images, tmp_path / "run")


def test_tuning_takes_the_first_best_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_tuning, "BASE_LR", (1.0, 2.0, 3.0))
    grids = {
        "Mixture": {"theta": (1.0, 2.0), "gamma": (3.0, 4.0)},
        "MbPA": {"lr": (1.0, 2.0), "steps": (1, 2)},
        "Hebb": {"beta": (0.1, 0.2), "eta": (5.0, 6.0)},
    }
    monkeypatch.setattr(online_tuning, "GRIDS", grids)
    asked = []

    def accuracies(
        config: OnlineAdaptation, _: Images, seeds: Any, method: str, settings: Any
    ) -> list[float]:
        asked.append((method, config.base_lr, config.lr, config.steps, list(seeds)))
        if method == "Parametric":
            return [min(config.base_lr, 2.0)]
        assert len(settings) == 4
        return [0.1, 0.2, 0.2, 0.1]

    monkeypatch.setattr(online_tuning, "accuracies", accuracies)
    tuned = online_tuning.tune(TINY, Images(*3 * [samples(1, 0)]), seeds=(7, 8))
    assert tuned == replace(
        TINY, base_lr=2.0, theta=1.0, gamma=4.0, lr=1.0, steps=2, beta=0.1, eta=6.0
    )
    rest = (TINY.lr, TINY.steps, [7, 8])
    assert asked == [
        *(("Parametric", rate, *rest) for rate in (1.0, 2.0, 3.0)),
        ("Mixture", 2.0, *rest),
        ("MbPA", 2.0, *rest),
        ("Hebb", 2.0, 1.0, 2, [7, 8]),
    ]


def test_accuracies_of_settings_are_of_the_validation_stream(images: Images) -> None:
    hidden = replace(images, test=(torch.empty(0), torch.empty(0)))
    settings: list[dict[str, Any]] = [{"eta": 0.0}, {"eta": 0.5}]
    found = online_tuning.accuracies(TINY, hidden, (3, 4), "Hebb", settings)
    for setting, accuracy in zip(settings, found, strict=True):
        config = replace(TINY, **setting)
        trials = [ran(Trial(config, images.pool, images.validation, seed)) for seed in (3, 4)]
        of_seeds = [trial.results()[METHODS.index("Hebb")]["all"] for trial in trials]
        assert accuracy == pytest.approx(sum(of_seeds) / 2)
    assert found[0] != found[1]


def test_digits_share_no_image() -> None:
    pytest.importorskip("sklearn")
    digits = load_images("digits")
    assert [len(y) for _, y in (digits.pool, digits.validation, digits.test)] == [449, 539, 809]
    for x, y in (digits.pool, digits.validation, digits.test):
        assert x.shape == (len(y), 1, 8, 8)
        assert [x.min().item(), x.max().item()] == [0, 1]
        assert y.unique().tolist() == list(range(10))
    again = load_images("digits")
    assert torch.equal(digits.test[0], again.test[0])


def test_mnist_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clfast.experiments.images._MNIST_VALIDATION", 4)
    for name, count in (("train", 10), ("t10k", 3)):
        pixels = bytes(i % 256 for i in range(count * 784))
        head = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + pixels))
        labels = b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(range(count))
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    mnist = load_images("mnist", tmp_path)
    assert mnist.pool[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert mnist.validation[1].tolist() == [6, 7, 8, 9]
    assert mnist.test[1].tolist() == [0, 1, 2]
    assert mnist.test[0].shape == (3, 1, 28, 28)
    assert mnist.pool[0][0, 0, 0, :3].tolist() == pytest.approx([0, 1 / 255, 2 / 255])
    trial = Trial(replace(MNIST, pretrain_epochs=1), mnist.pool, mnist.test, 0)
    assert ran(trial).results()[0]["all"] >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cifar",), "load_images: name must be digits or mnist, got 'cifar'"),
        (("mnist",), "load_images: mnist needs root"),
    ],
)
def test_images_that_are_not_there(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_images(*arguments)


def test_of_classes_balances() -> None:
    x = torch.arange(30.0)
    y = torch.arange(30) % 3
    generator = torch.Generator().manual_seed(0)
    chosen, labels = of_classes((x, y), [0, 2], 4, generator)
    assert labels.bincount().tolist() == [4, 0, 4]
    assert len(set(chosen.tolist())) == 8
    assert torch.equal(y[chosen.long()], labels)
    everything, _ = of_classes((x, y), [1], 100, generator)
    assert sorted(everything.tolist()) == x[1::3].tolist()


def test_presets() -> None:
    assert {name: config.data for name, config in PRESETS.items()} == {
        "digits": "digits",
        "mnist": "mnist",
    }
