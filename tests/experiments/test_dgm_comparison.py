"""clfast run dgm, in small: methods and seeds side by side."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from dgm_runs import CONFIG, OPTIONS, PLOTS, TEST, TRAIN, arrays, draw_nothing

from clfast import cli_dgm
from clfast.cli import main
from clfast.experiments import dgm
from clfast.experiments.dgm_comparison import compare
from clfast.methods.dgm import DgmOptions

SMALL = ["--epochs", "1", "--batch", "16", "--width", "2", "--threads", "1"]


@pytest.fixture(autouse=True)
def _plots_of_a_run_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """test_dgm_experiment.py draws them."""
    for module, name in PLOTS:
        monkeypatch.setattr(module, name, draw_nothing)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, each in (("train", 12), ("test", 5)):
        x, y = arrays(each, each)
        np.savez(tmp_path / f"{name}.npz", images=x.numpy(), labels=y.numpy())
    return tmp_path


def command(root: Path, *arguments: str) -> Result:
    out = str(root / "runs")
    every = ["run", "dgm", "--data", "arrays", "--root", str(root), "--out", out, *SMALL]
    return CliRunner().invoke(main, [*every, *arguments])


def test_the_methods_of_the_command_line() -> None:
    assert list(dgm.METHODS) == cli_dgm._METHODS


def test_two_methods_and_two_seeds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--method", "dgma", "--method", "joint", "--seeds", "2"]
    of_dgm = ["--blocked", "both_ends", "--same-critic"]
    done = command(root, *arguments, *of_dgm)
    assert done.exit_code == 0, done.output
    out = root / "runs"
    names = {"dgma-seed-0", "dgma-seed-1", "joint-seed-0", "joint-seed-1"}
    pictures = {"accuracy.png", "growth.png"}
    assert {path.name for path in out.iterdir()} == names | pictures | {"comparison.json"}
    configs = {name: json.loads((out / name / "config.json").read_text()) for name in names}
    for name, config in configs.items():
        assert config["seed"] == int(name[-1])
        assert config["options"]["max_classes"] == 3
        assert config["options"]["epochs"] == 1
        assert config["options"]["lr"] == 2e-3
    assert configs["dgma-seed-1"]["options"]["blocked"] == "both_ends"
    assert configs["dgma-seed-1"]["options"]["new_critic"] is False
    assert "width" not in configs["joint-seed-0"]["options"]

    found = json.loads((out / "comparison.json").read_text())
    assert found["failures"] == {}
    assert [(run["method"], run["seed"]) for run in found["runs"]] == [
        ("DGMa", 0),
        ("DGMa", 1),
        ("JT", 0),
        ("JT", 1),
    ]
    lines = [
        json.loads(line)
        for line in (out / "dgma-seed-1" / "metrics.jsonl").read_text().splitlines()
    ]
    run = found["runs"][1]
    assert run["classes"] == [1, 2, 3]
    assert run["accuracy"] == [line["accuracy"] for line in lines]
    assert run["neurons"] == [sum(line["widths"]) for line in lines]
    assert run["bytes"] == [sum(line["bytes"].values()) for line in lines]
    assert found["runs"][2]["neurons"] is None
    assert found["runs"][2]["bytes"] == [12 * 1024 * 4 * n for n in (1, 2, 3)]

    columns = ["method", "seeds", "A2 (%)", "A3 (%)", "neurons", "kB", "seconds"]
    assert found["table"]["columns"] == columns
    first, second = found["table"]["rows"]
    assert first[:2] == ["DGMa", 2]
    assert second[:2] == ["JT", 2]
    assert second[4] is None
    for column, task in ((2, 1), (3, 2)):
        values = [100 * run["accuracy"][task] for run in found["runs"][:2]]
        assert first[column]["mean"] == pytest.approx(statistics.mean(values))
        assert first[column]["std"] == pytest.approx(statistics.stdev(values))
    assert "| DGMa | 2 |" in done.output
    assert "DGMa, seed 1: after each task" in done.output

    # Once more: nothing is learnt again, and all comes out as it did.
    monkeypatch.setattr(dgm.DGMa, "_learn_batch", None)
    monkeypatch.setattr(dgm.JointTraining, "_learn_batch", None)
    before = (out / "comparison.json").read_text()
    again = command(root, *arguments, *of_dgm)
    assert again.exit_code == 0, again.output
    assert (out / "comparison.json").read_text() == before
    other = command(root, *arguments)
    assert other.exit_code == 1
    assert "holds a run of another config" in other.output


@pytest.mark.parametrize("method", ["dgr", "mergan", "mergan-ra", "ewc", "none"])
def test_the_other_methods(method: str, root: Path) -> None:
    of = {"ewc": ["--strength", "3", "--fisher-samples", "2"], "none": ["--critic-steps", "1"]}
    done = command(root, "--method", method, "--tasks", "2", *of.get(method, []))
    assert done.exit_code == 0, done.output
    found = json.loads((root / "runs" / "comparison.json").read_text())
    assert found["runs"][0]["neurons"] == [14, 14]
    assert len(found["runs"][0]["accuracy"]) == 2
    config = json.loads((root / "runs" / f"{method}-seed-0" / "config.json").read_text())
    assert config["options"]["lr"] == 1e-4
    if method.startswith("mergan"):
        replay = "joint" if method == "mergan" else "alignment"
        assert config["options"]["replay"] == replay


def test_validation(root: Path) -> None:
    of_critic = ["--classifier-epochs", "2", "--recompute-statistics"]
    done = command(root, "--method", "mergan", "--tasks", "2", "--validation", "2", *of_critic)
    assert done.exit_code == 0, done.output
    found = json.loads((root / "runs" / "comparison.json").read_text())
    columns = ["A1 (%)", "A2 (%)", "best A1 (%)", "best A2 (%)"]
    assert found["table"]["columns"][2:6] == columns
    (row,), (run,) = found["table"]["rows"], found["runs"]
    shown = [cell["mean"] if isinstance(cell, dict) else cell for cell in row[2:6]]
    assert shown == pytest.approx([100 * a for a in (*run["accuracy"], *run["best"])])
    config = json.loads((root / "runs" / "mergan-seed-0" / "config.json").read_text())
    assert config["validation"] == 2
    assert config["options"]["classifier_epochs"] == 2
    assert config["options"]["recompute_statistics"] is True


def test_the_variants(root: Path) -> None:
    for variant, method in ((["--variant", "unit"], "dgma"), ([], "dgmw")):
        done = command(root, *variant, "--tasks", "1", "--real-share", "0.5")
        assert done.exit_code == 0, done.output
        config = json.loads((root / "runs" / f"{method}-seed-0" / "config.json").read_text())
        assert config["method"] == method
        assert config["options"]["real_share"] == 0.5


def test_networks_for_natural_images(root: Path) -> None:
    networks = ["--network", "resnet", "--last", "class", "--alpha", "weights", "--size"]
    arguments = ["--epochs", "1", "--batch", "36", "--critic-width", "1", *networks]
    done = command(root, *arguments, "16", "--classes-per-task", "2")
    assert done.exit_code == 0, done.output
    run = root / "runs" / "dgmw-seed-0"
    options = json.loads((run / "config.json").read_text())["options"]
    assert [options[name] for name in ("network", "last", "size")] == ["resnet", "class", 16]
    growth = json.loads((run / "growth.json").read_text())["tasks"]
    assert [len(task["widths"]) for task in growth] == [5, 5]
    assert [len(task["masks"]) for task in growth] == [7, 7]
    wrong = command(root, *arguments, "24")
    assert wrong.exit_code == 1
    assert "size must be a power of two, got 24; resize the images to 16 or 32" in wrong.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--blocked", "outputs"], "--blocked means nothing to dgmw: it is an option of dgma"),
        (
            ["--method", "joint", "--method", "none", "--max-scale", "3"],
            "--max-scale means nothing to joint, none: it is an option of dgmw, dgma",
        ),
        (["--variant", "unit", "--method", "dgr"], "--variant says which --method there is"),
        (["--method", "hat"], "'hat' is not one of 'dgmw', 'dgma'"),
    ],
)
def test_wrong_use(arguments: list[str], message: str, root: Path) -> None:
    found = command(root, *arguments)
    assert found.exit_code == 2
    assert message in " ".join(found.output.split())
    assert not (root / "runs").exists()


def test_wrong_data(tmp_path: Path) -> None:
    arguments = ["run", "dgm", "--root", str(tmp_path), "--out", str(tmp_path / "runs")]
    assert "load_mnist: no " in CliRunner().invoke(main, arguments).output
    assert "train.npz" in CliRunner().invoke(main, [*arguments, "--data", "arrays"]).output
    np.savez(tmp_path / "train.npz", images=np.zeros((2, 5, 5)))
    found = CliRunner().invoke(main, [*arguments, "--data", "arrays"])
    assert "has no array labels" in found.output
    images, labels = np.zeros((4, 16, 16), np.uint8), np.arange(4)
    np.savez(tmp_path / "train.npz", images=images, labels=labels)
    whole = (tmp_path / "train.npz").read_bytes()
    np.savez(tmp_path / "test.npz", images=np.stack([images] * 3, 1), labels=labels)
    arguments += ["--data", "arrays"]
    found = CliRunner().invoke(main, arguments)
    assert "training images have 1 channels, test images 3" in " ".join(found.output.split())
    np.savez(tmp_path / "test.npz", images=images, labels=labels)
    found = CliRunner().invoke(main, [*arguments, "--noise", "3"])
    assert "max_classes must be at most noise, 3, got 4; raise noise" in found.output
    np.save(tmp_path / "alone.npy", images)
    alone = (tmp_path / "alone.npy").read_bytes()
    for damaged in (b"", b"PK", b"no npz", whole[:-30], whole[:200], alone):
        (tmp_path / "train.npz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^load: .*train\.npz cannot be read as an npz file"):
            dgm.load("arrays", tmp_path)
    for wrong, message in (
        (labels.astype(str), "labels must be numbers, got <U"),
        (labels > 1, r"from_arrays: labels must be integers \[4\], got torch.bool"),
        (labels - 1, "from_arrays: labels must be at least 0, got -1"),
        (labels[:3], r"from_arrays: labels must be integers \[4\]"),
    ):
        np.savez(tmp_path / "train.npz", images=images, labels=wrong)
        with pytest.raises(ValueError, match=rf"^load: .*train\.npz: {message}"):
            dgm.load("arrays", tmp_path)
    np.savez(tmp_path / "train.npz", images=images, labels=labels.astype(">i4"))
    assert dgm.load("arrays", tmp_path)[0][1].tolist() == [0, 1, 2, 3]
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_and_one_that_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on; the next time only what is missing is learnt, from its last checkpoint."""
    given = {**OPTIONS, "epochs": 1}
    configs = [CONFIG.for_method(name, 0, given) for name in ("joint", "dgmw", "none")]
    whole, steps = dgm.DGMw._learn_batch, 0

    def spoiled(self: Any, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        return whole(self, *arguments) * (float("nan") if self.tasks == 1 else 1)

    monkeypatch.setattr(dgm.DGMw, "_learn_batch", spoiled)
    ended: list[str] = []

    def note(table: Any) -> None:
        ended.append(table.title)

    found = compare(configs, TRAIN, TEST, tmp_path, ended=note)
    assert [title.split(",")[0] for title in ended] == ["JT", "no replay"]
    assert list(found.failures) == ["dgmw-seed-0"]
    assert "the classifier loss is nan at step 0 of task 1" in found.failures["dgmw-seed-0"]
    assert found.table.rows[1] == ["DGMw", 0, *(None for _ in range(7))]
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert written["failures"] == found.failures
    assert [path.name for path in found.plots] == ["accuracy.png"]
    assert len(dgm.folder_of(tmp_path / "dgmw-seed-0", configs[1], TRAIN, TEST).metrics()) == 1

    def counted(self: Any, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        return whole(self, *arguments)

    steps = 0
    monkeypatch.setattr(dgm.DGMw, "_learn_batch", counted)
    monkeypatch.setattr(dgm.JointTraining, "_learn_batch", None)
    found = compare(configs, TRAIN, TEST, tmp_path)
    assert steps == 2  # of the second task alone
    assert not found.failures
    assert [path.name for path in found.plots] == ["accuracy.png", "growth.png"]
    assert [row[1] for row in found.table.rows] == [1, 1, 1]


def test_an_option_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path) -> None:
    wrong = replace(CONFIG.for_method("ewc", 0, OPTIONS), seed=1)
    wrong = replace(wrong, options=replace(wrong.options, lr=-1.0))
    for message, config in (
        ("EWCM: lr must", wrong),
        ("DGMw: device nowhere cannot be used", replace(CONFIG, device="nowhere")),
        ("DgmExperiment: images are of 32", replace(CONFIG, options=DgmOptions(size=16))),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            compare([CONFIG, config], TRAIN, TEST, tmp_path / "runs")
        assert not (tmp_path / "runs").exists()


def test_other_data_in_the_same_folder(root: Path) -> None:
    """A table of the data before is no table of these."""
    (root / "other").mkdir()
    for name, each in (("train", 12), ("test", 5)):
        x, y = arrays(each, each + 1)
        np.savez(root / "other" / f"{name}.npz", images=x.numpy(), labels=y.numpy())
    assert command(root, "--method", "none", "--tasks", "1").exit_code == 0
    config = json.loads((root / "runs" / "none-seed-0" / "config.json").read_text())
    assert len(config["data_sha256"]) == 16
    found = command(root, "--method", "none", "--tasks", "1", "--root", str(root / "other"))
    assert found.exit_code == 1
    assert "holds a run of another config: data_sha256 is" in " ".join(found.output.split())
    again = command(root, "--method", "none", "--tasks", "1")
    assert again.exit_code == 0


def test_a_plot_of_an_older_comparison_goes(root: Path) -> None:
    one_task = ["--tasks", "1"]
    assert command(root, "--method", "dgmw", *one_task).exit_code == 0
    assert (root / "runs" / "growth.png").exists()
    assert command(root, "--method", "none", *one_task).exit_code == 0
    assert (root / "runs" / "accuracy.png").exists()
    assert not (root / "runs" / "growth.png").exists()
