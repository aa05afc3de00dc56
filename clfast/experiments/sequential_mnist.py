"""Sequential MNIST-5k-5: table 6 of the ARM paper.

Five tasks of two digits each, 500 images a digit, seen once in batches of ten by an MLP with one
head of ten classes. Accuracy is on the test images of all tasks, and forgetting the mean drop from
the best accuracy that a task has had.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._files import write_text
from ..methods import ARM, Finetune, Learner, LwF
from ..methods.arm import ArmOptions
from ..streams import AccuracyMatrix, SplitStream
from .images import NUM_CLASSES, Images
from .online_adaptation import threads
from .plots import learning_curves
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

    methods: tuple[str, ...] = ("ARM", "LwF", "SGD")
    recall: ArmOptions = RECALL
    repeats: int = 1
    """Recall and replay so often a batch."""
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
    if name == "SGD":
        return Finetune(network, optimizer)
    if name == "LwF":
        return LwF(network, optimizer)
    if name == "ARM":
        generator = torch.Generator().manual_seed(seed)
        options = vars(config.recall)
        return ARM(network, optimizer, repeats=config.repeats, generator=generator, **options)
    raise ValueError(f"SequentialMnist: methods must be ARM, LwF and SGD, got {name!r}")


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


def one_seed(config: SequentialMnist, images: Images, seed: int) -> dict[str, Record]:
    """By method: "accuracy" and "forgetting" in [0, 1] after the last task, "matrix" of accuracies
    by task after each task, "ms" of learning a batch after the first task."""
    stream = stream_of(config, images, seed)
    found = {}
    for name in track(config.methods, f"Sequential MNIST, seed {seed}"):
        method, matrix, spent, batches = learner(name, config, seed), AccuracyMatrix(TASKS), 0.0, 0
        for task in stream:
            x, y = task.train.x, task.train.y
            begin = time.perf_counter()
            for rows in torch.arange(len(y)).split(config.batch):
                method.observe(x[rows], y[rows])
            method.on_task_end()
            if task.index > 0:
                spent += time.perf_counter() - begin
                batches += -(-len(y) // config.batch)
            for known in stream:
                matrix[task.index, known.index] = _accuracy(method, known.test.x, known.test.y)
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


def run(
    config: SequentialMnist, images: Images, path: str | os.PathLike[str]
) -> tuple[Table, Path]:
    """All seeds of `config`; returns the table of results and the path of the plot.

    The folder `path` gets what `RunFolder` writes, with "seed", "results" (of `one_seed`) and
    "seconds" a line in metrics.jsonl, and table.json and accuracy.png. A run that was cut short
    goes on with the seeds that are missing.

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
                results = one_seed(config, images, seed)
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
