"""Kills processes in the middle of a run of DGM, goes on with each, and looks at where it ends (for
test_dgm_experiment.py).

Usage: kill_dgm_run.py FOLDER; prints one JSON list with an entry for each kill.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dgm_runs import CONFIG, PLOTS, TEST, TRAIN, draw_nothing, ends_alike

from clfast.experiments import dgm, dgm_report
from clfast.experiments.run_folder import RunFolder

torch.set_num_threads(1)  # a forked process cannot use the threads of its parent


def dies(owner: object, name: str, call: int, after: bool) -> None:
    """SIGKILL at the call of that number, from 1, before or after it is done."""
    whole: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(*arguments, **options)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


def killed(folder: Path, kill: tuple[Any, str, int, bool]) -> bool:
    """A fork that runs until it dies; whether it was killed."""
    pid = os.fork()
    if not pid:
        dies(*kill)
        dgm.run(CONFIG, TRAIN, TEST, folder, minutes=0)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def main(folder: Path) -> None:
    for module, name in PLOTS:
        setattr(module, name, draw_nothing)
    kills: list[tuple[Any, str, int, bool]] = [
        (dgm.DGMw, "_learn_batch", 1, True),
        (RunFolder, "save_checkpoint", 2, False),
        (RunFolder, "save_checkpoint", 4, True),
        (torch, "save", 7, True),  # written, but not in its place
        (RunFolder, "log", 1, False),
        (RunFolder, "log", 2, True),
        (dgm, "image_grid", 2, True),
        (dgm_report, "write_text", 1, False),
    ]
    whole = folder / "whole"
    dgm.run(CONFIG, TRAIN, TEST, whole, minutes=0)
    outcomes = []
    for number, kill in enumerate(kills):
        path = folder / str(number)
        was_killed = killed(path, kill)
        dgm.run(CONFIG, TRAIN, TEST, path, minutes=0)
        outcomes.append({"kill": kill[1:], "killed": was_killed, "same": ends_alike(path, whole)})
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
