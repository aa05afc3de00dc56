"""Whether the machine was quiet: how much of its cores other processes used meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

# wall clock, CPU seconds of everybody, CPU seconds of this process
Reading = tuple[float, float, float]


class Bystanders:
    """Counts from its making on."""

    def __init__(self, read: Callable[[], Reading] | None = None, cores: int | None = None) -> None:
        self._read = read or _reading
        self._cores = cores or os.cpu_count() or 1
        self._start = self._read()

    def share(self) -> float:
        """Between 0 and 1, of all cores; 0 where Linux's /proc/stat is not there to tell."""
        wall, everybody, own = (b - a for a, b in zip(self._start, self._read(), strict=True))
        return min(max((everybody - own) / (wall * self._cores), 0.0), 1.0)


def busy_seconds(stat: Path = Path("/proc/stat")) -> float:
    """CPU seconds that any core spent on anything, what the host took away included."""
    try:
        fields = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return 0.0
    idle, waiting_for_disk = fields[3:5]
    return (sum(fields) - idle - waiting_for_disk) / os.sysconf("SC_CLK_TCK")


def _reading() -> Reading:
    return time.perf_counter(), busy_seconds(), time.process_time()
