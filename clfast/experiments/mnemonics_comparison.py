"""Learners and exemplars side by side over seeds: table 1 and figure 4 of the Mnemonics paper."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import _arguments
from .comparison import Comparison, Record, run_all, write_comparison
from .mnemonics import MnemonicsExperiment, Samples, folder_of, prepared, run
from .mnemonics_report import Line, matrix_of
from .plots import learning_curves
from .tables import MeanStd, Table


def compare(
    configs: Sequence[MnemonicsExperiment],
    train: Samples,
    test: Samples,
    path: str | os.PathLike[str],
    *,
    minutes: float = 10.0,
    ended: Callable[[Table], None] = lambda table: None,
) -> Comparison:
    """All the runs, one after another, and what is to be said of them together.

    Each run has the folder LEARNER-EXEMPLARS-seed-S of `path` for itself, see `mnemonics.run`;
    those that are done are not done again. `path` gets a plot accuracy-LEARNER.png of each learner,
    the accuracy on classes so far after each phase, mean and deviation over seeds, and
    comparison.json with "table", "failures" and "runs": for each "learner", "exemplars", "seed",
    "classes" and "accuracy" by phase, "average" and "forgetting", in [0, 1], and "seconds".

    Args:
        configs: differ in learner, exemplars and seed.
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
    found = table(records)
    write_comparison(folder, found, records, failures)
    return Comparison(found, _plots(records, folder), failures)


def _name(config: MnemonicsExperiment) -> str:
    return f"{config.learner}-{config.exemplars}-seed-{config.seed}"


def _record(config: MnemonicsExperiment, lines: list[Line]) -> Record:
    matrix, sizes = matrix_of(lines), lines[-1]["test_images"]
    return {
        "learner": config.learner,
        "exemplars": config.exemplars,
        "seed": config.seed,
        "classes": [line["classes"] for line in lines],
        "accuracy": [line["accuracy"] for line in lines],
        "average": matrix.average_incremental_accuracy(weights=sizes),
        "forgetting": matrix.forgetting_rate(),
        "seconds": [line["seconds"] for line in lines],
    }


def table(records: Sequence[Record]) -> Table:
    """A row for each learner and kind of exemplars, mean and deviation over the seeds that came to
    their end: the paper's average accuracy over phases and forgetting rate, the last accuracy, and
    the gain in average accuracy over random exemplars of the same seeds, in points."""
    found = Table(
        "Learners and exemplars",
        [
            "learner",
            "exemplars",
            "seeds",
            "average accuracy (%)",
            "last accuracy (%)",
            "forgetting (%)",
            "over random",
            "seconds",
        ],
        digits=[0, 0, 0, 2, 2, 2, 2, 0],
    )
    for (learner, exemplars), of in _arms(records).items():
        base = {r["seed"]: r["average"] for r in _arms(records).get((learner, "random"), [])}
        gains = [100 * (r["average"] - base[r["seed"]]) for r in of if r["seed"] in base]
        found.add_row(
            learner,
            exemplars,
            len(of),
            *(MeanStd.of(100 * r[key] for r in of) for key in ("average",)),
            MeanStd.of(100 * r["accuracy"][-1] for r in of),
            MeanStd.of(100 * r["forgetting"] for r in of),
            MeanStd.of(gains) if gains and exemplars != "random" else None,
            MeanStd.of(sum(r["seconds"]) for r in of),
        )
    return found


def _arms(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    arms: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        arms.setdefault((record["learner"], record["exemplars"]), []).append(record)
    return arms


def _plots(records: Sequence[Record], path: Path) -> list[Path]:
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for (learner, exemplars), of in _arms(records).items():
        curves.setdefault(learner, {})[exemplars] = [
            [100 * accuracy for accuracy in record["accuracy"]] for record in of
        ]
    seeds = {record["seed"] for record in records}
    spread = f", mean ± std over {len(seeds)} seeds" if len(seeds) > 1 else ""
    return [
        learning_curves(
            arms,
            path / f"accuracy-{learner}.png",
            x=records[0]["classes"],
            title=f"{learner}{spread}",
            xlabel="classes",
            ylabel="accuracy on classes so far (%)",
        )
        for learner, arms in curves.items()
    ]
