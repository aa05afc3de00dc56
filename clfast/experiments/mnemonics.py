"""Classes in phases: learners with exemplars of several kinds, one run of one of them."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._arguments import device, integer, one_of
from ..memory import ExemplarMemory
from ..methods import (
    LUCIR,
    BiC,
    ExemplarSelection,
    Herding,
    ICaRL,
    LwF,
    Phase,
    PhaseProgress,
    RandomSelection,
)
from ..methods.phases import PhaseLearner
from ..nn import CosineLinear, resnet18, resnet32
from ..streams import (
    CropAndFlip,
    SplitStream,
    TaskStream,
    load_cifar100,
    load_mnist,
)
from .mnemonics_report import WatchedMnemonics, exemplar_pictures, moved, table
from .online_adaptation import threads
from .progress import bar
from .run_folder import RunFolder, data_digest
from .tables import Table

Samples = tuple[Tensor, Tensor]
"""Images uint8 [N, Ch, H, W] and labels int64 [N]."""

LEARNERS = {"lwf": "LwF", "icarl": "iCaRL", "bic": "BiC", "lucir": "LUCIR"}
EXEMPLARS = ("random", "herding", "mnemonics", "mnemonics-unadjusted")
NETWORKS = ("resnet32", "resnet18", "convnet")


@dataclass(frozen=True)
class Training:
    """How exemplars are trained, see `Mnemonics`; None: as that has it for the objective."""

    objective: str = "bop_full"
    steps: int = 50
    inner_lr: float = 0.01
    inner_batch: int | None = None
    epochs: int | None = None
    lr: float | None = None
    adjust_lr: float | None = None
    halve_every: int | None = None
    batch: int = 128
    batches: int | None = None
    init: str | None = None
    folds: int | None = None
    """Of old exemplars; those of "mnemonics-unadjusted" stay."""


@dataclass(frozen=True)
class MnemonicsExperiment:
    """All that decides a run, but the data itself. The defaults are the paper's on CIFAR-100."""

    data: str = "cifar100"
    """Its name."""
    learner: str = "lucir"
    """Of `LEARNERS`."""
    exemplars: str = "herding"
    """Of `EXEMPLARS`."""
    phases: int = 5
    """N, after the first."""
    first: int | None = None
    """Classes of the first phase; None: half of all."""
    classes: int | None = None
    """So many, drawn by the seed; None: all."""
    samples: int | None = None
    """Training images of each class at most; None: all."""
    per_class: int = 20
    """Exemplars of each class; 0: as `total` says."""
    total: int | None = None
    """Exemplars of all classes together."""
    storage: str = "uint8"
    """Of exemplars: uint8 or float32."""
    network: str = "resnet32"
    """Of `NETWORKS`."""
    width: int = 16
    """Of the network."""
    epochs: int = 160
    """Of each phase; learning rates fall to a tenth after 1/2 and 3/4 of them."""
    batch: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    finetune_epochs: int = 50
    """On the exemplars, at the end of a phase, in every arm alike."""
    finetune_lr: float = 0.01
    transfer: str | None = "scale"
    """Of weights, from the second phase on: scale, scale_shift or None."""
    shift: int = 4
    """Training images are shifted by up to so many pixels."""
    flip: bool = True
    """Training images, and those that class means are of, are mirrored."""
    training: Training | None = None
    """Of exemplars, of those arms that train them; None: the paper's."""
    seed: int = 0
    device: str = "cpu"
    threads: int = 2

    @property
    def title(self) -> str:
        return f"{LEARNERS[self.learner]}, {self.exemplars}"


def load(data: str, root: str | os.PathLike[str]) -> tuple[Samples, Samples]:
    """Training and test images of "cifar100" or "mnist" from a folder.

    Raises:
        FileNotFoundError, ValueError: as `load_cifar100` and `load_mnist`; another name.
    """
    one_of(data, ("cifar100", "mnist"), "data", "load")
    if data == "cifar100":
        return load_cifar100(root)
    (x, y), (test_x, test_y) = load_mnist(root)
    return (x[:, None], y), (test_x[:, None], test_y)


def run(
    config: MnemonicsExperiment,
    train: Samples,
    test: Samples,
    path: str | os.PathLike[str],
    *,
    minutes: float = 10.0,
) -> tuple[Table, list[Path]]:
    """Learn half of the classes, then the others in N phases; returns a table of the phases and the
    paths of pictures.

    The folder `path` gets what `RunFolder` writes, with a line a phase in metrics.jsonl: "phase",
    "classes" seen, "accuracy" on test images of them, "by_phase", the accuracies on the classes of
    each phase, and "test_images", how many these are; "exemplars", how many there are, and their
    "bytes"; what `moved` says of those that were trained; "losses" of the last epoch, and "seconds"
    since the last start. After the first phase and the last there are exemplars-phase-P.png, the
    exemplars of five classes, and map-phase-P.png, where they are among the images of these; of
    trained ones begin-phase-0.png, the images that they began as.

    A run that was cut short at any moment goes on from its last checkpoint, which is written after
    each phase and, between epochs, every so many minutes, and comes to the same end.

    Raises:
        ModuleNotFoundError: no matplotlib.
        TypeError, ValueError: a configuration that cannot be; a folder that holds something else,
            or a run on other data; what `fit_task` refuses.
    """
    tasks, learner = prepared(config, train, test)
    folder = folder_of(path, config, train, test)
    about: dict[str, Any] = {}  # of the last phase
    if (checkpoint := folder.load_checkpoint(config.device)) is not None:
        learner.load_state_dict(checkpoint.state["learner"])
        about = checkpoint.state["about"]
    total, done = config.epochs * len(tasks), 0 if checkpoint is None else checkpoint.step
    pictures = []
    with threads(config.threads), bar(f"{config.title}, seed {config.seed}", total, done) as tick:
        if learner.phases:
            pictures += _report(folder, learner, tasks, about, 0.0)  # where a kill came before it
        while learner.phases < len(tasks):
            task, begin = tasks[learner.phases], time.monotonic()
            after_epoch = _saver(folder, learner, tick, minutes)
            losses = learner.fit_task([(task.train.x, task.train.y)], after_epoch=after_epoch)
            about = {"losses": losses, **moved(learner)}
            state = {"learner": learner.state_dict(), "about": about}
            folder.save_checkpoint(state, config.epochs * learner.phases)
            pictures += _report(folder, learner, tasks, about, time.monotonic() - begin)
    return table(folder.metrics(), f"{config.title}, seed {config.seed}"), pictures


def _saver(
    folder: RunFolder, learner: PhaseLearner, tick: Callable[[], None], minutes: float
) -> Callable[[PhaseProgress], None]:
    saved = time.monotonic()

    def after_epoch(at: PhaseProgress) -> None:
        nonlocal saved
        tick()
        if time.monotonic() - saved >= 60 * minutes:
            state = {"learner": learner.state_dict(), "about": {}}
            folder.save_checkpoint(state, at.phase * at.epochs + at.epoch)
            saved = time.monotonic()

    return after_epoch


def prepared(
    config: MnemonicsExperiment, train: Samples, test: Samples
) -> tuple[TaskStream, PhaseLearner]:
    """The phases of a run, their labels in the order of arrival, and a learner that knows nothing.

    Raises:
        TypeError, ValueError: a configuration that cannot be.
    """
    where = "MnemonicsExperiment"
    one_of(config.learner, LEARNERS, "learner", where)
    one_of(config.exemplars, EXEMPLARS, "exemplars", where)
    one_of(config.network, NETWORKS, "network", where)
    one_of(config.storage, ("uint8", "float32"), "storage", where)
    integer(config.phases, "phases", where, least=1)
    if config.first is not None:
        integer(config.first, "first", where, least=1)
    device(config.device, where)
    tasks = _tasks(config, train, test)
    classes = sum(len(task.classes) for task in tasks)
    return tasks, _learner(config, classes, train[0].shape[1])


def folder_of(
    path: str | os.PathLike[str], config: MnemonicsExperiment, train: Samples, test: Samples
) -> RunFolder:
    """Of a run on these data."""
    return RunFolder(path, {**asdict(config), "data_sha256": data_digest(*train, *test)})


def _tasks(config: MnemonicsExperiment, train: Samples, test: Samples) -> SplitStream:
    generator = torch.Generator().manual_seed(config.seed)
    found = train[1].unique()
    classes = found[torch.randperm(len(found), generator=generator)][: config.classes]
    order = torch.randperm(len(train[1]), generator=generator)
    y = train[1][order]
    rows = torch.cat([order[y == label][: config.samples] for label in classes])
    kept = torch.isin(test[1], classes).nonzero()[:, 0]
    first = config.first or max(1, len(classes) // 2)
    if first >= len(classes) or (len(classes) - first) % config.phases:
        raise ValueError(
            f"MnemonicsExperiment: phases is {config.phases}, but {len(classes)} classes, {first} "
            "of them first, leave no equal number for each; change phases, classes or first"
        )
    return SplitStream(
        (train[0][rows], train[1][rows]),
        (test[0][kept], test[1][kept]),
        num_tasks=config.phases + 1,
        first_task_classes=first,
        class_order=classes.tolist(),
        relabel=True,
    )


def _learner(config: MnemonicsExperiment, classes: int, channels: int) -> PhaseLearner:
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = _network(config, classes, channels)
    network.to(config.device)
    features, head = network.get_submodule("features"), network.get_submodule("head")
    optimizer = torch.optim.SGD(
        network.parameters(), lr=config.lr, momentum=0.9, weight_decay=config.weight_decay
    )
    budget = {"total": config.total} if config.per_class == 0 else {"per_class": config.per_class}
    options: dict[str, Any] = {
        "exemplars": ExemplarMemory(**budget, dtype=getattr(torch, config.storage)),
        "selection": _selection(config),
        "phase": Phase(
            epochs=config.epochs,
            batch=config.batch,
            milestones=(config.epochs // 2, config.epochs * 3 // 4),
            augment=CropAndFlip(config.shift, flip=config.flip),
            finetune_epochs=config.finetune_epochs,
            finetune_lr=config.finetune_lr,
        ),
        "transfer": config.transfer,
        "generator": torch.Generator().manual_seed(config.seed),
    }
    if config.learner == "lwf":
        return LwF(network, optimizer, temperature=2.0, **options)
    if config.learner == "icarl":
        return ICaRL(features, head, optimizer, loss="softmax", mirror=config.flip, **options)
    if config.learner == "bic":
        return BiC(features, head, optimizer, **options)
    assert isinstance(head, CosineLinear)
    return LUCIR(features, head, optimizer, **options)


def _selection(config: MnemonicsExperiment) -> ExemplarSelection:
    if config.exemplars == "random":
        return RandomSelection()
    if config.exemplars == "herding":
        return Herding()
    options: dict[str, Any] = asdict(config.training or Training())
    if config.exemplars == "mnemonics-unadjusted":
        options["folds"] = 1
    return WatchedMnemonics(**options, values=(0.0, 1.0))


def _network(config: MnemonicsExperiment, classes: int, channels: int) -> nn.Sequential:
    """LUCIR's has features of either sign and a cosine head."""
    cosine = config.learner == "lucir"
    if config.network == "resnet18":
        network = resnet18(classes, config.width, channels, last_relu=not cosine)
    elif config.network == "resnet32":
        network = resnet32(classes, config.width, channels, last_relu=not cosine)
    else:
        network = _convnet(classes, config.width, channels, last_relu=not cosine)
    if cosine:
        head = network.get_submodule("head")
        assert isinstance(head, nn.Linear)
        network.set_submodule("head", CosineLinear(head.in_features, classes))
    return network


def _convnet(classes: int, width: int, channels: int, *, last_relu: bool) -> nn.Sequential:
    """Three convolutions of width, 2 and 4 times that, each with batch normalisation, a ReLU and
    half the side, and the mean over places."""
    layers: list[nn.Module] = []
    inside = channels
    for multiple in (1, 2, 4):
        outside = multiple * width
        layers += [
            nn.Conv2d(inside, outside, 3, 2, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        ]
        inside = outside
    features = nn.Sequential(
        *layers[: None if last_relu else -1], nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return nn.Sequential(OrderedDict(features=features, head=nn.Linear(inside, classes)))


def _report(
    folder: RunFolder,
    learner: PhaseLearner,
    tasks: TaskStream,
    about: dict[str, Any],
    seconds: float,
) -> list[Path]:
    """Of the phase that ended last, unless that was done."""
    phase = learner.phases - 1
    if any(line.get("phase") == phase for line in folder.metrics()):
        return []
    device = next(learner.model.parameters()).device
    right, sizes = [], []
    for task in tasks[: phase + 1]:
        said = [learner.predict(part.to(device)).cpu() for part in task.test.x.split(500)]
        right.append(int((torch.cat(said) == task.test.y).sum()))
        sizes.append(len(task.test))
    pictures = []
    if phase in (0, len(tasks) - 1):
        first = tasks[0].train
        pictures = exemplar_pictures(learner, first.x, first.y, folder.path, phase)
    # Last: a line says that all of it was done.
    folder.log(
        phase=phase,
        classes=sum(len(task.classes) for task in tasks[: phase + 1]),
        accuracy=sum(right) / sum(sizes),
        by_phase=[hits / size for hits, size in zip(right, sizes, strict=True)],
        test_images=sizes,
        exemplars=sum(map(len, learner.memories)),
        bytes=sum(memory.nbytes for memory in learner.memories),
        **about,
        seconds=round(seconds, 1),
    )
    return pictures
