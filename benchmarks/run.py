"""Measures cases in several fresh processes and writes one result file.

    python -m benchmarks.run --family retrieval,adaptation --device cpu

What is measured goes to a file of lines beside the result at once: the same command again goes on
where a killed or unfinished one stopped. Exit code 3: time ran out, run it again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from clfast.experiments.run_folder import environment

from . import families
from .harness import Settings
from .sources import ROOT, digest, timed
from .store import UNFINISHED, Store, write_whole
from .summary import result

# MKL looks at its variable on Intel's processors alone, and torch.compile has C++ compiled for the
# processor that is there.
_AVX2 = {
    "CLFAST_SIMD": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "FAISS_OPT_LEVEL": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    options.out = options.out or Path("benchmarks", "results", f"{options.device}.json")
    try:
        cases = _chosen(options)
        header = _header(options)
        store = Store(options.out.with_suffix(".jsonl"), header, fresh=options.fresh)
    except ValueError as error:
        sys.exit(f"benchmarks: {error}")
    console = Console(stderr=True)
    if options.unless_done and _is_done(options.out, header):
        store.remove()
        console.print(f"benchmarks: {options.out} is of this code and these options already")
        return 0
    deadline = time.time() + options.max_seconds
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("benchmarks", total=len(cases) * options.processes)
        for process in range(options.processes):
            todo = [case for case in cases if case not in store.done(process)]
            progress.advance(bar, len(cases) - len(todo))
            progress.update(bar, description=f"process {process + 1} of {options.processes}")
            for record in _fresh_process(process, todo, options, deadline):
                store.append(record)
                if "family" in record:
                    progress.advance(bar)
                    console.print(_line(record), highlight=False, markup=False, soft_wrap=True)
    if any(set(cases) - store.done(process) for process in range(options.processes)):
        console.print("benchmarks: time ran out; the same command goes on from here")
        return UNFINISHED
    about = _header(options) | {
        "command": _command(options),
        "environment": environment() | {"threads": options.threads},
    }
    write_whole(options.out, json.dumps(result(about, store.records), indent=1) + "\n")
    store.remove()
    console.print(f"benchmarks: wrote {options.out}")
    return 0


def _is_done(out: Path, header: dict[str, Any]) -> bool:
    if not out.exists():
        return False
    made = json.loads(out.read_text())
    return all(made.get(name) == value for name, value in header.items())


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.run", description=__doc__.split("\n")[0])
    parser.add_argument("--family", default=",".join(families.names()), help="comma-separated")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their name")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=Settings.rounds, help="samples a variant")
    parser.add_argument("--flush-l2", action="store_true", help="before every call (CUDA)")
    parser.add_argument(
        "--avx2",
        action="store_true",
        help="vectors of AVX2 at most, as far as each lets itself be told",
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<device>.json")
    parser.add_argument("--max-seconds", type=float, default=float("inf"), help="then stop")
    parser.add_argument(
        "--unless-done", action="store_true", help="not if --out holds this very measurement"
    )
    parser.add_argument("--fresh", action="store_true", help="forget an unfinished run")
    return parser.parse_args(argv)


def _chosen(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Family and name of every case to measure."""
    found = [
        (family, case.name)
        for family in options.family.split(",")
        for case in families.cases(family)
        if options.only in case.name
    ]
    if not found:
        raise ValueError(f"no case of {options.family} has {options.only!r} in its name")
    return found


def _header(options: argparse.Namespace) -> dict[str, Any]:
    """What must be the same for numbers to stand in one result."""
    made = environment()
    settings = Settings(rounds=options.rounds, flush_l2=options.flush_l2)
    return {
        "device": options.device,
        "family": options.family,
        "only": options.only,
        "processes": options.processes,
        "threads": options.threads,
        "avx2": options.avx2,
        "settings": dataclasses.asdict(settings),
        # One name may stand for processors of several levels.
        "hardware": made["gpu"] if options.device == "cuda" else f"{made['cpu']} ({made['simd']})",
        "torch": made["torch"],
        "sources": digest(parts=timed(options.family.split(","))),
    }


def _command(options: argparse.Namespace) -> str:
    """The command that measures the same, whatever the file it wrote to."""
    words = ["python", "-m", "benchmarks.run", "--family", options.family]
    words += ["--device", options.device, "--processes", str(options.processes)]
    words += ["--threads", str(options.threads), "--rounds", str(options.rounds)]
    words += ["--only", options.only] if options.only else []
    words += ["--flush-l2"] if options.flush_l2 else []
    words += ["--avx2"] if options.avx2 else []
    return shlex.join(words)


def _fresh_process(
    process: int,
    cases: list[tuple[str, str]],
    options: argparse.Namespace,
    deadline: float,
) -> Iterator[dict[str, Any]]:
    """The records of one worker, as they come; ends the run when the worker dies."""
    if not cases or time.time() > deadline:
        return
    task = {
        "process": process,
        "cases": cases,
        "device": options.device,
        "threads": options.threads,
        "settings": _header(options)["settings"],
        "deadline": deadline,
    }
    left = iter(cases)
    changed = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    changed |= _AVX2 if options.avx2 else {}
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps(task)]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | changed, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        try:
            for line in worker.stdout:
                record = json.loads(line)
                if "family" in record:
                    next(left)
                yield record
        except BaseException:
            worker.kill()
            raise
    if worker.returncode:
        code, (_, case) = worker.returncode, next(left, ("", "end"))
        sys.exit(f"benchmarks: process {process + 1} ended with code {code}, at the {case}")


def _line(record: dict[str, Any]) -> str:
    """The fastest of clfast, and of everything else that was measured."""
    shown = []
    for own in (True, False):
        times = [
            (variant["seconds"], name)
            for name, variant in record["variants"].items()
            if variant["status"] == "measured"
            and (variant["kind"] == "clfast") is own
            and variant["kind"] != "base"
        ]
        if times:
            seconds, name = min(times)
            shown.append(f"{1e3 * seconds:.3f} ms {name}")
    return f"{record['op']} {record['size']}: {' · '.join(shown) or 'nothing was measured'}"


if __name__ == "__main__":
    sys.exit(main())
