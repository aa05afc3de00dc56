"""Files that are replaced as a whole: a crash or a kill leaves the old one or the new one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_PREFIX, _SUFFIX = ".clfast-", ".tmp"


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """An empty file that takes the place of `path`, synced to disk, when the block ends.

    It has a folder to itself beside `path`, so that whoever writes it may put files of their own
    there. When the block raises, `path` is what it was; a kill may leave the folder, see
    `leftovers`. An old file's permissions stay. Raises OSError where the disk does not take the
    data, with `path` as before, or already replaced if only the last step failed, the syncing of
    its folder.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_PREFIX, suffix=_SUFFIX) as folder:
        fresh = Path(folder, path.name)
        fresh.touch()
        mode = (path if path.exists() else fresh).stat().st_mode
        yield fresh
        # Some writers make a file anew that only its owner can read.
        fresh.chmod(mode)
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


def leftovers(folder: Path) -> list[Path]:
    """The folders that killed replacements left in `folder`."""
    return [entry for entry in folder.glob(f"{_PREFIX}*{_SUFFIX}") if entry.is_dir()]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
