"""One run of DGM, in small, and its data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dgm_runs import CONFIG, OPTIONS, TEST, TRAIN, arrays
from killing import outcomes_of

from clfast.experiments import dgm
from clfast.experiments.online_adaptation import threads
from clfast.experiments.plots import mask_trajectories
from clfast.methods.dgm import UnitOptions

SCRIPT = Path(__file__).with_name("kill_dgm_run.py")
PLOTS = {"accuracy.png", "growth.png", "reuse.png", "sizes.png"}


@pytest.mark.parametrize("variant", [pytest.param("weight", marks=pytest.mark.slow), "unit"])
def test_a_run(variant: Any, tmp_path: Path) -> None:
    config = replace(CONFIG, tasks=None)
    if variant == "unit":
        options = UnitOptions(**OPTIONS)
        config = replace(config, method="dgma", options=options, classes_per_task=2)
    table, plots = dgm.run(config, TRAIN, TEST, tmp_path / "run")
    tasks = 3 if variant == "weight" else 2
    of_tasks = {f"{kind}-task-{t}.png" for kind in ("masks", "images") for t in range(tasks)}
    found = {path.name for path in (tmp_path / "run").glob("*.png")}
    assert found == PLOTS | of_tasks
    assert {path.name for path in plots} == {name for name in found if "images" not in name}
    growth = json.loads((tmp_path / "run" / "growth.json").read_text())["tasks"]
    lines = dgm.folder_of(tmp_path / "run", config, TRAIN, TEST).metrics()
    assert len(growth) == len(lines) == len(table.rows) == tasks
    for record, line in zip(growth, lines, strict=True):
        assert line.items() <= record.items()
        assert [len(way["occupation"]) for way in record["masks"]] == [2, 2, 2]
        assert 0 <= line["accuracy"] <= 1
        assert [epoch for epoch, _ in line["validation"]] == [0, 1]
        assert line["best"]["epoch"] in (0, 1)
    assert [len(line["by_class"]) for line in lines] == ([1, 2, 3] if tasks == 3 else [2, 3])
    if variant == "weight":
        assert lines[0]["newly_blocked_ratio"] == 1
        assert sum(lines[1]["widths"]) > sum(lines[0]["widths"])
    again, _ = dgm.run(config, TRAIN, TEST, tmp_path / "run")
    assert again.rows == table.rows


def test_the_best_epoch(tmp_path: Path) -> None:
    """Of five epochs the first, the third and the last; by images that nobody learns."""
    config = replace(CONFIG, options=replace(CONFIG.options, epochs=5), seed=3)
    dgm.run(config, TRAIN, TEST, tmp_path / "run")
    lines = dgm.folder_of(tmp_path / "run", config, TRAIN, TEST).metrics()

    order = torch.randperm(36, generator=torch.Generator().manual_seed(3))
    rows = [order[TRAIN[1][order] == c] for c in range(3)]
    held = [TRAIN[0][of_class[9:]] for of_class in rows]
    learner = dgm.DGMw(seed=3, **vars(config.options))
    for task in range(2):
        found: list[tuple[int, float, list[float]]] = []

        def right(images: Any, label: int) -> float:
            return sum(int(p == label) for p in learner.predict(images)) / len(images)

        def look(at: Any, known: int = task + 1, found: list[Any] = found) -> None:
            if at.batch == 1 and at.epoch in (0, 2, 4):
                of_held = sum(right(held[c], c) for c in range(known)) / known
                of_test = [right(TEST[0][TEST[1] == c], c) for c in range(known)]
                found.append((at.epoch, of_held, of_test))

        with threads(config.threads):  # with others sums are rounded differently
            learner.fit_task([(TRAIN[0][rows[task][:9]], torch.full((9,), task))], after_batch=look)
        assert lines[task]["validation"] == [[e, pytest.approx(a)] for e, a, _ in found]
        best = max(found, key=lambda each: each[1])  # the first of equal ones
        assert lines[task]["best"]["epoch"] == best[0]
        assert lines[task]["best"]["by_class"] == pytest.approx(best[2])
        assert lines[task]["best"]["accuracy"] == pytest.approx(sum(best[2]) / len(best[2]))
        assert lines[task]["samples"] == 9


def test_validation_images_must_leave_some() -> None:
    with pytest.raises(ValueError, match=r"validation must leave images to learn; it is 12, and"):
        dgm.prepared(replace(CONFIG, validation=12), TRAIN, TEST)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    outcomes = outcomes_of(SCRIPT, tmp_path)
    assert len(outcomes) == 8
    for outcome in outcomes:
        assert outcome["killed"], outcome
        assert outcome["same"], outcome


def test_nan_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dgm.DGMw._learn_batch

    def spoiled(self: Any, run: Any, *arguments: Any) -> Any:
        losses = whole(self, run, *arguments)
        return losses * float("nan") if self.tasks == 1 and run.epoch == 1 else losses

    monkeypatch.setattr(dgm.DGMw, "_learn_batch", spoiled)
    with pytest.raises(RuntimeError, match="the classifier loss is nan at step 2 of task 1"):
        dgm.run(CONFIG, TRAIN, TEST, tmp_path / "run", minutes=0)
    folder = dgm.folder_of(tmp_path / "run", CONFIG, TRAIN, TEST)
    checkpoint = folder.load_checkpoint()
    assert checkpoint is not None
    assert checkpoint.step == 4 + 2
    assert len(folder.metrics()) == 1
    monkeypatch.undo()
    table, _ = dgm.run(CONFIG, TRAIN, TEST, tmp_path / "run")
    assert len(table.rows) == 2


def test_arrays_of_any_shape() -> None:
    x, y = arrays(4, 0)
    images, labels = dgm.from_arrays(x, y.int())
    assert images.shape == (12, 1, 32, 32)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert torch.equal(dgm.from_arrays(x[:, None], y)[0], images)
    assert torch.equal(dgm.from_arrays(x[..., None], y)[0], images)
    assert torch.equal(dgm.from_arrays(x.double() / 255, y)[0], images)
    colour = torch.stack([x, x, x], 3)
    assert torch.equal(dgm.from_arrays(colour, y)[0], images.repeat(1, 3, 1, 1))
    exact = torch.randint(256, (2, 3, 32, 32)).byte()
    assert torch.equal(dgm.from_arrays(exact, y[:2])[0], exact)
    # Twice as large: bilinear interpolation keeps the mean, and the bar where it is.
    assert abs(float(images.float().mean() - x.float().mean())) < 0.5
    assert float(images[0, 0, 1:9].float().mean()) > 120 > float(images[0, 0, 14:].float().mean())


def test_arrays_of_other_sizes() -> None:
    x, y = arrays(4, 0)
    assert torch.equal(dgm.from_arrays(x, y, 16)[0][:, 0], x)
    assert dgm.from_arrays(x, y, 64)[0].shape == (12, 1, 64, 64)
    with pytest.raises(ValueError, match=r"^from_arrays: size must be a power of two, got 28"):
        dgm.from_arrays(x, y, 28)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(3, 5), torch.zeros(3), r"images must be \[N, H, W\]"),
        (torch.zeros(3, 5, 5, 2), torch.zeros(3).long(), "with 1 or 3 channels"),
        (torch.zeros(0, 5, 5), torch.zeros(0).long(), "images must be"),
        (torch.zeros(3, 5, 5), torch.zeros(2).long(), r"labels must be integers \[3\]"),
        (torch.zeros(3, 5, 5), torch.zeros(3), r"labels must be integers \[3\]"),
        (torch.full((3, 5, 5), 2.0), torch.zeros(3).long(), r"floating point in \[0, 1\]"),
        (torch.zeros(3, 5, 5).int(), torch.zeros(3).long(), "must be uint8"),
    ],
)
def test_arrays_that_are_no_images(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^from_arrays: .*{message}"):
        dgm.from_arrays(images, labels)


def test_a_class_without_test_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no test images of class 1"):
        dgm.run(CONFIG, TRAIN, (TEST[0][:1], TEST[1][:1]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_of_another_size_than_the_options_say(tmp_path: Path) -> None:
    config = replace(CONFIG, options=replace(CONFIG.options, size=16))
    with pytest.raises(ValueError, match=r"^DgmExperiment: images are of 32 pixels, but .* is 16"):
        dgm.run(config, TRAIN, TEST, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["train images", "train labels", "test images", "test labels"])
def test_a_folder_is_of_one_set_of_data(part: str, tmp_path: Path) -> None:
    dgm.folder_of(tmp_path / "run", CONFIG, TRAIN, TEST)
    changed = {"train": [t.clone() for t in TRAIN], "test": [t.clone() for t in TEST]}
    split, kind = part.split()
    changed[split][kind == "labels"].flatten()[0] += 1
    (x, y), (test_x, test_y) = changed.values()
    with pytest.raises(ValueError, match=r"another config: data_sha256 is \"[0-9a-f]{16}\" there"):
        dgm.run(CONFIG, (x, y), (test_x, test_y), tmp_path / "run")
    dgm.folder_of(tmp_path / "run", CONFIG, TRAIN, TEST)


def test_trajectories(tmp_path: Path) -> None:
    layers = {"one": ([[0.5, 0.5], [0.2, 0.9]], [0.5, 0.6])}
    assert mask_trajectories(layers, tmp_path / "way.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="layers is empty"):
        mask_trajectories({}, tmp_path / "no.png")
    with pytest.raises(ValueError, match="has values of 2 epochs, occupation of 1"):
        mask_trajectories({"one": ([[0.5], [0.2]], [0.5])}, tmp_path / "no.png")
