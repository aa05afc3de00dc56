"""Learning the other half of CIFAR-100 in small: data, features, protocol, tuning, run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clfast.experiments import cifar, cifar_adaptation
from clfast.experiments.cifar import Features, pretrained
from clfast.experiments.cifar_adaptation import CifarAdaptation, imbalanced, online, run, tune
from clfast.experiments.online_adaptation import Learners, threads
from clfast.methods import Parametric
from clfast.streams.cifar import Images

METHODS = ["Parametric", "Mixture", "MbPA", "Hebb"]
TINY = CifarAdaptation(
    ratios=(1, 5),
    epochs=(1, 2),
    chunk=20,
    old_classes=4,
    pretrain_epochs=2,
    dim=16,
    seeds=2,
    threads=1,
)


@pytest.fixture(scope="module")
def images() -> tuple[Images, Images]:
    """Eight of a hundred classes, each a colour under noise."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(8, 3, 1, 1, generator=generator)

    def samples(per_class: int) -> Images:
        y = torch.arange(8).repeat(per_class)
        x = colours[y] + 0.2 * torch.rand(len(y), 3, 32, 32, generator=generator)
        return (160 * x).to(torch.uint8), y

    return samples(20), samples(5)


@pytest.fixture(autouse=True)
def eight_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "NUM_CLASSES", 8)
    monkeypatch.setattr(cifar_adaptation, "NUM_CLASSES", 8)


def test_pretraining_leaves_the_random_state_and_knows_its_classes(
    images: tuple[Images, Images],
) -> None:
    state = torch.get_rng_state()
    with threads(1):
        start = pretrained(*images, 3, old_classes=4, epochs=6, dim=16)
        again = pretrained(*images, 3, old_classes=4, epochs=6, dim=16)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(start.train.x, again.train.x)
    assert start.train.x.shape == (160, 16)
    assert start.test.x.shape == (40, 16)
    known = torch.isin(start.test.y, start.old)
    right = start.head(start.test.x).argmax(1) == start.test.y
    assert float(right[known].float().mean()) > 0.7
    assert not bool(right[~known].any())


@pytest.mark.parametrize("ratio", [1, 2, 5])
def test_half_of_the_new_classes_are_rare(ratio: int) -> None:
    y = torch.arange(8).repeat(20)
    train = Features(torch.arange(160.0)[:, None], y)
    old = torch.tensor([0, 2, 4, 6])
    cut = imbalanced(train, old, ratio, torch.Generator().manual_seed(0))
    counts = cut.y.bincount(minlength=8)
    assert counts[old].tolist() == [20] * 4
    assert sorted(counts[[1, 3, 5, 7]].tolist()) == sorted([20 // ratio] * 2 + [20] * 2)
    assert torch.equal(y[cut.x[:, 0].long()], cut.y)


def test_a_run_goes_on_with_the_seeds_that_are_missing(
    images: tuple[Images, Images], tmp_path: Path
) -> None:
    tables, plots = run(TINY, *images, tmp_path)
    assert [table.title.split(",")[0] for table in tables] == ["Online adaptation"] + [
        "Incremental learning"
    ] * 2
    for table in tables:
        assert [row[0] for row in table.rows] == METHODS
    assert len(plots) == 3
    assert all(plot.read_bytes().startswith(b"\x89PNG") for plot in plots)
    metrics = tmp_path / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    shares = lines[0]["online"]["Hebb"]
    assert shares["all"] == pytest.approx((shares["new"] + shares["old"]) / 2, abs=1e-6)
    assert len(shares["new so far"]) == 2  # forty images in chunks of twenty
    assert shares["new so far"][-1] == pytest.approx(shares["new"], abs=1e-4)
    metrics.write_text(json.dumps(lines[0]) + "\n")
    resumed, _ = run(TINY, *images, tmp_path)
    for table, before in zip(resumed, tables, strict=True):  # less the times
        assert [row[:4] for row in table.rows] == [row[:4] for row in before.rows]


def test_a_memory_may_begin_with_few_samples_of_old_classes(images: tuple[Images, Images]) -> None:
    with threads(1):
        start = pretrained(*images, 3, old_classes=4, epochs=1, dim=16)
    sizes: list[list[int]] = []

    def make(base: Parametric, old: Sequence[int]) -> Learners:
        assert base.memory is not None
        counts = base.memory.counts(8)
        assert not bool(counts[[c for c in range(8) if c not in old]].any())
        sizes.append(counts[list(old)].tolist())
        return {"Parametric": base}

    for stored in (None, 3):
        config = replace(TINY, old_stored=stored)
        online(start, start.test, config.online, config, make)
    assert sizes == [[20] * 4, [3] * 4]


def test_tuning_takes_what_is_best_on_held_out_training_images(
    images: tuple[Images, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = {
        "Parametric": {"base_lr": (0.0, 1e-2)},
        "Mixture": {"gamma": (0.0, 0.3)},
        "MbPA": {"lr": (0.0, 1e-3)},
        "Hebb": {"beta": (0.5,), "eta": (0.0, 1.0)},
    }
    monkeypatch.setattr(cifar_adaptation, "GRIDS", grids)
    train, test = images
    found = tune(TINY, train, test, seed=7)
    # A base model that learns nothing in a whole epoch never knows a new class.
    assert found.incremental.base_lr == 1e-2
    assert found.online.beta == 0.5
    other = (torch.zeros_like(test[0]), test[1])
    assert tune(TINY, train, other, seed=7) == found
    assert replace(found, online=TINY.online, incremental=TINY.incremental) == TINY
