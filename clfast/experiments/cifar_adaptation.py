"""Learning new classes of CIFAR-100: the Hebb paper's sections 4.2 (Table 1, figure 3) and 4.3
(Table 2), on features of a small network.

The network is pre-trained on half of the classes and then stays; what learns afterwards is its
output layer (the base model) and the memory. In the paper all of a larger network learns.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from .._files import write_text
from ..memory import KeyValueMemory
from ..methods import Parametric
from ..streams import OnlineStream
from ..streams.cifar import Images
from .cifar import NUM_CLASSES, Features, Pretrained, pretrained
from .online_adaptation import Learners, MethodOptions, paper_learners, threads
from .plots import learning_curves
from .progress import track
from .run_folder import RunFolder
from .tables import MeanStd, Table

Record = dict[str, Any]

# What `tune` found at a3660c0, with another seed than those that are reported and on training
# images that its memory did not hold.
ONLINE = MethodOptions(base_lr=5e-3, theta=0.03, gamma=0.3, lr=3e-3, steps=20, beta=0.7, eta=1.5)
INCREMENTAL = MethodOptions(
    base_lr=2e-3, theta=0.3, gamma=0.1, lr=3e-3, steps=20, beta=0.97, eta=1.0
)


@dataclass(frozen=True)
class CifarAdaptation:
    """All that decides a run, but the folder of the data."""

    online: MethodOptions = ONLINE
    incremental: MethodOptions = INCREMENTAL
    ratios: tuple[int, ...] = (1, 2, 5)
    """Half of the new classes have so many times the samples of the other half, in an incremental
    training each."""
    epochs: tuple[int, ...] = (1, 3, 10)
    """Of the incremental training set; the methods are evaluated after so many."""
    chunk: int = 100
    """Samples that are predicted before base model and memory learn from them; also a batch."""
    old_classes: int = 50
    pretrain_epochs: int = 8
    dim: int = 128
    old_stored: int | None = None
    """Samples of each old class that the memory holds when the online stream begins; None: all."""
    seeds: int = 3
    threads: int = 2


GRIDS: dict[str, dict[str, Sequence[float]]] = {
    "Parametric": {"base_lr": (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)},
    "Mixture": {"theta": (0.03, 0.1, 0.3, 1.0), "gamma": (0.05, 0.1, 0.2, 0.3, 0.5)},
    "MbPA": {"lr": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "steps": (1, 5, 10, 20)},
    "Hebb": {"beta": (0.5, 0.7, 0.9, 0.97), "eta": (0.2, 0.5, 1.0, 1.5, 3.0)},
}

Make = Callable[[Parametric, Sequence[int]], Learners]


def online(
    start: Pretrained,
    stream: Features,
    options: MethodOptions,
    config: CifarAdaptation,
    make: Make,
) -> Record:
    """Predict each chunk with every learner, then let base model and memory learn from it.

    Accuracies; "new so far": that on new classes after each chunk; and "ms": the time of a query,
    network and prediction.
    """
    memory = KeyValueMemory(start.train.x.shape[1])
    base = _base(start, memory, options)
    stored = start.train.at(_first_of_each(start.train.y, start.old, config.old_stored))
    memory.add(stored.x, stored.y)
    learners = make(base, start.old.tolist())
    right: dict[str, list[Tensor]] = {name: [] for name in learners}
    seconds: dict[str, list[float]] = {name: [] for name in learners}
    for x, y in OnlineStream((stream.x, stream.y), config.chunk):
        for name, learner in learners.items():
            begin = time.perf_counter()
            right[name].append(learner.predict(x) == y)
            seconds[name].append((time.perf_counter() - begin) / len(x))
        base.observe(x, y)
    return {
        name: _shares(torch.cat(right[name]), stream.y, start.old)
        | {
            "new so far": _new_so_far(torch.cat(right[name]), stream.y, start.old, config.chunk),
            "ms": start.ms + 1e3 * median(seconds[name]),
        }
        for name in learners
    }


def _first_of_each(y: Tensor, classes: Tensor, count: int | None) -> Tensor:
    """Rows of the first `count` samples of each of the classes, in order; None: of all."""
    rows = torch.isin(y, classes).nonzero()[:, 0]
    if count is None:
        return rows
    of_class = [rows[y[rows] == label][:count] for label in classes.tolist()]
    return torch.cat(of_class).sort().values


def _new_so_far(right: Tensor, y: Tensor, old: Tensor, chunk: int) -> list[float]:
    """Accuracy on the new classes from the start to the end of each chunk; 0 before the first."""
    new = ~torch.isin(y, old)
    seen = new.cumsum(0)[chunk - 1 :: chunk]
    found = (right & new).cumsum(0)[chunk - 1 :: chunk]
    return [round(float(share), 4) for share in found / seen.clamp_min(1)]


def incremental(
    start: Pretrained,
    train: Features,
    test: Features,
    options: MethodOptions,
    config: CifarAdaptation,
    make: Make,
    generator: torch.Generator,
) -> dict[str, Record]:
    """Epochs of the base model on a training set with all classes, which the memory holds."""
    memory = KeyValueMemory(train.x.shape[1])
    base = _base(start, None, options)
    memory.add(train.x, train.y)
    model = Parametric(base.features, base.head, memory)
    learners = {**make(model, start.old.tolist()), "Parametric": base}
    found = {}
    for epoch in range(1, max(config.epochs) + 1):
        for batch in torch.randperm(len(train), generator=generator).split(config.chunk):
            base.observe(train.x[batch], train.y[batch])
        if epoch in config.epochs:
            found[str(epoch)] = {
                name: _shares(_right(learner, test), test.y, start.old)
                for name, learner in learners.items()
            }
    return found


def imbalanced(train: Features, old: Tensor, ratio: int, generator: torch.Generator) -> Features:
    """`train` with every other new class, in random order, cut to a `ratio`-th of its samples."""
    new = torch.tensor([c for c in range(NUM_CLASSES) if c not in set(old.tolist())])
    few = new[torch.randperm(len(new), generator=generator)[: len(new) // 2]]
    order = torch.randperm(len(train), generator=generator)
    kept = torch.ones(len(train), dtype=torch.bool)
    for label in few.tolist():
        rows = order[train.y[order] == label]
        kept[rows[len(rows) // ratio :]] = False
    return train.at(kept)


def run(
    config: CifarAdaptation, train: Images, test: Images, path: str | os.PathLike[str]
) -> tuple[list[Table], list[Path]]:
    """All seeds of `config`; returns the tables of results and the paths of the plots.

    The folder `path` gets what `RunFolder` writes, with "seed", "online", "incremental" and
    "seconds" a line in metrics.jsonl, tables.json, online.png, and one PNG a ratio. A run that was
    cut short goes on with the seeds that are missing.

    Raises:
        ModuleNotFoundError: no matplotlib.
        ValueError: the folder holds something else.
    """
    folder = RunFolder(path, config)
    done = {line.get("seed") for line in folder.metrics()}
    with threads(config.threads):
        for seed in range(config.seeds):
            if seed not in done:
                begin = time.perf_counter()
                found = _seed(config, train, test, seed)
                folder.log(seed=seed, **found, seconds=round(time.perf_counter() - begin))
    lines = [line for line in folder.metrics() if "online" in line]
    tables = [_online_table(lines)]
    tables += [_incremental_table(config, lines, ratio) for ratio in config.ratios]
    write_text(folder.path / "tables.json", f"[{', '.join(t.to_json() for t in tables)}]\n")
    plots = [_online_plot(config, lines, folder.path)]
    plots += [_plot(config, lines, ratio, folder.path) for ratio in config.ratios]
    return tables, plots


def tune(config: CifarAdaptation, train: Images, test: Images, seed: int = 100) -> CifarAdaptation:
    """`config` with the options that are best on all classes, in the way of appendix A.1.

    A fifth of the training images stands for the test images, which are not used: of these, the
    first 2,000 for the incremental options, after one epoch. The base model's learning rate comes
    first; then what each method adds; Hebb takes what is best for MbPA.
    """
    with threads(config.threads):
        start = _pretrained(config, train, test, seed)
        held_out = torch.rand(len(start.train), generator=torch.Generator().manual_seed(seed)) < 0.2
        stream, rest = start.train.at(held_out), start.train.at(~held_out)
        start = replace(start, train=rest)
        one_epoch = replace(config, epochs=(1,))
        shown = stream.at(torch.arange(min(2000, len(stream))))

        def of_online(options: MethodOptions, make: Make) -> Record:
            return online(start, stream, options, config, make)

        def of_incremental(options: MethodOptions, make: Make) -> Record:
            order = torch.Generator().manual_seed(seed)
            return incremental(start, rest, shown, options, one_epoch, make, order)["1"]

        return replace(
            config,
            online=_tuned(config.online, of_online, "online"),
            incremental=_tuned(config.incremental, of_incremental, "incremental"),
        )


def _tuned(
    options: MethodOptions, evaluate: Callable[[MethodOptions, Make], Record], name: str
) -> MethodOptions:
    for method, grid in track(GRIDS.items(), f"Tuning {name}"):
        settings: list[dict[str, Any]] = [
            dict(zip(grid, values, strict=True)) for values in product(*grid.values())
        ]
        if method == "Parametric":  # another base model for each
            records = [
                evaluate(replace(options, **setting), lambda base, _: {"0": base})["0"]
                for setting in settings
            ]
        else:
            make = _side_by_side(method, [replace(options, **setting) for setting in settings])
            found = evaluate(options, make)
            records = [found[str(n)] for n in range(len(settings))]
        overall = [record["all"] for record in records]
        options = replace(options, **settings[overall.index(max(overall))])
    return options


def _side_by_side(method: str, settings: Sequence[MethodOptions]) -> Make:
    """One method on one base model with each of the options, called "0", "1", ..."""

    def make(base: Parametric, old: Sequence[int]) -> Learners:
        return {
            str(n): paper_learners(options, base, old)[method] for n, options in enumerate(settings)
        }

    return make


def _pretrained(config: CifarAdaptation, train: Images, test: Images, seed: int) -> Pretrained:
    return pretrained(
        *(train, test, seed),
        old_classes=config.old_classes,
        epochs=config.pretrain_epochs,
        dim=config.dim,
    )


def _seed(config: CifarAdaptation, train: Images, test: Images, seed: int) -> Record:
    start = _pretrained(config, train, test, seed)
    generator = torch.Generator().manual_seed(seed)
    shuffled = start.test.at(torch.randperm(len(start.test), generator=generator))
    found = online(
        *(start, shuffled, config.online, config),
        lambda base, old: paper_learners(config.online, base, old),
    )
    by_ratio = {}
    for ratio in track(config.ratios, f"Incremental learning, seed {seed}"):
        samples = imbalanced(start.train, start.old, ratio, generator)
        by_ratio[str(ratio)] = incremental(
            *(start, samples, start.test, config.incremental, config),
            lambda base, old: paper_learners(config.incremental, base, old),
            generator,
        )
    return {"online": found, "incremental": by_ratio}


def _base(start: Pretrained, memory: KeyValueMemory | None, options: MethodOptions) -> Parametric:
    head = copy.deepcopy(start.head)
    optimizer = torch.optim.RMSprop(head.parameters(), lr=options.base_lr)
    return Parametric(nn.Identity(), head, memory, base_optimizer=optimizer)


def _right(learner: Parametric, test: Features) -> Tensor:
    return torch.cat([learner.predict(x) for x in test.x.split(1000)]) == test.y


def _shares(right: Tensor, y: Tensor, old: Tensor) -> dict[str, float]:
    """Accuracies on new, old and all classes, in [0, 1]."""
    new = ~torch.isin(y, old)
    return {
        name: float(right[part].float().mean())
        for name, part in (("new", new), ("old", ~new), ("all", torch.ones_like(new)))
    }


def _percent(records: Iterable[Record], method: str, part: str) -> MeanStd:
    return MeanStd.of(100 * record[method][part] for record in records)


def _online_table(lines: Sequence[Record]) -> Table:
    found = [line["online"] for line in lines]
    table = Table(
        f"Online adaptation, CIFAR-100 features, {len(lines)} seeds",
        ["method", "new (%)", "old (%)", "all (%)", "ms/query", "time over Parametric's (%)"],
        digits=[0, 2, 2, 2, 3, 0],
    )
    base = median(record["Parametric"]["ms"] for record in found)
    for method in found[0]:
        ms = median(record[method]["ms"] for record in found)
        shares = (_percent(found, method, part) for part in ("new", "old", "all"))
        table.add_row(method, *shares, ms, 100 * (ms / base - 1))
    return table


def _incremental_table(config: CifarAdaptation, lines: Sequence[Record], ratio: int) -> Table:
    found = [line["incremental"][str(ratio)] for line in lines]
    columns = [f"{part}, epoch {epoch} (%)" for part in ("all", "new") for epoch in config.epochs]
    balance = "balanced" if ratio == 1 else f"imbalanced {ratio}:1"
    table = Table(
        f"Incremental learning, CIFAR-100 features, {balance}, {len(lines)} seeds",
        ["method", *columns],
    )
    for method in found[0][str(config.epochs[0])]:
        table.add_row(
            method,
            *(
                _percent([record[str(epoch)] for record in found], method, part)
                for part in ("all", "new")
                for epoch in config.epochs
            ),
        )
    return table


def _online_plot(config: CifarAdaptation, lines: Sequence[Record], folder: Path) -> Path:
    """How fast new classes are learnt."""
    found = [line["online"] for line in lines]
    curves = {
        method: [[100 * share for share in r[method]["new so far"]] for r in found]
        for method in found[0]
    }
    chunks = len(found[0]["Parametric"]["new so far"])
    return learning_curves(
        curves,
        folder / "online.png",
        x=[config.chunk * (n + 1) for n in range(chunks)],
        title=f"Online adaptation, mean ± std over {len(lines)} seeds",
        xlabel="images of the stream",
        ylabel="accuracy on new classes so far (%)",
    )


def _plot(config: CifarAdaptation, lines: Sequence[Record], ratio: int, folder: Path) -> Path:
    """Figure 3's panel for a ratio: accuracy on all classes over the epochs."""
    found = [line["incremental"][str(ratio)] for line in lines]
    curves = {
        method: [[100 * r[str(epoch)][method]["all"] for epoch in config.epochs] for r in found]
        for method in found[0][str(config.epochs[0])]
    }
    return learning_curves(
        curves,
        folder / f"incremental-{ratio}.png",
        x=list(config.epochs),
        title=f"Incremental learning {ratio}:1, mean ± std over {len(lines)} seeds",
        xlabel="epoch",
        ylabel="accuracy on all classes (%)",
    )
