"""Runs that are killed and go on, each in a process of its own, and whether they end alike."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Kill(NamedTuple):
    """SIGKILL at a call of a function: of that number, from 1, before or after it is done."""

    owner: Any
    name: str
    call: int
    after: bool


def outcomes_of(script: Path, folder: Path) -> list[dict[str, Any]]:
    """What a script with `survive` prints, in a process that may fork."""
    done = subprocess.run(
        [sys.executable, script, folder],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes: list[dict[str, Any]] = json.loads(done.stdout)
    return outcomes


def survive(
    kills: Sequence[Kill],
    run: Callable[[Path], Any],
    ends_alike: Callable[[Path, Path], bool],
    folder: Path,
) -> None:
    """Goes on with a run after each kill; prints a JSON list of whether it was killed, and ended as
    one that was not."""
    torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
    whole = folder / "whole"
    run(whole)
    outcomes = []
    for number, kill in enumerate(kills):
        path = folder / str(number)
        was_killed = killed(lambda path=path: run(path), kill)
        run(path)
        outcomes.append({"kill": kill[1:], "killed": was_killed, "same": ends_alike(path, whole)})
    print(json.dumps(outcomes))


def killed(run: Callable[[], Any], kill: Kill) -> bool:
    """A fork that runs until it dies; whether it was killed."""
    pid = os.fork()
    if not pid:
        _arm(kill)
        run()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def _arm(kill: Kill) -> None:
    whole: Callable[..., Any] = getattr(kill.owner, kill.name)
    calls = 0

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == kill.call and not kill.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(*arguments, **options)
        if calls == kill.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(kill.owner, kill.name, dying)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
