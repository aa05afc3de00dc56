"""A progress bar on a terminal, one line of text elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `iterable`, showing on stderr how far it is.

    `total`, the number of items, is taken from `iterable` where that has a length. When stderr is
    not a terminal nothing is shown but one plain line, "description: items in seconds", after the
    last item.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty():
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        ) as progress:
            yield from progress.track(iterable, total=total, description=description)
        return
    start, items = time.perf_counter(), 0
    for item in iterable:
        yield item
        items += 1
    print(f"{description}: {items} in {time.perf_counter() - start:.1f} s", file=sys.stderr)
