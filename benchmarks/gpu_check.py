"""All that needs an NVIDIA GPU: build with CUDA, tests, compute-sanitizer, benchmarks.

    python -m benchmarks.gpu_check --family retrieval,adaptation --out gpu-check

writes `result.json` and one log a kind of step into the folder. Steps that are done are skipped
when it runs again, unless the sources changed or --fresh is given. Exit codes: 0 all is well, 1 a
step failed, 2 there is no NVIDIA GPU, 3 time ran out: run it again.

Nothing here imports clfast, which is not built yet when this starts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import families, report, sources, store
from .gpu_report import (
    FAILED,
    PASSED,
    SETTLED,
    UNAVAILABLE,
    UNFINISHED,
    Outcome,
    exit_code,
    load_report,
    pytest_outcome,
    sanitizer_outcome,
    write_report,
)
from .sources import ROOT

NO_GPU = 2
CHECKED = (*sources.MADE_OF, "tests")
# Seconds: a step is not begun with less, and a benchmark run stops this long before its time is up.
SHORTEST, MARGIN = 40, 30

# CUDA tests, by their names, that launch every kernel at small sizes and with bad indices.
SANITIZED = "equals_float64_reference or outside_the_memory"


@dataclass(frozen=True)
class Step:
    """A command; empty when there is nothing to run, and `absence` says what that means."""

    kind: str  # also the name of its log
    family: str
    command: list[str]
    absence: Outcome | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.family}" if self.family else self.kind


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    if reason := no_gpu():
        print(f"gpu-check: {reason}; nothing was checked", file=sys.stderr)
        return NO_GPU
    deadline = time.monotonic() + options.max_seconds
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", _own_architecture())
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "result.json"
    found = load_report(path, sources.digest(parts=CHECKED), fresh=options.fresh)
    if not found["steps"]:
        _clear(options.out)
    found["device"] = device_facts()
    todo = list(steps(options))
    for step in todo:
        if _done(step, found):
            print(f"gpu-check: {step.name}: done before", flush=True)
            continue
        left = deadline - time.monotonic()
        if left < SHORTEST:
            break
        outcome = found["steps"][step.name] = _carry_out(step, options.out, left)
        if step.kind == "benchmarks" and outcome["state"] == PASSED:
            produced = _benchmark_file(options.out, step.family)
            found["benchmarks"][step.family] = json.loads(produced.read_text())
            produced.unlink()
        write_report(path, found)
        print(f"gpu-check: {step.name}: {outcome['state']}, {outcome['note']}", flush=True)
        if step.kind == "build" and outcome["state"] != PASSED:
            break
    for result in found["benchmarks"].values():
        print(f"\n{report.heading(result)}\n{report.table(result)}", flush=True)
    return exit_code(found, [step.name for step in todo])


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu_check")
    parser.add_argument("--family", default=",".join(families.names()), help="comma-separated")
    parser.add_argument("--out", type=Path, required=True, help="a folder for result and logs")
    parser.add_argument("--processes", type=int, default=5, help="of the benchmarks")
    parser.add_argument("--max-seconds", type=float, default=540, help="then stop")
    parser.add_argument("--fresh", action="store_true", help="do every step again")
    return parser.parse_args(argv)


def no_gpu() -> str | None:
    """Why nothing can be checked here; None where a GPU is usable."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU"
    return None


def device_facts() -> dict[str, Any]:
    """What a result depends on besides the code."""
    properties = torch.cuda.get_device_properties()
    driver = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "gpu": properties.name,
        "compute_capability": _own_architecture(),
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "driver": _last_line(*driver),
        "nvcc": _last_line("nvcc", "--version"),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "architectures": os.environ["TORCH_CUDA_ARCH_LIST"],
    }


def steps(options: argparse.Namespace) -> Iterator[Step]:
    """In the order to take them. Each is short enough for one call, or goes on in the next."""
    python = [sys.executable, "-m"]
    pip = [*python, "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "-e", "."]
    yield Step("build", "", pip)
    for family in options.family.split(","):
        tests = cuda_tests(ROOT, family)
        if tests:
            yield Step("tests", family, [*python, "pytest", "-m", "cuda", *tests])
        else:
            nothing = Outcome(state=FAILED, note="this family has no CUDA tests")
            yield Step("tests", family, [], nothing)
        for tool in ("memcheck", "racecheck"):
            yield _sanitizer_step(tool, family, tests)
        out = str(_benchmark_file(options.out.resolve(), family))
        benchmark = [*python, "benchmarks.run", "--family", family, "--device", "cuda"]
        benchmark += ["--processes", str(options.processes), "--out", out]
        yield Step("benchmarks", family, benchmark)


def cuda_tests(root: Path, family: str) -> list[str]:
    """The test files with the family in their name and CUDA tests in their text."""
    files = sorted((root / "tests").rglob(f"test_*{family}*.py"))
    return [str(file.relative_to(root)) for file in files if "mark.cuda" in file.read_text()]


def _sanitizer_step(tool: str, family: str, tests: list[str]) -> Step:
    """clfast at the benchmarks' small sizes, and the tests that `SANITIZED` chooses.

    Only this project's kernels are watched: torch's are not in question and would take the time.
    """
    program = shutil.which("compute-sanitizer")
    if program is None:
        missing = Outcome(state=UNAVAILABLE, note="compute-sanitizer is not installed")
        return Step(tool, family, [], missing)
    watch = [program, "--tool", tool, "--kernel-name", "kns=clfast"]
    watch += ["--report-api-errors", "no", "--error-exitcode", "86"]
    pytest = [sys.executable, "-m", "pytest", *tests, "benchmarks", "--device=cuda"]
    chosen = f"{SANITIZED} or ({family} and small and clfast)"
    return Step(tool, family, [*watch, *pytest, "--benchmark-disable", "-k", chosen])


def _carry_out(step: Step, out: Path, left: float) -> Outcome:
    """Runs the step for at most `left` seconds; its output goes to the end of its log."""
    if step.absence:
        return step.absence
    command, environment = list(step.command), os.environ | {"CLFAST_CUDA": "1"}
    if step.kind == "benchmarks":
        command += ["--max-seconds", str(int(left - MARGIN))]
    if step.kind in ("memcheck", "racecheck"):
        # Torch's own pool of memory would hide what lies beyond the end of a tensor.
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    log, start = out / f"{step.kind}.log", time.monotonic()
    with log.open("ab") as file:
        file.write(f"\n=== {step.name}\n".encode())
        file.flush()
        begin = file.tell()
        code = _run(command, environment, file, left)
    text = log.read_bytes()[begin:].decode(errors="replace")
    outcome = judge(step.kind, text, code)
    outcome["seconds"] = round(time.monotonic() - start, 1)
    return outcome


def judge(kind: str, text: str, code: int | None) -> Outcome:
    """What a step's output and exit code mean; no code means that its time ran out."""
    if code is None or (kind == "benchmarks" and code == store.UNFINISHED):
        return Outcome(state=UNFINISHED, note="time ran out, run again to go on")
    if kind == "tests":
        return pytest_outcome(text, code)
    if kind in ("memcheck", "racecheck"):
        return sanitizer_outcome(text, code)
    if code == 0 and kind == "build" and not _built():
        return Outcome(state=FAILED, note="built, but clfast does not load its CUDA library")
    return Outcome(state=FAILED if code else PASSED, note=f"exit code {code}")


def _run(command: list[str], environment: dict[str, str], log: Any, left: float) -> int | None:
    """The exit code; None when the time ran out, and then nothing of it runs on."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(left)
        except BaseException as reason:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(reason, subprocess.TimeoutExpired):
                return None
            raise


def _done(step: Step, found: dict[str, Any]) -> bool:
    settled = found["steps"].get(step.name, {}).get("state") in SETTLED
    return settled and (step.kind != "build" or _built())


def _built() -> bool:
    """In a process of its own: this one may have loaded an older build."""
    code = "from clfast import _library; raise SystemExit(not _library.cuda_library_loaded())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    return done.returncode == 0


def _clear(out: Path) -> None:
    """Removes what an earlier check of other sources left."""
    for pattern in ("*.log", "benchmarks-*.json", "benchmarks-*.jsonl"):
        for leftover in out.glob(pattern):
            leftover.unlink()


def _benchmark_file(out: Path, family: str) -> Path:
    return out / f"benchmarks-{family}.json"


def _own_architecture() -> str:
    return "{}.{}".format(*torch.cuda.get_device_capability())


def _last_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())
