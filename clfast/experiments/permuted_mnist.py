"""Continual learning of permuted MNIST: the Hebb paper's section 4.1 and figure 2, in small.

A network of one hidden layer learns tasks one after another, each the same images under a pixel
permutation of its own. MbPA and Hebb adapt all its layers at every query, to neighbours by pixels
among the samples that were stored of each task. They share the network of "MLP", which is trained
without them, so that nothing but the local adaptation tells them apart from it.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._files import write_text
from ..memory import KeyValueMemory
from ..methods import Hebb, MbPA, Parametric
from ..ops.adaptation import Optimizer
from ..plugins import EWC
from ..streams import PermutedStream
from .images import NUM_CLASSES, Images
from .online_adaptation import threads
from .plots import learning_curves
from .progress import track
from .run_folder import RunFolder
from .tables import MeanStd, Table


@dataclass(frozen=True)
class PermutedMnist:
    """All that decides a run, but the folder of the data. Appendix A.1's values where it has them,
    and fewer epochs, queries and neighbours than the paper, for a run of half an hour."""

    tasks: int = 20
    samples: int = 10_000
    """Training samples of a task."""
    epochs: int = 10
    """A task. The paper: 100."""
    batch: int = 100
    base_lr: float = 1e-3
    """Of Adam, which trains the networks."""
    hidden: int = 1000
    ewc_strength: float = 1000.0
    fisher_samples: int = 1000
    """Of a task, for EWC."""
    stored: tuple[int, ...] = (250, 500)
    """Samples of each task in the memory: each number is a memory of its own."""
    k: int = 50
    """Neighbours K. The paper gives no number for a memory of limited size."""
    lr: float = 1e-3
    """MbPA and Hebb: learning rate of MbPA's steps. The paper's 0.05 would move every weight by 0.5
    in the first step of torch's RMSprop, and hardly any with TensorFlow's; see docs/hebb.md."""
    steps: int = 5
    optimizer: Optimizer = "rmsprop"
    """Of MbPA's steps."""
    beta: float = 0.9
    eta: float = 0.2
    queries: int = 100
    """Test samples of each task; the paper takes all 10,000."""
    evaluated: tuple[int, ...] = (1, 5, 10, 20)
    """After so many tasks."""
    seeds: int = 3
    """Runs 0, 1, ...: each draws samples, permutations and weights."""
    threads: int = 2

    @property
    def methods(self) -> list[str]:
        """In the order of figure 2's legend."""
        adapting = [f"{name} ({n} a task)" for n in self.stored for name in ("Hebb", "MbPA")]
        return ["MLP", "EWC", *adapting]


class Trial:
    """All methods with one seed: `learn` a task after another, `accuracies` in between."""

    def __init__(self, config: PermutedMnist, images: Images, seed: int) -> None:
        self._config = config
        generator = torch.Generator().manual_seed(seed)
        train = _drawn(images.pool, config.samples, generator)
        test = _drawn(images.test, config.queries, generator)
        self.stream = PermutedStream(train, test, num_tasks=config.tasks, generator=generator)
        self._generator = generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._plain = nn.Sequential(
                nn.Linear(train[0].shape[1], config.hidden),
                nn.ReLU(),
                nn.Linear(config.hidden, NUM_CLASSES),
            )
        self._consolidated = copy.deepcopy(self._plain)
        self._ewc = EWC(self._consolidated, strength=config.ewc_strength)
        self._optimizers = [
            torch.optim.Adam(network.parameters(), lr=config.base_lr, fused=True)
            for network in (self._plain, self._consolidated)
        ]
        self._memories = {n: KeyValueMemory(train[0].shape[1]) for n in config.stored}
        self._learners: dict[str, Parametric] = {
            "MLP": Parametric(nn.Identity(), self._plain),
            "EWC": Parametric(nn.Identity(), self._consolidated),
        }
        for n, memory in self._memories.items():
            model = (nn.Identity(), self._plain, memory)
            adapt: dict[str, Any] = {"k": config.k, "lr": config.lr, "steps": config.steps}
            adapt["optimizer"] = config.optimizer
            self._learners[f"Hebb ({n} a task)"] = Hebb(
                *model, beta=config.beta, eta=config.eta, hebb_on="all", **adapt
            )
            self._learners[f"MbPA ({n} a task)"] = MbPA(*model, **adapt)

    def learn(self, task: int) -> None:
        """Train on a task, and store samples of it."""
        config = self._config
        x, y = self.stream[task].train.x, self.stream[task].train.y
        for _ in range(config.epochs):
            for batch in torch.randperm(len(y), generator=self._generator).split(config.batch):
                self._step(x[batch], y[batch])
        order = torch.randperm(len(y), generator=self._generator)
        fisher = order[: config.fisher_samples]
        self._ewc.on_task_end([(x[fisher], y[fisher])])
        for n, memory in self._memories.items():
            memory.add(x[order[:n]], y[order[:n]])

    def _step(self, x: Tensor, y: Tensor) -> None:
        for network, optimizer in zip(
            (self._plain, self._consolidated), self._optimizers, strict=True
        ):
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            if network is self._consolidated:
                self._ewc.after_backward()
            optimizer.step()

    def accuracies(self, tasks: int) -> list[dict[str, Any]]:
        """A record a method on the first `tasks` tasks: "method", and "accuracy", the mean over
        tasks, in [0, 1]."""
        records = []
        for name in self._config.methods:
            right = [
                float((self._learners[name].predict(task.test.x) == task.test.y).float().mean())
                for task in self.stream[:tasks]
            ]
            records.append({"method": name, "accuracy": fmean(right)})
        return records


def run(config: PermutedMnist, images: Images, path: str | os.PathLike[str]) -> tuple[Table, Path]:
    """All seeds of `config`; returns the table of results and the path of the plot.

    The folder `path` gets what `RunFolder` writes, with "seed", "results" ("tasks" and the records
    of `Trial.accuracies`) and "seconds" a line in metrics.jsonl, and table.json and
    average_accuracy.png. A run that was cut short goes on with the seeds that are missing.

    Raises:
        ModuleNotFoundError: no matplotlib.
        ValueError: the folder holds something else; evaluated is not within the tasks.
    """
    if not config.evaluated or max(config.evaluated) > config.tasks or min(config.evaluated) < 1:
        raise ValueError(
            f"PermutedMnist: evaluated must be numbers of tasks in [1, {config.tasks}], "
            f"got {config.evaluated}"
        )
    folder = RunFolder(path, config)
    done = {line.get("seed") for line in folder.metrics()}
    missing = [seed for seed in range(config.seeds) if seed not in done]
    with threads(config.threads):
        steps = _steps(config, images, missing, folder)
        for _ in track(steps, "Permuted MNIST", len(missing) * config.tasks):
            pass
    lines = [line for line in folder.metrics() if "results" in line]
    results = table(config, lines)
    write_text(folder.path / "table.json", results.to_json())
    return results, plot(config, lines, folder.path / "average_accuracy.png")


def table(config: PermutedMnist, lines: Sequence[dict[str, Any]]) -> Table:
    """A row a method: accuracy on the tasks so far in percent, mean and deviation over seeds."""
    columns = ["method", *(f"{tasks} tasks (%)" for tasks in config.evaluated)]
    title = f"Permuted MNIST, {config.epochs} epochs a task, {len(lines)} seeds"
    results = Table(title, columns)
    for name in config.methods:
        shares = [MeanStd.of(column) for column in zip(*_curves(lines, name), strict=True)]
        results.add_row(name, *shares)
    return results


def plot(config: PermutedMnist, lines: Sequence[dict[str, Any]], path: Path) -> Path:
    """Figure 2: the average accuracy on the tasks so far, against their number; a PNG."""
    return learning_curves(
        {name: _curves(lines, name) for name in config.methods},
        path,
        x=list(config.evaluated),
        title=f"Permuted MNIST: mean ± std over {len(lines)} seeds",
        xlabel="tasks learnt",
        ylabel="accuracy on all of them (%)",
    )


def _curves(lines: Sequence[dict[str, Any]], name: str) -> list[list[float]]:
    """Accuracies in percent [seeds, evaluated]."""
    return [[100 * r["accuracy"] for r in line["results"] if r["method"] == name] for line in lines]


def _steps(
    config: PermutedMnist, images: Images, seeds: Sequence[int], folder: RunFolder
) -> Iterator[int]:
    """Every task of every seed; a seed is logged when its last task is over."""
    for seed in seeds:
        begin = time.perf_counter()
        trial = Trial(config, images, seed)
        results: list[dict[str, Any]] = []
        for task in range(config.tasks):
            trial.learn(task)
            if task + 1 in config.evaluated:
                found = trial.accuracies(task + 1)
                results += [{"tasks": task + 1, **record} for record in found]
            yield task
        folder.log(seed=seed, results=results, seconds=round(time.perf_counter() - begin))


def _drawn(
    samples: tuple[Tensor, Tensor], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`count` of them at random, as rows [count, pixels]."""
    x, y = samples
    chosen = torch.randperm(len(y), generator=generator)[:count]
    return x[chosen].flatten(1), y[chosen]
