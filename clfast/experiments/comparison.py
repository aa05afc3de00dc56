"""Runs side by side, each in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .._files import write_text
from .run_folder import RunFolder
from .tables import Table

Config = TypeVar("Config")
Record = dict[str, Any]


class Comparison(NamedTuple):
    """What came of all runs."""

    table: Table
    plots: list[Path]
    failures: dict[str, str]  # by run, why it did not come to its end


def run_all(
    configs: Sequence[Config],
    path: Path,
    *,
    name: Callable[[Config], str],
    folder_of: Callable[[Path, Config], RunFolder],
    run: Callable[[Config, Path], Table],
    record: Callable[[Config, list[Record]], Record],
    ended: Callable[[Table], None],
) -> tuple[list[Record], dict[str, str]]:
    """All the runs, one after another, in the folders `path` / name; those that are done are not
    done again.

    Args:
        folder_of: called for all runs before the first of them begins: it raises where a folder
            holds something else.
        run: returns its table, which `ended` gets.
        record: of the lines of metrics of a run that came to its end.

    Returns:
        The records, and by name why a run failed with RuntimeError: a loss that became NaN, or no
        more memory.
    """
    folders = {name(config): folder_of(path / name(config), config) for config in configs}
    records, failures = [], {}
    for config in configs:
        try:
            ended(run(config, path / name(config)))
            records.append(record(config, folders[name(config)].metrics()))
        except RuntimeError as error:
            failures[name(config)] = str(error)
    return records, failures


def write_comparison(
    path: Path, table: Table, records: Sequence[Record], failures: dict[str, str]
) -> None:
    """comparison.json in the folder `path`: "table", "failures" and "runs", the records."""
    text = {"table": json.loads(table.to_json()), "failures": failures, "runs": records}
    write_text(path / "comparison.json", json.dumps(text, indent=1) + "\n")
