"""DGM and the methods it is compared to, side by side over seeds: table 1 and figures 2 and 4 of
the DGM paper."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .. import _arguments
from ..methods.dgm import DGM
from .comparison import Comparison, Record, run_all, write_comparison
from .dgm import METHODS, DgmExperiment, folder_of, prepared, run
from .dgm_validation import Samples
from .plots import learning_curves
from .tables import MeanStd, Table


def compare(
    configs: Sequence[DgmExperiment],
    train: Samples,
    test: Samples,
    path: str | os.PathLike[str],
    *,
    minutes: float = 10.0,
    ended: Callable[[Table], None] = lambda table: None,
) -> Comparison:
    """All the runs, one after another, and what is to be said of them together.

    Each run has the folder METHOD-seed-S of `path` for itself, see `dgm.run`; those that are done
    are not done again. `path` gets accuracy.png, the accuracy on classes so far, of DGM growth.png,
    the neurons of its generators (both mean and deviation over seeds), and comparison.json with
    "table", "failures" and "runs": for each "method", "seed", and by task "classes", "accuracy" in
    [0, 1], "best" likewise (null without validation images), "neurons" (null without a generator),
    "bytes" and "seconds".

    Args:
        configs: differ in method, options and seed.
        ended: gets the table of every run when it has ended.

    Raises:
        ModuleNotFoundError: no matplotlib.
        TypeError, ValueError: what `prepared` refuses, before there is a folder; a folder that
            holds something else, or a run on other data.
    """
    folder = _arguments.path(path, "compare")
    for config in configs:  # first: a folder would be that of the config, which cannot be
        prepared(config, train, test)
    records, failures = run_all(
        configs,
        folder,
        name=_name,
        folder_of=lambda path, config: folder_of(path, config, train, test),
        run=lambda config, path: run(config, train, test, path, minutes=minutes)[0],
        record=_record,
        ended=ended,
    )
    titles = list(dict.fromkeys(METHODS[config.method].title for config in configs))
    found = table(titles, records)
    write_comparison(folder, found, records, failures)
    return Comparison(found, _plots(titles, records, folder), failures)


def _name(config: DgmExperiment) -> str:
    return f"{config.method}-seed-{config.seed}"


def _record(config: DgmExperiment, lines: list[dict[str, Any]]) -> Record:
    grows = "widths" in lines[0]
    return {
        "method": METHODS[config.method].title,
        "seed": config.seed,
        "classes": [len(line["by_class"]) for line in lines],
        "accuracy": [line["accuracy"] for line in lines],
        "best": [line["best"]["accuracy"] for line in lines] if config.validation else None,
        "neurons": [sum(line["widths"]) for line in lines] if grows else None,
        "bytes": [sum(line["bytes"].values()) for line in lines],
        "seconds": [line["seconds"] for line in lines],
    }


def table(titles: Sequence[str], records: Sequence[Record]) -> Table:
    """A row a method, mean and deviation over the seeds that came to their end.

    A<n> is the accuracy on the test images of the first n classes, when they were learnt: after
    half of the tasks, and after all; "best A<n>" that of the epoch that `BestEpoch` finds, of runs
    with validation images. Bytes are what is kept of the past between tasks, without the critic.
    """
    classes = records[0]["classes"] if records else []
    half, last = (len(classes) + 1) // 2 - 1, len(classes) - 1
    shown = sorted({half, last}) if classes else []
    kinds = ["accuracy", "best"] if records and records[0]["best"] else ["accuracy"]
    names = {"accuracy": "A{} (%)", "best": "best A{} (%)"}
    accuracies = [(names[kind].format(classes[i]), kind, i) for kind in kinds for i in shown]
    found = Table(
        "Dynamic generative memory and others",
        ["method", "seeds", *(title for title, _, _ in accuracies), "neurons", "kB", "seconds"],
        digits=[0, 0, *(2 for _ in accuracies), 0, 1, 0],
    )
    for title in titles:
        of = [record for record in records if record["method"] == title]
        if not of:
            found.add_row(title, 0, *(None for _ in found.columns[2:]))
            continue
        found.add_row(
            title,
            len(of),
            *(MeanStd.of(100 * record[kind][i] for record in of) for _, kind, i in accuracies),
            MeanStd.of(record["neurons"][-1] for record in of) if of[0]["neurons"] else None,
            MeanStd.of(record["bytes"][-1] / 1e3 for record in of),
            MeanStd.of(sum(record["seconds"]) for record in of),
        )
    return found


def _plots(titles: Sequence[str], records: Sequence[Record], path: Path) -> list[Path]:
    growing = {each.title for each in METHODS.values() if issubclass(each.kind, DGM)}
    accuracy = {
        title: [[100 * a for a in record["accuracy"]] for record in of]
        for title in titles
        if (of := [record for record in records if record["method"] == title])
    }
    neurons = {
        title: [record["neurons"] for record in records if record["method"] == title]
        for title in accuracy
        if title in growing
    }
    made = []
    for name, curves, ylabel in (
        ("accuracy", accuracy, "accuracy on classes so far (%)"),
        ("growth", neurons, "neurons of the generator"),
    ):
        if curves:
            seeds = max(map(len, curves.values()))
            title = f"mean ± std over {seeds} seeds" if seeds > 1 else ""
            options = {"title": title, "xlabel": "tasks learnt", "ylabel": ylabel}
            made.append(learning_curves(curves, path / f"{name}.png", **options))
        else:  # that of a comparison before
            (path / f"{name}.png").unlink(missing_ok=True)
    return made
