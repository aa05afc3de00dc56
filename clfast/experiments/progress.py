"""A progress bar on a terminal, one line of text elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
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
    """Iterate over `iterable`, showing on stderr how far it is, see `bar`.

    `total`, the number of items, is taken from `iterable` where that has a length.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with bar(description, total) as advance:
        for item in iterable:
            yield item
            advance()


@contextmanager
def bar(description: str, total: int | None, done: int = 0) -> Iterator[Callable[[], None]]:
    """A bar with the time left; call what it gives after each item.

    When stderr is not a terminal nothing is shown but one plain line, "description: items in
    seconds", at the end. `done` items are there from the start.
    """
    if sys.stderr.isatty():
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        ) as progress:
            task = progress.add_task(description, total=total, completed=done)
            yield lambda: progress.advance(task)
        return
    start, items = time.perf_counter(), 0

    def count() -> None:
        nonlocal items
        items += 1

    yield count
    print(f"{description}: {items} in {time.perf_counter() - start:.1f} s", file=sys.stderr)
