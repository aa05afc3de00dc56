"""Kills processes while they save a memory, and looks at what is left (for test_memory_kill.py).

Usage: kill_while_saving.py FILE moments|steps; prints one JSON list with an entry for each kill.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory_helpers import filled, same, snapshot

from clfast.memory import KeyValueMemory, storage

torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
OLD = filled(3000, 128)
NEW = filled(2000, 128)


def child(work: Callable[[], None]) -> int:
    """Process id of a fork that does `work`."""
    pid = os.fork()
    if pid:
        return pid
    work()
    os._exit(0)


def left_over(path: Path) -> dict[str, Any]:
    """What the file holds, and whether a temporary folder remains (which is removed)."""
    found = snapshot(KeyValueMemory.from_file(path))
    folders = [folder for folder in path.parent.iterdir() if folder != path]
    for folder in folders:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    return {
        "old": same(found, snapshot(OLD)),
        "new": same(found, snapshot(NEW)),
        "interrupted": bool(folders),
    }


def kill_at_moments(path: Path, kills: int = 80) -> list[dict[str, Any]]:
    """SIGKILL at random times of two rounds while a process saves both memories in turns."""
    rng = random.Random(0)
    OLD.save(path)
    start = time.perf_counter()
    NEW.save(path)
    OLD.save(path)
    duration = time.perf_counter() - start
    outcomes = []
    for _ in range(kills):
        read_end, write_end = os.pipe()

        def save_for_ever(started: int = write_end) -> None:
            os.write(started, b"1")
            while True:
                NEW.save(path)
                OLD.save(path)

        pid = child(save_for_ever)
        os.read(read_end, 1)
        time.sleep(rng.uniform(0, 2 * duration))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read_end)
        os.close(write_end)
        outcomes.append(left_over(path))
    return outcomes


def kill_at_steps(path: Path) -> list[dict[str, Any]]:
    """SIGKILL right before and right after each step of saving."""

    def half_written(tensors: Any, target: Path, metadata: Any) -> None:
        storage_save_file(tensors, target, metadata)
        os.truncate(target, target.stat().st_size // 2)

    storage_save_file = storage.save_file
    steps: list[tuple[object, str, Callable[..., Any]]] = [
        (storage, "save_file", half_written),
        (storage, "save_file", storage.save_file),
        (os, "fsync", os.fsync),
        (Path, "replace", Path.replace),
    ]
    outcomes = []
    for owner, name, step in steps:
        for after in (False, True):
            OLD.save(path)

            def dying(*args: Any, step: Callable[..., Any] = step, after: bool = after) -> None:
                if after:
                    step(*args)
                os.kill(os.getpid(), signal.SIGKILL)

            def save_dying(owner: object = owner, name: str = name, dying: Any = dying) -> None:
                setattr(owner, name, dying)
                NEW.save(path)

            os.waitpid(child(save_dying), 0)
            outcomes.append({"step": name, "after": after, **left_over(path)})
    return outcomes


if __name__ == "__main__":
    kills = {"moments": kill_at_moments, "steps": kill_at_steps}[sys.argv[2]]
    print(json.dumps(kills(Path(sys.argv[1]))))
