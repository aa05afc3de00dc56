"""Files that a kill at any moment leaves whole: the lines of an unfinished run, and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Exit code of a command whose time ran out: the same command goes on.
UNFINISHED = 3


def write_whole(path: Path, text: str) -> None:
    """`path` holds the old text or the new, never a part of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


class Store:
    """Appends records; its first line is the run's header.

    A file with the same header is gone on with. ValueError, which names what differs, for another
    run's file.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, fresh: bool) -> None:
        self._path = path
        if fresh:
            path.unlink(missing_ok=True)
        first, *self.records = _whole_lines(path) or [header]
        changed = sorted(k for k in first.keys() | header.keys() if first.get(k) != header.get(k))
        if changed:
            raise ValueError(
                f"{path} is of an unfinished run with other {', '.join(changed)}: "
                "finish that one, or pass --fresh to measure everything again"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, "".join(json.dumps(line) + "\n" for line in [first, *self.records]))

    def append(self, record: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)

    def done(self, process: int) -> set[tuple[str, str]]:
        """The cases, by family and name, that the process has measured."""
        return {
            (record["family"], f"{record['op']} {record['size']}")
            for record in self.records
            if record["process"] == process and "family" in record
        }

    def remove(self) -> None:
        self._path.unlink()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """What follows the last newline is a line that a kill cut short."""
    if not path.exists():
        return []
    *lines, _ = path.read_text().split("\n")
    return [json.loads(line) for line in lines]
