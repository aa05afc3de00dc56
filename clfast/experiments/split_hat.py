"""Split MNIST with a head for every task: HAT, and plain training of the same network.

Five tasks of two digits, all training images of each, several epochs. What is looked at is not
only how accuracy on a task falls, but whether any output for its test images changes at all from
the moment when the task ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._files import write_text
from .._modes import evaluating
from ..methods import HAT, Finetune
from ..nn import TaskHeads, at_task, hat_layers, hat_mlp, masks_at
from ..nn.masked import Keep
from ..streams import AccuracyMatrix, SplitStream, Task
from .images import NUM_CLASSES, Samples, load_images
from .online_adaptation import threads
from .plots import learning_curves
from .progress import track
from .run_folder import RunFolder
from .tables import MeanStd, Table

Record = dict[str, Any]
TASKS = 5
METHODS = ("HAT", "HAT, soft masks", "SGD")


@dataclass(frozen=True)
class SplitHAT:
    """All that decides a run, but the folder of the data. Defaults are HAT's where it has them."""

    methods: tuple[str, ...] = METHODS
    widths: tuple[int, ...] = (400, 400)
    """Units of the hidden layers; HAT's experiments have 2000."""
    epochs: int = 5
    batch: int = 64
    lr: float = 0.05
    """Of SGD, also of plain training."""
    sparsity: float = 0.75
    max_scale: float = 400.0
    samples: int | None = None
    """Training images of each digit at most; None: all."""
    seeds: int = 5
    threads: int = 2


def load(root: str | os.PathLike[str]) -> tuple[Samples, Samples]:
    """Training and test images of MNIST from the folder.

    Raises as `load_mnist`.
    """
    images = load_images("mnist", root)
    return images.pool, images.test


def stream_of(config: SplitHAT, train: Samples, test: Samples, seed: int) -> SplitStream:
    """Digits 0 and 1, 2 and 3, ..., with labels 0 and 1 in each task; the seed draws the images."""
    (x, y), (test_x, test_y) = train, test
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([order[y[order] == label][: config.samples] for label in range(NUM_CLASSES)])
    pairs = ((x[rows].flatten(1), y[rows]), (test_x.flatten(1), test_y))
    return SplitStream(*pairs, num_tasks=TASKS, relabel="task")


class Shuffled:
    """Batches of array data, in another order in every epoch."""

    def __init__(self, x: Tensor, y: Tensor, batch: int, generator: torch.Generator) -> None:
        self._x, self._y, self._batch, self._generator = x, y, batch, generator

    def __len__(self) -> int:
        return -(-len(self._y) // self._batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self._y), generator=self._generator)
        for rows in order.split(self._batch):
            yield self._x[rows], self._y[rows]


def learner(name: str, config: SplitHAT, seed: int) -> HAT | Finetune:
    """A method on a network of its own, whose weights begin alike for all methods of a seed.

    Raises:
        ValueError: a name that is not in `METHODS`.
    """
    if name not in METHODS:
        raise ValueError(f"SplitHAT: methods must be of {', '.join(METHODS)}, got {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        keep: Keep = "soft" if name == "HAT, soft masks" else "binary"
        network = hat_mlp(784, config.widths, NUM_CLASSES // TASKS, keep=keep)
    if name == "SGD":
        plain = _without_masks(network)
        return Finetune(plain, torch.optim.SGD(plain.parameters(), lr=config.lr))
    return HAT(
        network,
        lr=config.lr,
        epochs=config.epochs,
        sparsity=config.sparsity,
        max_scale=config.max_scale,
        generator=torch.Generator().manual_seed(seed),
    )


def _without_masks(network: nn.Sequential) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in hat_layers(network).values():
        linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[0])
        linear.load_state_dict({"weight": layer.weight, "bias": layer.bias})
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers, network[-1])


def learn(method: HAT | Finetune, task: Task, config: SplitHAT, generator: torch.Generator) -> None:
    """The epochs of a task, and its end."""
    batches = Shuffled(task.train.x, task.train.y, config.batch, generator)
    if isinstance(method, HAT):
        method.fit_task(batches)
    else:
        heads = next(m for m in method.model.modules() if isinstance(m, TaskHeads))
        if task.index:
            heads.add_task(generator=generator)
            trained = [p for p in method.model.parameters() if p.requires_grad]
            method.optimizer = torch.optim.SGD(trained, lr=config.lr)
        for _ in range(config.epochs):
            for x, y in batches:
                method.observe(x, y)
    method.on_task_end()


@torch.no_grad()
def outputs(method: HAT | Finetune, task: Task, config: SplitHAT) -> Tensor:
    """Logits [N, C] for the test images of a task, all in one batch."""
    model = method.model
    with at_task(model, task.index), masks_at(model, config.max_scale), evaluating(model):
        logits: Tensor = model(task.test.x)
    return logits


def one_run(method: HAT | Finetune, config: SplitHAT, stream: SplitStream, seed: int) -> Record:
    """What came of a method, by name.

    "matrix" holds accuracies by task after each task, "accuracy" and "forgetting" are after the
    last. Of each task but the last, "changed" counts the "outputs" for its test images that are
    not, to the bit, what they were when it ended, and "moved" is by how much at most. By layer of
    HAT, "used" is the share of units in the mask of each task, "reserved" in any so far.
    """
    generator = torch.Generator().manual_seed(seed)
    matrix, first = AccuracyMatrix(TASKS), []
    used: dict[str, list[float]] = {}
    reserved: dict[str, list[float]] = {}
    for task in stream:
        learn(method, task, config, generator)
        first.append(outputs(method, task, config))
        for known in stream[: task.index + 1]:
            found = outputs(method, known, config).argmax(1) == known.test.y
            matrix[task.index, known.index] = float(found.float().mean())
        if isinstance(method, HAT):
            for name, layer in method.layers.items():
                share = float(layer.mask.of(task.index).float().mean())
                used.setdefault(name, []).append(share)
                reserved.setdefault(name, []).append(method.capacity()[name])
    past = list(zip(first, stream, strict=True))[:-1]
    pairs = [(was, outputs(method, task, config)) for was, task in past]
    return {
        "accuracy": matrix.average_accuracy(),
        "forgetting": matrix.forgetting(),
        "matrix": matrix.values.tolist(),
        "outputs": [was.numel() for was, _ in pairs],
        "changed": [
            int((was.view(torch.int32) != now.view(torch.int32)).sum()) for was, now in pairs
        ],
        "moved": [float((was - now).abs().max()) for was, now in pairs],
        "used": used,
        "reserved": reserved,
    }


def run(
    config: SplitHAT, train: Samples, test: Samples, path: str | os.PathLike[str]
) -> tuple[list[Table], list[Path]]:
    """All seeds of `config`; returns the tables of results and the paths of the plots.

    The folder `path` gets what `RunFolder` writes, with "seed", "results" by method (of `one_run`)
    and "seconds" a line in metrics.jsonl, and tables.json, accuracy.png and capacity.png. A run
    that was cut short goes on with the seeds that are missing.

    Raises:
        ModuleNotFoundError: no matplotlib.
        ValueError: the folder holds something else; a method that is not known.
    """
    folder = RunFolder(path, config)
    done = {line.get("seed") for line in folder.metrics()}
    with threads(config.threads):
        for seed in range(config.seeds):
            if seed in done:
                continue
            begin = time.perf_counter()
            stream = stream_of(config, train, test, seed)
            results = {
                name: one_run(learner(name, config, seed), config, stream, seed)
                for name in track(config.methods, f"Split MNIST, seed {seed}")
            }
            folder.log(seed=seed, results=results, seconds=round(time.perf_counter() - begin))
    lines = [line["results"] for line in folder.metrics() if "results" in line]
    found = [table(config, lines), task_table(config, lines), *capacity_tables(config, lines)]
    text = ",\n".join(each.to_json() for each in found)
    write_text(folder.path / "tables.json", f"[{text}]\n")
    return found, plots(config, lines, folder.path)


def table(config: SplitHAT, lines: Sequence[dict[str, Record]]) -> Table:
    """A row a method after the last task, mean and deviation over seeds."""
    found = Table(
        f"Split MNIST, a head for every task, {len(lines)} seeds",
        ["method", "accuracy (%)", "forgetting (%)", "outputs", "changed", "by at most"],
        digits=[0, 2, 2, 0, 0, 5],
    )
    for name in config.methods:
        records = [line[name] for line in lines]
        found.add_row(
            name,
            *(MeanStd.of(100 * r[key] for r in records) for key in ("accuracy", "forgetting")),
            sum(records[0]["outputs"]),
            MeanStd.of(sum(r["changed"]) for r in records),
            max(max(r["moved"]) for r in records),
        )
    return found


def task_table(config: SplitHAT, lines: Sequence[dict[str, Record]]) -> Table:
    """Accuracy on each task right after it, and after the last."""
    columns = [f"task {number}" for number in range(1, TASKS + 1)]
    found = Table("Accuracy by task (%)", ["method", "when", *columns])
    for name in config.methods:
        matrices = [line[name]["matrix"] for line in lines]
        after = [MeanStd.of(100 * m[t][t] for m in matrices) for t in range(TASKS)]
        at_end = [MeanStd.of(100 * m[-1][t] for m in matrices) for t in range(TASKS)]
        found.add_row(name, "after the task", *after)
        found.add_row(name, "at the end", *at_end)
    return found


def capacity_tables(config: SplitHAT, lines: Sequence[dict[str, Record]]) -> list[Table]:
    """By layer the share of units in each task's mask, and the share reserved after it."""
    columns = [f"task {number}" for number in range(1, TASKS + 1)]
    tables = []
    for name in config.methods:
        records = [line[name] for line in lines if line[name]["used"]]
        if not records:
            continue
        found = Table(f"{name}: units (%)", ["layer", "", *columns], digits=1)
        for layer in records[0]["used"]:
            for kind in ("used", "reserved"):
                shares = zip(*(r[kind][layer] for r in records), strict=True)
                found.add_row(layer, kind, *(MeanStd.of(100 * s for s in each) for each in shares))
        tables.append(found)
    return tables


def plots(config: SplitHAT, lines: Sequence[dict[str, Record]], folder: Path) -> list[Path]:
    """Mean accuracy on the tasks so far against their number, and so the share of units that the
    first method with masks has reserved."""
    curves = {
        name: [
            [100 * sum(row[: i + 1]) / (i + 1) for i, row in enumerate(line[name]["matrix"])]
            for line in lines
        ]
        for name in config.methods
    }
    over = f"mean ± std over {len(lines)} seeds"
    accuracy = learning_curves(
        curves,
        folder / "accuracy.png",
        title=f"Split MNIST: {over}",
        xlabel="tasks learnt",
        ylabel="accuracy on all of them (%)",
    )
    masked = [name for name in config.methods if lines[0][name]["reserved"]]
    if not masked:
        return [accuracy]
    reserved = {
        layer: [[100 * share for share in line[masked[0]]["reserved"][layer]] for line in lines]
        for layer in lines[0][masked[0]]["reserved"]
    }
    capacity = learning_curves(
        reserved,
        folder / "capacity.png",
        title=f"{masked[0]}: {over}",
        xlabel="tasks learnt",
        ylabel="units reserved (%)",
    )
    return [accuracy, capacity]
