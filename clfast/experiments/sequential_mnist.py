"""Sequential MNIST-5k-5: table 6 of the ARM paper.

Five tasks of two digits each, 500 images a digit, seen once in batches of ten by an MLP with one
head of ten classes. Accuracy is on the test images of all tasks, and forgetting the mean drop from
the best accuracy that a task has had.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._files import write_text
from ..memory import ReplayBuffer
from ..methods import ADI, AGEM, ARM, ER, ERMIR, GEM, Finetune, Learner, LwF
from ..methods.arm import ArmOptions
from ..methods.image_recall import RecallOptions
from ..methods.image_replay import ImageReplay
from ..methods.rehearsal import BufferRehearsal
from ..streams import AccuracyMatrix, SplitStream
from .images import NUM_CLASSES, Images
from .online_adaptation import threads
from .plots import image_grid, learning_curves
from .progress import track
from .run_folder import RunFolder
from .tables import MeanStd, Table

Record = dict[str, Any]
TASKS = 5


# Of the authors' command for MNIST.
RECALL = ArmOptions(images=10, lr=25.0, image_shape=(1, 28, 28))


@dataclass(frozen=True)
class SequentialMnist:
    """All that decides a run, but the folder of the data."""

    methods: tuple[str, ...] = ("ARM", "ADI", "LwF", "SGD", "ER", "ER-MIR", "A-GEM", "GEM")
    recall: ArmOptions = RECALL
    """ADI goes by what it shares with ARM."""
    repeats: int = 1
    """Recall and replay so often a batch."""
    memory: int = 50
    """Images that the methods with a buffer store; GEM stores a fifth of them of each task."""
    replay: int = 10
    """Of them rehearsed with a batch."""
    samples: int = 500
    """Training images of each digit."""
    batch: int = 10
    lr: float = 0.05
    """Of SGD, which takes all steps on the network."""
    hidden: int = 400
    """Units of both hidden layers."""
    seeds: int = 5
    threads: int = 2


def learner(name: str, config: SequentialMnist, seed: int) -> Learner:
    """A method on a network of its own, which starts alike for all methods of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(784, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, NUM_CLASSES),
        )
    optimizer = torch.optim.SGD(network.parameters(), lr=config.lr)
    if name not in METHODS:
        raise ValueError(f"SequentialMnist: methods must be {', '.join(METHODS)}, got {name!r}")
    return METHODS[name](network, optimizer, config, torch.Generator().manual_seed(seed))


Make = Callable[[nn.Module, torch.optim.Optimizer, SequentialMnist, torch.Generator], Learner]


def _arm(n: nn.Module, o: torch.optim.Optimizer, c: SequentialMnist, g: torch.Generator) -> ARM:
    return ARM(n, o, repeats=c.repeats, generator=g, **vars(c.recall))


def _adi(n: nn.Module, o: torch.optim.Optimizer, c: SequentialMnist, g: torch.Generator) -> ADI:
    shared = {field.name: getattr(c.recall, field.name) for field in fields(RecallOptions)}
    # The weight of the authors' command for MNIST.
    return ADI(n, o, repeats=c.repeats, generator=g, distill_weight=0.5, **shared)


def _buffer(kind: type[BufferRehearsal]) -> Make:
    def make(
        n: nn.Module, o: torch.optim.Optimizer, c: SequentialMnist, g: torch.Generator
    ) -> Learner:
        memory = ReplayBuffer(c.memory, generator=torch.Generator().manual_seed(g.initial_seed()))
        return kind(n, o, memory, replay=c.replay, generator=g)

    return make


METHODS: dict[str, Make] = {
    "ARM": _arm,
    "ADI": _adi,
    "LwF": lambda n, o, c, g: LwF(n, o),
    "SGD": lambda n, o, c, g: Finetune(n, o),
    "ER": _buffer(ER),
    "ER-MIR": _buffer(ERMIR),
    "A-GEM": _buffer(AGEM),
    "GEM": lambda n, o, c, g: GEM(n, o, per_task=max(1, c.memory // TASKS)),
}


def stream_of(config: SequentialMnist, images: Images, seed: int) -> SplitStream:
    """The digits in their order, the images of each drawn and mixed by the seed."""
    generator = torch.Generator().manual_seed(seed)
    x, y = images.pool
    order = torch.randperm(len(y), generator=generator)
    rows = [order[y[order] == digit][: config.samples] for digit in range(NUM_CLASSES)]
    mixed = torch.cat(rows)[torch.randperm(sum(map(len, rows)), generator=generator)]
    test_x, test_y = images.test
    return SplitStream(
        (x[mixed].flatten(1), y[mixed]), (test_x.flatten(1), test_y), num_tasks=TASKS
    )


def one_seed(
    config: SequentialMnist, images: Images, seed: int, pictures: Path | None = None
) -> dict[str, Record]:
    """By method: "accuracy" and "forgetting" in [0, 1] after the last task, "matrix" of accuracies
    by task after each task, "ms" of learning a batch after the first task.

    pictures: a folder for the images that methods recall, recalled-<method>.png.
    """
    stream = stream_of(config, images, seed)
    found = {}
    for name in track(config.methods, f"Sequential MNIST, seed {seed}"):
        method, matrix, spent, batches = learner(name, config, seed), AccuracyMatrix(TASKS), 0.0, 0
        shown: list[tuple[Tensor, list[str]]] = []
        for task in stream:
            x, y = task.train.x, task.train.y
            begin = time.perf_counter()
            for rows in torch.arange(len(y)).split(config.batch):
                method.observe(x[rows], y[rows])
            if pictures is not None and task.index > 0 and isinstance(method, ImageReplay):
                shown += _recalled(method, x[rows], y[rows])
            method.on_task_end()
            if task.index > 0:
                spent += time.perf_counter() - begin
                batches += -(-len(y) // config.batch)
            for known in stream:
                matrix[task.index, known.index] = _accuracy(method, known.test.x, known.test.y)
        if shown and pictures is not None:
            _picture(name, shown, pictures / f"recalled-{name.lower()}.png")
        sizes = [len(task.test.y) for task in stream]
        found[name] = {
            "accuracy": matrix.average_accuracy(weights=sizes),
            "forgetting": matrix.forgetting(),
            "matrix": matrix.values.tolist(),
            "ms": 1e3 * spent / max(1, batches),
        }
    return found


def _accuracy(method: Learner, x: Tensor, y: Tensor) -> float:
    return float((method.predict(x) == y).float().mean())


def _recalled(method: ImageReplay, x: Tensor, y: Tensor) -> list[tuple[Tensor, list[str]]]:
    """A batch with its labels, and what is recalled from it with what the old network says; asked
    of a copy, so that the run goes on as it would."""
    found = copy.deepcopy(method).recall(x, y)
    said = found.old_logits.argmax(1).tolist()
    return [(x, [str(label) for label in y.tolist()]), (found.images, [str(s) for s in said])]


def _picture(name: str, shown: list[tuple[Tensor, list[str]]], path: Path) -> None:
    images, titles = zip(*shown, strict=True)
    image_grid(
        torch.cat(images).view(-1, 28, 28),
        path,
        columns=len(images[0]),
        titles=[title for row in titles for title in row],
        title=f"{name}: batches of tasks 2 to {TASKS}, below each what is recalled",
    )


def run(
    config: SequentialMnist,
    images: Images,
    path: str | os.PathLike[str],
    *,
    save_recall: bool = False,
) -> tuple[Table, Path]:
    """All seeds of `config`; returns the table of results and the path of the plot.

    The folder `path` gets what `RunFolder` writes, with "seed", "results" (of `one_seed`) and
    "seconds" a line in metrics.jsonl, and table.json and accuracy.png; with `save_recall` images
    that were recalled in the first seed, recalled-<method>.png. A run that was cut short goes on
    with the seeds that are missing.

    Raises:
        ModuleNotFoundError: no matplotlib.
        ValueError: the folder holds something else; a method that is not known.
    """
    folder = RunFolder(path, config)
    done = {line.get("seed") for line in folder.metrics()}
    with threads(config.threads):
        for seed in range(config.seeds):
            if seed not in done:
                begin = time.perf_counter()
                pictures = folder.path if save_recall and seed == 0 else None
                results = one_seed(config, images, seed, pictures)
                folder.log(seed=seed, results=results, seconds=round(time.perf_counter() - begin))
    lines = [line["results"] for line in folder.metrics() if "results" in line]
    results_table = table(config, lines)
    write_text(folder.path / "table.json", results_table.to_json())
    return results_table, plot(config, lines, folder.path / "accuracy.png")


def table(config: SequentialMnist, lines: Sequence[dict[str, Record]]) -> Table:
    """A row a method, mean and deviation over seeds."""
    found = Table(
        f"Sequential MNIST-5k-5, {len(lines)} seeds",
        ["method", "accuracy (%)", "forgetting (%)", "ms a batch"],
        digits=[0, 2, 2, 3],
    )
    for name in config.methods:
        records = [line[name] for line in lines]
        percent = [MeanStd.of(100 * r[key] for r in records) for key in ("accuracy", "forgetting")]
        found.add_row(name, *percent, MeanStd.of(r["ms"] for r in records))
    return found


def plot(config: SequentialMnist, lines: Sequence[dict[str, Record]], path: Path) -> Path:
    """The mean accuracy on the tasks so far, against their number; a PNG."""
    curves = {
        name: [
            [100 * sum(row[: i + 1]) / (i + 1) for i, row in enumerate(line[name]["matrix"])]
            for line in lines
        ]
        for name in config.methods
    }
    return learning_curves(
        curves,
        path,
        title=f"Sequential MNIST-5k-5: mean ± std over {len(lines)} seeds",
        xlabel="tasks learnt",
        ylabel="accuracy on all of them (%)",
    )
