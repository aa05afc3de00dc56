"""What the commands of the command line share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

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


def require(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise click.ClickException(
            f"this needs {package}, which is not installed: pip install {package}"
        )
