"""Learners with exemplars in phases, in small: runs, resumption, comparison, command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from killing import outcomes_of
from mnemonics_runs import CONFIG, TEST, TRAIN, draw_nothing
from torch import Tensor

from clfast.cli import main
from clfast.experiments import mnemonics, mnemonics_comparison
from clfast.experiments.mnemonics import MnemonicsExperiment, Samples, Training
from clfast.experiments.mnemonics_report import WatchedMnemonics, matrix_of
from clfast.experiments.plots import point_map
from clfast.methods import PhaseProgress
from clfast.methods.exemplar_selection import as_inputs

SCRIPT = Path(__file__).with_name("kill_mnemonics_run.py")


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnemonics, "exemplar_pictures", draw_nothing)


@pytest.mark.parametrize("learner", mnemonics.LEARNERS)
@pytest.mark.usefixtures("without_pictures")
def test_a_run(learner: str, tmp_path: Path) -> None:
    config = replace(CONFIG, learner=learner)
    table, _ = mnemonics.run(config, TRAIN, TEST, tmp_path / "run")
    lines = mnemonics.folder_of(tmp_path / "run", config, TRAIN, TEST).metrics()
    assert [line["phase"] for line in lines] == [0, 1, 2]
    assert [line["classes"] for line in lines] == [2, 3, 4]
    assert [line["exemplars"] for line in lines] == [6, 9, 12]
    assert [line["test_images"] for line in lines] == [[8], [8, 4], [8, 4, 4]]
    for line in lines:
        hits = [a * n for a, n in zip(line["by_phase"], line["test_images"], strict=True)]
        assert line["accuracy"] == pytest.approx(sum(hits) / sum(line["test_images"]))
        assert line["losses"]["loss"] > 0
    assert table.rows[1][:2] == [1, 3]
    again, _ = mnemonics.run(config, TRAIN, TEST, tmp_path / "run")
    assert again.rows == table.rows


@pytest.mark.parametrize("exemplars", ["mnemonics", "mnemonics-unadjusted"])
def test_exemplars_that_are_trained(exemplars: str, tmp_path: Path) -> None:
    training = Training(steps=2, epochs=2, lr=30.0, batch=10)
    config = replace(CONFIG, exemplars=exemplars, training=training, storage="float32", phases=1)
    _, pictures = mnemonics.run(config, TRAIN, TEST, tmp_path / "run")
    assert "begin-phase-0.png" in [picture.name for picture in pictures]
    tasks, learner = mnemonics.prepared(config, TRAIN, TEST)
    kept = []
    for task in tasks:
        learner.fit_task([(task.train.x, task.train.y)])
        kept.append(learner.exemplars.x[:6])
        if len(kept) == 1:
            selection = learner.selection
            assert isinstance(selection, WatchedMnemonics)
            assert selection.begun is not None
            begun = selection.begun
            assert torch.equal(selection.begun.y, learner.exemplars.y)
            for image in selection.begun.x:
                assert bool((TRAIN[0] == image).flatten(1).all(1).any())
            moved = (255 * kept[0] - selection.begun.x).abs()
            assert 1 < float(moved.max()) <= 255
    lines = mnemonics.folder_of(tmp_path / "run", config, TRAIN, TEST).metrics()
    away = (kept[0] - as_inputs(begun.x)).abs()
    assert lines[0]["moved"] == pytest.approx(float((away > 0).float().mean()))
    assert lines[0]["moved_by"] == pytest.approx(float(away.mean()), rel=1e-5)
    assert bool((kept[0] == kept[1]).all()) == (exemplars == "mnemonics-unadjusted")
    assert float(kept[1].min()) >= 0
    assert float(kept[1].max()) <= 1


def test_pictures(tmp_path: Path) -> None:
    _, pictures = mnemonics.run(replace(CONFIG, phases=1), TRAIN, TEST, tmp_path / "run")
    names = [f"{kind}-phase-{phase}.png" for phase in (0, 1) for kind in ("exemplars", "map")]
    assert [picture.name for picture in pictures] == names
    assert all(picture.stat().st_size > 1000 for picture in pictures)


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_stops_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any epoch, and between the end of a phase and its line."""

    def lines(name: str) -> list[dict[str, Any]]:
        found = mnemonics.folder_of(tmp_path / name, CONFIG, TRAIN, TEST).metrics()
        return [{**line, "seconds": 0} for line in found]

    mnemonics.run(CONFIG, TRAIN, TEST, tmp_path / "whole")
    whole_saver, whole_report = mnemonics._saver, mnemonics._report
    stops = 0

    def stop_at(count: int) -> None:
        calls = 0

        def once() -> None:
            nonlocal calls, stops
            calls += 1
            if calls == count:
                stops += 1
                raise KeyboardInterrupt

        def saver(*arguments: Any) -> Any:
            after = whole_saver(*arguments)

            def after_epoch(at: PhaseProgress) -> None:
                after(at)
                once()

            return after_epoch

        def report(*arguments: Any) -> Any:
            once()
            return whole_report(*arguments)

        monkeypatch.setattr(mnemonics, "_saver", saver)
        monkeypatch.setattr(mnemonics, "_report", report)

    for count in (1, 2, 3, 5):
        for stop in (count, 100):
            stop_at(stop)
            try:
                mnemonics.run(CONFIG, TRAIN, TEST, tmp_path / f"run{count}", minutes=0)
            except KeyboardInterrupt:
                assert stop == count
        assert lines(f"run{count}") == lines("whole")
    assert stops == 4


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    outcomes = outcomes_of(SCRIPT, tmp_path)
    assert len(outcomes) == 7
    for outcome in outcomes:
        assert outcome["killed"], outcome
        assert outcome["same"], outcome


@pytest.mark.usefixtures("without_pictures")
def test_a_comparison(tmp_path: Path) -> None:
    configs = [
        replace(CONFIG, learner="lucir", exemplars=kind, seed=seed, epochs=1)
        for kind in ("random", "herding")
        for seed in (0, 1)
    ]
    found = mnemonics_comparison.compare(configs, TRAIN, TEST, tmp_path / "all")
    assert [plot.name for plot in found.plots] == ["accuracy-lucir.png"]
    assert not found.failures
    written = json.loads((tmp_path / "all" / "comparison.json").read_text())
    assert len(written["runs"]) == 4
    for config, record in zip(configs, written["runs"], strict=True):
        name = f"lucir-{config.exemplars}-seed-{config.seed}"
        lines = mnemonics.folder_of(tmp_path / "all" / name, config, TRAIN, TEST).metrics()
        assert record["average"] == pytest.approx(sum(line["accuracy"] for line in lines) / 3)
        lost = lines[0]["by_phase"][0] - lines[2]["by_phase"][0]
        assert record["forgetting"] == pytest.approx(lost)
        assert matrix_of(lines)[1, 1] == lines[1]["by_phase"][1]
    by_arm = {row[1]: row for row in found.table.rows}
    averages = {
        kind: [r["average"] for r in written["runs"] if r["exemplars"] == kind] for kind in by_arm
    }
    gains = [100 * (h - r) for h, r in zip(averages["herding"], averages["random"], strict=True)]
    assert by_arm["herding"][6].mean == pytest.approx(sum(gains) / 2)  # type: ignore[union-attr]
    assert by_arm["random"][6] is None


@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_fails_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = mnemonics.run

    def broken(config: MnemonicsExperiment, *arguments: Any, **options: Any) -> Any:
        if config.exemplars == "random":
            raise RuntimeError("NaN in inner training")
        return whole(config, *arguments, **options)

    monkeypatch.setattr(mnemonics_comparison, "run", broken)
    configs = [replace(CONFIG, exemplars=kind, epochs=1) for kind in ("random", "herding")]
    found = mnemonics_comparison.compare(configs, TRAIN, TEST, tmp_path)
    assert found.failures == {"lucir-random-seed-0": "NaN in inner training"}
    assert [row[1] for row in found.table.rows] == ["herding"]


def test_classes_and_samples_are_drawn_by_the_seed() -> None:
    config = replace(CONFIG, classes=3, samples=5, phases=1)
    found = []
    for seed in range(4):
        tasks, _ = mnemonics.prepared(replace(config, seed=seed), TRAIN, TEST)
        assert [task.classes for task in tasks] == [(0,), (1, 2)]
        assert [len(task.train) for task in tasks] == [5, 10]
        assert [len(task.test) for task in tasks] == [4, 8]
        found.append(tasks.class_order)  # type: ignore[attr-defined]
        for task in tasks:
            for image, label in zip(task.train.x, task.train.y.tolist(), strict=True):
                place = found[-1][label]
                assert int(image[0].float().mean(1).argmax()) // 3 == place
    assert len(set(found)) > 1
    equal, _ = mnemonics.prepared(replace(config, first=2), TRAIN, TEST)
    assert [task.classes for task in equal] == [(0, 1), (2,)]
    first, second = (mnemonics.prepared(config, TRAIN, TEST)[1] for _ in range(2))
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("network", mnemonics.NETWORKS)
@pytest.mark.parametrize("learner", ["lucir", "icarl"])
def test_networks(network: str, learner: str, rng: torch.Generator) -> None:
    config = replace(CONFIG, network=network, learner=learner, width=2)
    _, made = mnemonics.prepared(config, TRAIN, TEST)
    x = torch.rand(2, 1, 12, 12, generator=rng)
    assert made.model(x).shape == (2, 4)
    features = made.model.get_submodule("features")
    if network == "convnet":
        assert bool((features(x) < 0).any()) == (learner == "lucir")
    else:
        assert features[-3].last_relu == (learner != "lucir")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": "ewc"}, "learner must be one of lwf, icarl, bic, lucir, got 'ewc'"),
        ({"exemplars": "best"}, "exemplars must be one of random, herding"),
        ({"network": "vgg"}, "network must be one of resnet32, resnet18, convnet"),
        ({"storage": "int8"}, "storage must be one of uint8, float32"),
        ({"phases": 0}, "phases must be at least 1"),
        ({"phases": 3}, "phases is 3, but 4 classes, 2 of them first, leave no equal number"),
        ({"device": "warp"}, "MnemonicsExperiment: device warp cannot be used"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"first": 0}, "first must be at least 1"),
        ({"first": 4}, "4 classes, 4 of them first, leave no equal number"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        mnemonics.run(replace(CONFIG, **changes), TRAIN, TEST, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_is_of_one_set_of_data(tmp_path: Path) -> None:
    mnemonics.folder_of(tmp_path / "run", CONFIG, TRAIN, TEST)
    other = (TRAIN[0] // 2, TRAIN[1])
    with pytest.raises(ValueError, match="another config: data_sha256"):
        mnemonics.run(CONFIG, other, TEST, tmp_path / "run")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnemonics, "load", lambda data, root: (TRAIN, TEST))
    monkeypatch.setattr(mnemonics, "exemplar_pictures", draw_nothing)
    command = ["run", "mnemonics", "--data", "mnist", "--root", str(tmp_path)]
    options = {
        "learner": "icarl",
        "exemplars": "herding",
        "phases": 1,
        "seeds": 1,
        "per-class": 2,
        "network": "convnet",
        "width": 2,
        "epochs": 1,
        "finetune-epochs": 0,
        "transfer": "none",
        "threads": 1,
        "out": tmp_path / "out",
    }
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = CliRunner().invoke(main, [*command, *given])
    assert done.exit_code == 0, done.output
    assert "| icarl | herding | 1 |" in done.output
    config = json.loads((tmp_path / "out" / "icarl-herding-seed-0" / "config.json").read_text())
    assert config["flip"] is False
    assert config["transfer"] is None
    unused = CliRunner().invoke(main, [*command, *given, "--exemplar-lr", "1"])
    assert unused.exit_code == 2
    assert "these are options of mnemonics" in " ".join(unused.output.split())
    wrong = CliRunner().invoke(main, [*command, *given, "--total", "8"])
    assert wrong.exit_code == 2
    assert "give one of them" in wrong.output
    other = CliRunner().invoke(main, [*command, *given, "--width", "3"])
    assert other.exit_code == 1
    assert "width is 2 there, 3 now" in other.output


def test_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    flat: tuple[Samples, Samples] = ((TRAIN[0][:, 0], TRAIN[1]), (TEST[0][:, 0], TEST[1]))
    monkeypatch.setattr(mnemonics, "load_mnist", lambda root: flat)
    (x, _), (test_x, _) = mnemonics.load("mnist", "somewhere")
    assert torch.equal(x, TRAIN[0])
    assert test_x.shape == (16, 1, 12, 12)
    with pytest.raises(ValueError, match="load: data must be one of cifar100, mnist"):
        mnemonics.load("imagenet", "somewhere")


def test_a_map_of_points(tmp_path: Path) -> None:
    points: dict[str, tuple[Tensor, Tensor]] = {"one": (torch.rand(9, 2), torch.rand(2, 2))}
    assert point_map(points, tmp_path / "map.png", title="two").stat().st_size > 1000
    with pytest.raises(ValueError, match="groups is empty"):
        point_map({}, tmp_path / "no.png")
    with pytest.raises(ValueError, match=r"must be \[N, 2\] and \[M, 2\], got \(3, 1\)"):
        point_map({"one": (torch.rand(3, 1), torch.rand(2, 2))}, tmp_path / "no.png")
