"""Five tasks of two classes each, seen once in batches of ten, by a network with one head: tables 1
and 6 of the ARM paper.

Sequential MNIST-5k-5 is 500 images a digit and an MLP. Of CIFAR-100 ten classes are drawn, for a
ResNet-18 of 20 channels, as the paper's on CIFAR-10. Accuracy is on the test images of all tasks,
and forgetting the mean drop from the best accuracy that a task has had.
"""

from __future__ import annotations

import copy
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._files import write_text
from ..memory import ExemplarMemory, ReplayBuffer
from ..methods import ADI, AGEM, ARM, ER, ERMIR, GEM, Finetune, ICaRL, Learner, LwF
from ..methods.arm import ArmOptions
from ..methods.image_recall import RecallOptions
from ..methods.image_replay import ImageReplay
from ..methods.rehearsal import BufferRehearsal
from ..nn import resnet18
from ..streams import AccuracyMatrix, SplitStream, load_cifar100
from .images import NUM_CLASSES, load_images
from .online_adaptation import threads
from .plots import image_grid, learning_curves
from .progress import track
from .run_folder import RunFolder
from .tables import MeanStd, Table

Record = dict[str, Any]
TASKS = 5

_RECALLING = ("ARM", "ADI")
USED_BY: dict[str, tuple[str, ...]] = {
    **{each.name: ("ARM",) for each in fields(ArmOptions)},
    **{each.name: _RECALLING for each in fields(RecallOptions)},
    "repeats": _RECALLING,
    "save_recall": _RECALLING,
    "memory": ("ER", "ER-MIR", "A-GEM", "GEM", "iCaRL"),
    "icarl_steps": ("iCaRL",),
}
"""Options that not all methods have, and those which have them."""


@dataclass(frozen=True)
class SequentialTasks:
    """All that decides a run, but the folder of the data. Defaults are those of the authors'
    command for CIFAR-10; see `MNIST`."""

    data: Literal["mnist", "cifar100"] = "cifar100"
    methods: tuple[str, ...] = (
        *("ARM", "ADI", "LwF", "SGD", "ER", "ER-MIR", "A-GEM", "GEM", "iCaRL"),
    )
    recall: ArmOptions = field(default_factory=ArmOptions)
    """ADI goes by what it shares with ARM."""
    adi_distill_weight: float = 1.0
    repeats: int = 1
    """Recall and replay so often a batch."""
    memory: int = 50
    """Images that the methods with a buffer store; GEM stores a fifth of them of each task, and
    iCaRL as many of each class seen as fill it."""
    replay: int = 10
    """Of them rehearsed with a batch."""
    icarl_steps: int = 5
    """Of iCaRL on each batch."""
    samples: int = 500
    """Training images of each class."""
    batch: int = 10
    batches: int | None = None
    """Of each task at most; None: all."""
    lr: float = 0.01
    """Of SGD, which takes all steps on the network."""
    width: int = 20
    """Of the network: units of both hidden layers, or channels of the first stage."""
    seeds: int = 5
    threads: int = 2


MNIST = SequentialTasks(
    data="mnist",
    recall=ArmOptions(images=10, lr=25.0, image_shape=(1, 28, 28)),
    adi_distill_weight=0.5,
    lr=0.05,
    width=400,
)
CIFAR100 = SequentialTasks()
CONFIGS = {"mnist": MNIST, "cifar100": CIFAR100}
TITLES = {"mnist": "Sequential MNIST-5k-5", "cifar100": "Sequential CIFAR, 5 x 2 of 100 classes"}
Samples = tuple[Tensor, Tensor]
"""Images [N, Ch, H, W], in [0, 1] or uint8, and labels [N] int64."""


def load(data: str, root: str | os.PathLike[str]) -> tuple[Samples, Samples]:
    """Training and test images from the folder.

    Raises as `load_mnist` and `load_cifar100`.
    """
    if data == "mnist":
        images = load_images("mnist", root)
        return images.pool, images.test
    return load_cifar100(root)


def learner(name: str, config: SequentialTasks, seed: int) -> Learner:
    """A method on a network of its own, which starts alike for all methods of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(config)
    optimizer = torch.optim.SGD(network.parameters(), lr=config.lr)
    if name not in METHODS:
        raise ValueError(f"SequentialTasks: methods must be {', '.join(METHODS)}, got {name!r}")
    return METHODS[name](network, optimizer, config, torch.Generator().manual_seed(seed))


Make = Callable[[nn.Module, torch.optim.Optimizer, SequentialTasks, torch.Generator], Learner]


def _arm(n: nn.Module, o: torch.optim.Optimizer, c: SequentialTasks, g: torch.Generator) -> ARM:
    return ARM(n, o, repeats=c.repeats, generator=g, **vars(c.recall))


def _adi(n: nn.Module, o: torch.optim.Optimizer, c: SequentialTasks, g: torch.Generator) -> ADI:
    shared = {each.name: getattr(c.recall, each.name) for each in fields(RecallOptions)}
    distill = c.adi_distill_weight
    return ADI(n, o, repeats=c.repeats, generator=g, distill_weight=distill, **shared)


def _buffer(kind: type[BufferRehearsal]) -> Make:
    def make(
        n: nn.Module, o: torch.optim.Optimizer, c: SequentialTasks, g: torch.Generator
    ) -> Learner:
        memory = ReplayBuffer(c.memory, generator=torch.Generator().manual_seed(g.initial_seed()))
        return kind(n, o, memory, replay=c.replay, generator=g)

    return make


def _icarl(n: nn.Module, o: torch.optim.Optimizer, c: SequentialTasks, g: torch.Generator) -> ICaRL:
    features, head = n.get_submodule("features"), n.get_submodule("head")
    exemplars, mirror = ExemplarMemory(total=c.memory), c.data == "cifar100"
    return ICaRL(
        *(features, head, o), exemplars=exemplars, replay=c.replay, mirror=mirror, generator=g
    )


METHODS: dict[str, Make] = {
    "ARM": _arm,
    "ADI": _adi,
    "LwF": lambda n, o, c, g: LwF(n, o),
    "SGD": lambda n, o, c, g: Finetune(n, o),
    "ER": _buffer(ER),
    "ER-MIR": _buffer(ERMIR),
    "A-GEM": _buffer(AGEM),
    "GEM": lambda n, o, c, g: GEM(n, o, per_task=max(1, c.memory // TASKS)),
    "iCaRL": _icarl,
}


def _network(config: SequentialTasks) -> nn.Module:
    if config.data == "cifar100":
        return resnet18(NUM_CLASSES, config.width)
    features = nn.Sequential(
        nn.Linear(784, config.width),
        nn.ReLU(),
        nn.Linear(config.width, config.width),
        nn.ReLU(),
    )
    head = nn.Linear(config.width, NUM_CLASSES)
    return nn.Sequential(OrderedDict(features=features, head=head))


def stream_of(config: SequentialTasks, train: Samples, test: Samples, seed: int) -> SplitStream:
    """The images of each class are drawn and mixed by the seed. Digits come in their order; of
    CIFAR's classes the seed draws ten, and labels say when they came."""
    generator = torch.Generator().manual_seed(seed)
    (x, y), (test_x, test_y) = train, test
    classes = list(range(NUM_CLASSES))
    if config.data == "cifar100":
        classes = torch.randperm(int(y.max()) + 1, generator=generator)[:NUM_CLASSES].tolist()
    order = torch.randperm(len(y), generator=generator)
    rows = [order[y[order] == label][: config.samples] for label in classes]
    mixed = torch.cat(rows)[torch.randperm(sum(map(len, rows)), generator=generator)]
    tested = torch.isin(test_y, torch.tensor(classes))
    size = NUM_CLASSES // TASKS
    return SplitStream(
        (_as_taken(x[mixed], config), y[mixed]),
        (_as_taken(test_x[tested], config), test_y[tested]),
        class_lists=[classes[i : i + size] for i in range(0, NUM_CLASSES, size)],
        relabel=True,
    )


def _as_taken(x: Tensor, config: SequentialTasks) -> Tensor:
    """By the network: vectors, or images, in [0, 1]."""
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    return x.flatten(1) if config.data == "mnist" else x


def one_seed(
    config: SequentialTasks,
    train: Samples,
    test: Samples,
    seed: int,
    pictures: Path | None = None,
) -> dict[str, Record]:
    """By method: "accuracy" and "forgetting" in [0, 1] after the last task, "matrix" of accuracies
    by task after each task, "ms" of learning a batch after the first task. Of a method that
    diverged, whose losses, gradients or predictions were no longer finite: "diverged", what it had
    to say of that.

    pictures: a folder for the images that methods recall, recalled-<method>.png.
    """
    stream = stream_of(config, train, test, seed)
    found = {}
    for name in track(config.methods, f"{TITLES[config.data]}, seed {seed}"):
        path = None if pictures is None else pictures / f"recalled-{name.lower()}.png"
        method = learner(name, config, seed)
        try:
            found[name] = _one_run(name, method, config, stream, path)
        except ValueError as error:  # batches are good, so that numbers have grown too large
            found[name] = {"diverged": str(error)}
    return found


def _one_run(
    name: str, method: Learner, config: SequentialTasks, stream: SplitStream, picture: Path | None
) -> Record:
    matrix, spent, batches = AccuracyMatrix(TASKS), 0.0, 0
    shown: list[tuple[Tensor, list[str]]] = []
    for task in stream:
        x, y = task.train.x, task.train.y
        taken = torch.arange(len(y)).split(config.batch)[: config.batches]
        begin = time.perf_counter()
        for rows in taken:
            for _ in range(config.icarl_steps if name == "iCaRL" else 1):
                method.observe(x[rows], y[rows])
        if task.index > 0:
            spent += time.perf_counter() - begin
            batches += len(taken)
            if picture is not None and isinstance(method, ImageReplay):
                shown += _recalled(method, x[taken[-1]], y[taken[-1]])
        seen = torch.cat(taken)
        method.on_task_end([(x[seen], y[seen])])
        for known in stream:
            matrix[task.index, known.index] = _accuracy(method, known.test.x, known.test.y)
    if shown and picture is not None:
        _picture(name, shown, picture)
    return {
        "accuracy": matrix.average_accuracy(weights=[len(task.test.y) for task in stream]),
        "forgetting": matrix.forgetting(),
        "matrix": matrix.values.tolist(),
        "ms": 1e3 * spent / max(1, batches),
    }


def _accuracy(method: Learner, x: Tensor, y: Tensor) -> float:
    return float((method.predict(x) == y).float().mean())


def _recalled(method: ImageReplay, x: Tensor, y: Tensor) -> list[tuple[Tensor, list[str]]]:
    """A batch with its labels, and what is recalled from it with what the old network says; asked
    of a copy, so that the run goes on as it would."""
    found = copy.deepcopy(method).recall(x, y)
    shape = (-1, 28, 28) if x.dim() == 2 else x.shape
    rows = ((x, y), (found.images[: len(x)], found.old_logits[: len(x)].argmax(1)))
    return [(images.view(shape), list(map(str, labels.tolist()))) for images, labels in rows]


def _picture(name: str, shown: list[tuple[Tensor, list[str]]], path: Path) -> None:
    images, titles = zip(*shown, strict=True)
    image_grid(
        torch.cat(images),
        path,
        columns=len(images[0]),
        titles=[title for row in titles for title in row],
        title=f"{name}: batches of tasks 2 to {TASKS}, below each what is recalled",
    )


def run(
    config: SequentialTasks,
    train: Samples,
    test: Samples,
    path: str | os.PathLike[str],
    *,
    save_recall: bool = False,
) -> tuple[Table, Path | None]:
    """All seeds of `config`; returns the table of results and the path of the plot, None where
    nothing came to the end.

    The folder `path` gets what `RunFolder` writes, with "seed", "results" (of `one_seed`) and
    "seconds" a line in metrics.jsonl, and table.json and accuracy.png; with `save_recall` images
    that were recalled in the first seed, recalled-<method>.png. A run that was cut short goes on
    with the seeds that are missing.

    Raises:
        ModuleNotFoundError: no matplotlib.
        ValueError: the folder holds something else; a method that is not known; `save_recall` for a
            run whose first seed is there already.
    """
    folder = RunFolder(path, config)
    done = {line.get("seed") for line in folder.metrics()}
    if save_recall and 0 in done:
        raise ValueError(
            f"SequentialTasks: {folder.path} has its first seed, whose images are gone: images are "
            "saved by a run into a new folder"
        )
    with threads(config.threads):
        for seed in range(config.seeds):
            if seed not in done:
                begin = time.perf_counter()
                pictures = folder.path if save_recall and seed == 0 else None
                results = one_seed(config, train, test, seed, pictures)
                folder.log(seed=seed, results=results, seconds=round(time.perf_counter() - begin))
    lines = [line["results"] for line in folder.metrics() if "results" in line]
    results_table = table(config, lines)
    write_text(folder.path / "table.json", results_table.to_json())
    return results_table, plot(config, lines, folder.path / "accuracy.png")


def _whole(lines: Sequence[dict[str, Record]], name: str) -> list[Record]:
    """Of the seeds in which the method came to the end."""
    return [line[name] for line in lines if "diverged" not in line[name]]


def table(config: SequentialTasks, lines: Sequence[dict[str, Record]]) -> Table:
    """A row a method: how many seeds diverged, and mean and deviation over the others."""
    found = Table(
        f"{TITLES[config.data]}, {len(lines)} seeds",
        ["method", "diverged", "accuracy (%)", "forgetting (%)", "ms a batch"],
        digits=[0, 0, 2, 2, 3],
    )
    for name in config.methods:
        records = _whole(lines, name)
        means = [
            MeanStd.of(scale * record[key] for record in records) if records else None
            for key, scale in (("accuracy", 100), ("forgetting", 100), ("ms", 1))
        ]
        found.add_row(name, len(lines) - len(records), *means)
    return found


def plot(config: SequentialTasks, lines: Sequence[dict[str, Record]], path: Path) -> Path | None:
    """The mean accuracy on the tasks so far, against their number; a PNG, if there is a curve."""
    curves = {
        name: [
            [100 * sum(row[: i + 1]) / (i + 1) for i, row in enumerate(line["matrix"])]
            for line in whole
        ]
        for name in config.methods
        if (whole := _whole(lines, name))
    }
    if not curves:
        return None
    return learning_curves(
        curves,
        path,
        title=f"{TITLES[config.data]}: mean ± std over {len(lines)} seeds",
        xlabel="tasks learnt",
        ylabel="accuracy on all of them (%)",
    )
