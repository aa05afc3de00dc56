"""Files that are replaced as a whole: a crash or a kill leaves the old one or the new one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """An empty file that takes the place of `path`, synced to disk, when the block ends.

    It has a folder to itself beside `path`, so that whoever writes it may put files of their own
    there. When the block raises, `path` is what it was; a kill may leave the folder, see
    `leftovers`. Raises OSError where the disk does not take the data, with `path` as before, or
    already replaced if only the last step failed, the syncing of its folder.
    """
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
    ) as folder:
        fresh = Path(folder, path.name)
        fresh.touch()
        yield fresh
        _sync(fresh)
        fresh.replace(path)
    # The new name is on disk only once the folder is.
    _sync(path.parent)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """`replacement`, open for writing."""
    with replacement(path) as fresh, fresh.open("wb") as file:
        yield file
        file.flush()


def write_text(path: Path, text: str) -> None:
    """`text` in UTF-8 becomes the content of `path`; see `replacement`."""
    with atomic_write(path) as file:
        file.write(text.encode())


def leftovers(folder: Path, name: str = "") -> list[Path]:
    """What killed replacements of the file `name`, or of any file, left in `folder`."""
    return list(folder.glob(f".{name or '*'}.*.tmp"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
