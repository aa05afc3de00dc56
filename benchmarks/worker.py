"""One fresh process of a benchmark run: prints one JSON record a line. `run` starts it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

import torch

from . import families, machine
from .harness import CudaTimer, Settings, Timer, WallTimer, measure


def main() -> None:
    task = json.loads(sys.argv[1])
    with _protocol() as out:
        for record in _records(task):
            print(json.dumps({"process": task["process"], **record}), file=out, flush=True)


def _records(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of the cases in `task["cases"]`, pairs of family and name, until the deadline."""
    device = task["device"]
    torch.set_num_threads(task["threads"])
    settings = Settings(**task["settings"])
    timer: Timer = WallTimer()
    cache = 0
    if device == "cuda":
        timer = CudaTimer(settings.flush_l2)
        cache = torch.cuda.get_device_properties().L2_cache_size
    yield {"machine": machine.measure(device, task["threads"])}
    known = {
        (family, case.name): case
        for family in {family for family, _ in task["cases"]}
        for case in families.cases(family)
    }
    for family, name in task["cases"]:
        if time.time() > task["deadline"]:
            return
        # Other data in every process.
        record = measure(known[family, name], device, 100 * task["process"], timer, settings, cache)
        yield {"family": family, **record}


def _protocol() -> TextIO:
    """The standard output, to which nobody else can write from now on: theirs goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


if __name__ == "__main__":
    main()
