"""What the commands of the command line share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # importing clfast for --help alone would take seconds
    from rich.console import Console

    from .experiments.comparison import Comparison

ROOT = click.option(
    "--root",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder with the data's files.",
)
SEEDS = click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
THREADS = click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)


def out_folder(name: str) -> Callable[[Any], Any]:
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("runs", name),
        show_default=True,
        help="The run's folder; a run that was cut short goes on.",
    )


def tell(found: Comparison, out: Path, console: Console) -> None:
    """What came of runs side by side; ClickException where some failed."""
    found.table.print(console)
    click.echo(f"Plots: {', '.join(map(str, found.plots))}\nResults: {out / 'comparison.json'}")
    if found.failures:
        raise click.ClickException("; ".join(f"{n}: {why}" for n, why in found.failures.items()))


def require(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise click.ClickException(
            f"this needs {package}, which is not installed: pip install {package}"
        )
