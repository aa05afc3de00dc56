"""Classes one after another: DGM and the methods it is compared to, one run of one of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _arguments
from ..methods import DGR, EWCM, DGMa, DGMw, GenerativeClassifier, JointTraining, MeRGAN, NoReplay
from ..methods.conditional_gan import GanOptions
from ..methods.dgm import DgmOptions, UnitOptions
from ..methods.ewc_memory import EwcOptions
from ..methods.generative_options import ClassifierOptions
from ..methods.generative_replay import MerganOptions
from ..methods.joint_training import JointOptions
from ..methods.task_run import Progress
from ..nn.image_size import doublings
from ..streams import load_mnist
from .dgm_report import plots, table
from .dgm_validation import BestEpoch, Samples, accuracy
from .online_adaptation import threads
from .plots import image_grid
from .progress import bar
from .run_folder import RunFolder, data_digest
from .tables import Table

_SHOWN = 10  # images of a class in a grid


@dataclass(frozen=True)
class Method:
    """A learner, and the options that it has unless others are given."""

    title: str
    kind: type[GenerativeClassifier]
    options: ClassifierOptions

    def has(self, option: str) -> bool:
        return option in {each.name for each in fields(self.options)}


METHODS = {
    "dgmw": Method("DGMw", DGMw, DgmOptions()),
    "dgma": Method("DGMa", DGMa, UnitOptions()),
    "dgr": Method("DGR", DGR, GanOptions()),
    "mergan": Method("MeRGAN-JTR", MeRGAN, MerganOptions()),
    "mergan-ra": Method("MeRGAN-RA", MeRGAN, MerganOptions(replay="alignment")),
    "ewc": Method("EWC-M", EWCM, EwcOptions()),
    "joint": Method("JT", JointTraining, JointOptions()),
    "none": Method("no replay", NoReplay, GanOptions()),
}


@dataclass(frozen=True)
class DgmExperiment:
    """All that decides a run, but the data itself."""

    data: str = "mnist"
    """Its name."""
    method: str = "dgmw"
    """Of `METHODS`."""
    options: ClassifierOptions = METHODS["dgmw"].options
    """Of the class that the method has."""
    classes_per_task: int = 1
    tasks: int | None = None
    """At most; None: all classes."""
    samples: int | None = None
    """Training images of each class at most; None: all."""
    validation: int = 0
    """Of each class, held out of training for `BestEpoch`; 0: the last epoch alone counts."""
    seed: int = 0
    device: str = "cpu"
    threads: int = 2

    def for_method(self, method: str, seed: int, given: Mapping[str, Any]) -> DgmExperiment:
        """The same with another method, which takes those of the given options that it has."""
        its = METHODS[method]
        own = {name: value for name, value in given.items() if its.has(name)}
        return replace(self, method=method, seed=seed, options=replace(its.options, **own))


def load(
    data: str, root: str | os.PathLike[str], size: int = DgmOptions.size
) -> tuple[Samples, Samples]:
    """Training and test images from a folder, of size x size.

    "mnist" has its four files; "arrays" has train.npz and test.npz, see `from_arrays` for what is
    in them as "images" and "labels".

    Raises:
        FileNotFoundError, ValueError: a file is missing, cannot be read, or holds what
            `from_arrays` refuses.
        TypeError, ValueError: size is no power of two from 16 on.
    """
    doublings(size, "load")
    if data == "mnist":
        train, test = load_mnist(root)
        return from_arrays(*train, size), from_arrays(*test, size)
    folder = _arguments.path(root, "load")
    parts = []
    for name in ("train.npz", "test.npz"):
        file = _arguments.file(folder / name, "load")
        images, labels = _arrays(file)
        try:
            parts.append(from_arrays(images, labels, size))
        except ValueError as error:
            raise ValueError(f"load: {file}: {error}") from error
    return parts[0], parts[1]


def _arrays(file: Path) -> tuple[Tensor, Tensor]:
    """The images and labels of an npz file."""
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            found = {name: arrays[name] for name in ("images", "labels") if name in arrays.files}
    except Exception as error:  # numpy's, zipfile's and zlib's, by where the file is damaged
        raise ValueError(f"load: {file} cannot be read as an npz file: {error}") from error
    for name in ("images", "labels"):
        if name not in found:
            raise ValueError(f"load: {file} has no array {name}")
        if found[name].dtype.kind not in "biuf":
            raise ValueError(f"load: {file}: {name} must be numbers, got {found[name].dtype}")
    # In the byte order of this machine, which is all that torch knows.
    images, labels = (each.astype(each.dtype.newbyteorder("=")) for each in found.values())
    return torch.from_numpy(images), torch.from_numpy(labels)


def from_arrays(images: Tensor, labels: Tensor, size: int = DgmOptions.size) -> Samples:
    """Images as a run takes them, resized where they are not size x size (bilinear, as the
    paper's).

    Args:
        images: [N, H, W], [N, Ch, H, W] or [N, H, W, Ch] of 1 or 3 channels, uint8 or floating
            point in [0, 1].
        labels: [N], of any integer type, at least 0.
        size: a power of two from 16 on.

    Raises:
        TypeError, ValueError: other shapes or types; no images; values that are out of range.
    """
    doublings(size, "from_arrays")
    x = images[:, None] if images.dim() == 3 else images
    if x.dim() == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.movedim(3, 1)
    if x.dim() != 4 or x.shape[1] not in (1, 3) or not len(x):
        raise ValueError(
            "from_arrays: images must be [N, H, W], [N, Ch, H, W] or [N, H, W, Ch] with 1 or 3 "
            f"channels, got {list(images.shape)}"
        )
    integers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != x.shape[:1] or not integers:
        raise ValueError(
            f"from_arrays: labels must be integers [{len(x)}], got {labels.dtype} "
            f"{list(labels.shape)}"
        )
    labels = labels.long()
    if int(labels.min()) < 0:
        raise ValueError(f"from_arrays: labels must be at least 0, got {int(labels.min())}")
    if x.dtype != torch.uint8:
        if not x.is_floating_point() or not bool(((x >= 0) & (x <= 1)).all()):
            raise ValueError("from_arrays: images must be uint8, or floating point in [0, 1]")
        x = (255 * x).round().byte()
    if x.shape[2:] != (size, size):
        resized = [
            F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
            for part in x.split(1000)
        ]
        x = torch.cat([part.round().clamp(0, 255).byte() for part in resized])
    return x.contiguous(), labels


def run(
    config: DgmExperiment,
    train: Samples,
    test: Samples,
    path: str | os.PathLike[str],
    *,
    minutes: float = 10.0,
) -> tuple[Table, list[Path]]:
    """Learn the classes in ascending order; returns the table of tasks and the paths of plots.

    The folder `path` gets what `RunFolder` writes, with a line a task in metrics.jsonl: "task",
    "accuracy" on test images of all classes so far, "by_class", "seconds" of learning it since the
    last start, what `BestEpoch.record` has where there are validation images, and the method's
    `history` of it but the masks' ways. After each task there is
    images-task-T.png, images that the method has of all classes (figure 5); at the end what
    `dgm_report.plots` writes.

    A run that was cut short at any moment goes on from its last checkpoint, which is written after
    each task and every so many minutes, and comes to the same end.

    Raises:
        ModuleNotFoundError: no matplotlib.
        TypeError, ValueError: what `prepared` refuses; a folder that holds something else, or a run
            on other data.
        RuntimeError: a loss became NaN; the last checkpoint before it stays.
    """
    tasks, learner = prepared(config, train, test)
    title = f"{METHODS[config.method].title}, seed {config.seed}"
    folder = folder_of(path, config, train, test)
    best = _best_epoch(config, train, test)

    def state() -> dict[str, Any]:
        return {
            "learner": learner.state_dict(),
            "best": None if best is None else best.state_dict(),
        }

    if (checkpoint := folder.load_checkpoint()) is not None:
        learner.load_state_dict(checkpoint.state["learner"])
        if best is not None:
            best.load_state_dict(checkpoint.state["best"])
    batches = [-(-len(y) // config.options.batch) for _, y in tasks]
    ends = torch.tensor([0, *batches]).cumsum(0).mul(config.options.epochs).tolist()
    done = checkpoint.step if checkpoint is not None else 0
    with threads(config.threads), bar(title, ends[-1], done) as advance:
        if learner.tasks:
            _report(folder, learner, test, best, 0.0)  # where a kill came before it
        while learner.tasks < len(tasks):
            first, begin = ends[learner.tasks], time.monotonic()
            saved = begin

            def after_batch(at: Progress, first: int = first) -> None:
                nonlocal saved
                advance()
                if best is not None and at.batch + 1 == batches[at.task]:
                    best.after_epoch(learner, at, config.options.epochs)
                if time.monotonic() - saved >= 60 * minutes:
                    folder.save_checkpoint(state(), first + at.step + 1)
                    saved = time.monotonic()

            learner.fit_task([tasks[learner.tasks]], after_batch=after_batch)
            folder.save_checkpoint(state(), ends[learner.tasks])
            _report(folder, learner, test, best, time.monotonic() - begin)
    lines = folder.metrics()
    return table(lines, title), plots(lines, learner.history, folder.path)


def prepared(
    config: DgmExperiment, train: Samples, test: Samples
) -> tuple[list[Samples], GenerativeClassifier]:
    """The tasks of a run, and a learner that knows nothing.

    Raises:
        TypeError, ValueError: no test images of a class; images of another size than the options
            say; channels that differ; an option or device that cannot be.
    """
    tasks = _tasks(config, train)
    learnt = torch.cat([y for _, y in tasks]).unique()
    if len(absent := learnt[~torch.isin(learnt, test[1])]):
        raise ValueError(f"DgmExperiment: there are no test images of class {int(absent[0])}")
    size = config.options.size
    if other := {*train[0].shape[2:], *test[0].shape[2:]} - {size}:
        raise ValueError(
            f"DgmExperiment: images are of {max(other)} pixels, but options.size is {size}; pass "
            "them through from_arrays"
        )
    channels, others = train[0].shape[1], test[0].shape[1]
    if channels != others:
        raise ValueError(
            f"DgmExperiment: training images have {channels} channels, test images {others}"
        )
    return tasks, _learner(config, channels)


def folder_of(
    path: str | os.PathLike[str], config: DgmExperiment, train: Samples, test: Samples
) -> RunFolder:
    """Of a run on these data."""
    return RunFolder(path, {**asdict(config), "data_sha256": data_digest(*train, *test)})


def _tasks(config: DgmExperiment, train: Samples) -> list[Samples]:
    x, y = train
    learnt, _ = _rows(config, y)
    size, found = config.classes_per_task, []
    for start in range(0, len(learnt), size):
        together = torch.cat(learnt[start : start + size])
        found.append((x[together], y[together]))
    return found[: config.tasks]


def _rows(config: DgmExperiment, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Of training and of validation, for each class."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(config.seed))
    learnt, held = [], []
    for label in y.unique().tolist():
        rows = order[y[order] == label]
        left = len(rows) - config.validation
        if left < 1:
            raise ValueError(
                f"DgmExperiment: validation must leave images to learn; it is {config.validation}, "
                f"and class {label} has {len(rows)}"
            )
        learnt.append(rows[:left][: config.samples])
        held.append(rows[left:])
    return learnt, held


def _best_epoch(config: DgmExperiment, train: Samples, test: Samples) -> BestEpoch | None:
    if not config.validation:
        return None
    rows = torch.cat(_rows(config, train[1])[1])
    return BestEpoch((train[0][rows], train[1][rows]), test)


def _learner(config: DgmExperiment, channels: int) -> GenerativeClassifier:
    kind = METHODS[config.method].kind
    return kind(channels, seed=config.seed, device=config.device, **vars(config.options))


def _report(
    folder: RunFolder,
    learner: GenerativeClassifier,
    test: Samples,
    best: BestEpoch | None,
    seconds: float,
) -> None:
    """Of the task that ended last, unless that was done: accuracy, growth and pictures."""
    record = learner.history[-1]
    if any(line.get("task") == record["task"] for line in folder.metrics()):
        return
    labels = sorted(learner.classes)
    generator = torch.Generator(learner.device).manual_seed(0)
    shown = learner.generate(_SHOWN, labels, generator=generator)
    image_grid(
        shown.images,
        folder.path / f"images-task-{record['task']}.png",
        columns=_SHOWN,
        title=f"classes {labels[0]} to {labels[-1]}, after task {record['task']}",
    )
    # Last: a line says that all of it was done.
    folder.log(
        **{name: value for name, value in record.items() if name != "masks"},
        **accuracy(learner, test),
        **({} if best is None else best.record()),
        seconds=round(seconds, 1),
    )
