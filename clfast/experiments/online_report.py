"""Runs `OnlineAdaptation` into a run folder, and shows what came out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from .._files import write_text
from .images import Images
from .online_adaptation import WINDOWS, OnlineAdaptation, Trial, threads
from .plots import learning_curves
from .progress import track
from .run_folder import RunFolder
from .tables import MeanStd, Table

Record = dict[str, Any]


def run(
    config: OnlineAdaptation, images: Images, path: str | os.PathLike[str]
) -> tuple[Table, Path]:
    """All seeds of `config`; returns the table of results and the path of the plot.

    The folder `path` gets what `RunFolder` writes, with "seed" and "methods" (`Trial.results`) a
    line in metrics.jsonl, and table.json and new_classes.png. A run that was cut short goes on with
    the seeds that are missing.

    Raises:
        ModuleNotFoundError: no matplotlib.
        ValueError: the folder holds something else.
    """
    folder = RunFolder(path, config)
    done = {line.get("seed") for line in folder.metrics()}
    missing = [seed for seed in range(config.seeds) if seed not in done]
    chunks = -(-len(images.test[1]) // config.chunk)
    with threads(config.threads):
        steps = _steps(config, images, missing, folder)
        for trial, x, y in track(steps, f"Online adaptation, {config.data}", len(missing) * chunks):
            trial.step(x, y)
    records = [record for line in folder.metrics() for record in line.get("methods", [])]
    results = table(config, records)
    write_text(folder.path / "table.json", results.to_json())
    return results, plot(config, records, len(images.test[1]), folder.path / "new_classes.png")


def table(config: OnlineAdaptation, records: Sequence[Record]) -> Table:
    """A row a method: accuracies in percent, mean and deviation over seeds; median times."""
    columns = ["method", "new (%)", "old (%)", "all (%)"]
    times = ["clfast (ms/query)", "naive loop (ms/query)", "ratio"]
    seeds = "1 seed" if config.seeds == 1 else f"{config.seeds} seeds"
    title = f"Online adaptation, {config.data}, {seeds}"
    results = Table(title, columns + times, digits=[0, 2, 2, 2, 3, 2, 0])
    for name in _methods(records):
        mine = [record for record in records if record["method"] == name]
        shares = [MeanStd.of(100 * r[part] for r in mine) for part in ("new", "old", "all")]
        ms, naive_ms = (_median(r[kind] for r in mine) for kind in ("ms", "naive_ms"))
        ratio = None if ms is None or naive_ms is None else naive_ms / ms
        results.add_row(name, *shares, ms, naive_ms, ratio)
    return results


def plot(config: OnlineAdaptation, records: Sequence[Record], samples: int, path: Path) -> Path:
    """The accuracy on new classes as the stream of `samples` goes by: a PNG at `path`."""
    curves = {
        name: [
            [100 * share for share in record["curve"]]
            for record in records
            if record["method"] == name
        ]
        for name in _methods(records)
    }
    return learning_curves(
        curves,
        path,
        x=[samples * (window + 1) / WINDOWS for window in range(WINDOWS)],
        title=f"New classes, {config.data}: mean ± std over {config.seeds} seeds",
        xlabel="samples seen",
        ylabel="accuracy (%)",
    )


def _steps(
    config: OnlineAdaptation, images: Images, seeds: Sequence[int], folder: RunFolder
) -> Iterator[tuple[Trial, Tensor, Tensor]]:
    """Every chunk of every seed; a seed is logged when its stream is over."""
    for seed in seeds:
        trial = Trial(config, images.pool, images.test, seed)
        for x, y in trial.stream:
            yield trial, x, y
        folder.log(seed=seed, methods=trial.results())


def _methods(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["method"] for record in records))


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
