"""The GPU check without a GPU: what it concludes, skips, and goes on with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check, store
from benchmarks.gpu_report import exit_code, load_report, pytest_outcome, sanitizer_outcome

CLEAN = (
    "========= COMPUTE-SANITIZER\n===== 5 passed in 1.23s =====\n"
    "========= ERROR SUMMARY: 0 errors\n"
)
NO_RACE = (
    "===== 5 passed, 60 deselected in 31.20s (0:00:31) =====\n"
    "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
)


@pytest.mark.parametrize(
    ("text", "code", "state", "note"),
    [
        ("==== 12 passed, 1 skipped in 3.21s ====", 0, "passed", "12 passed, 1 skipped"),
        ("3 passed in 61.00s (0:01:01)", 0, "passed", "3 passed"),
        ("== 1 failed, 2 passed, 1 error in 9.00s ==", 1, "failed", "1 failed, 2 passed, 1 error"),
        ("==== 4 skipped in 0.10s ====", 0, "failed", "no test ran: 4 skipped"),
        ("==== no tests ran in 0.01s ====", 5, "failed", "no test ran: exit code 5, no summary"),
        ("Segmentation fault", -11, "failed", "exit code -11, no summary"),
        ("==== 2 passed in 1.00s ====", -11, "failed", "2 passed"),
    ],
)
def test_tests_pass_only_when_some_ran_and_none_failed(
    text: str, code: int, state: str, note: str
) -> None:
    assert pytest_outcome(f"collected\n{text}\n", code) == {"state": state, "note": note}


@pytest.mark.parametrize(
    ("text", "code", "state", "note"),
    [
        (CLEAN, 0, "passed", "0 findings; 5 passed"),
        (NO_RACE, 0, "passed", "0 findings; 5 passed, 60 deselected"),
        (CLEAN.replace("0 errors", "3 errors"), 86, "failed", "3 findings, see the log"),
        (CLEAN.replace("0 errors", "1 error"), 86, "failed", "1 findings, see the log"),
        (NO_RACE.replace("0 hazards", "1 hazard"), 86, "failed", "1 findings, see the log"),
        (CLEAN + CLEAN.replace("0 errors", "2 errors"), 86, "failed", "2 findings, see the log"),
        (CLEAN.replace("5 passed", "1 failed"), 1, "failed", "0 findings; 1 failed"),
        (CLEAN, -11, "failed", "0 findings; 5 passed"),
        ("5 passed in 1.00s", 0, "failed", "exit code 0, no summary of the tool"),
        ("Error: Device not supported", 1, "unavailable", "does not support this device"),
    ],
)
def test_a_sanitizer_must_sum_up_without_findings(
    text: str, code: int, state: str, note: str
) -> None:
    outcome = sanitizer_outcome(text, code)
    assert outcome["state"] == state
    assert note in outcome["note"]


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["passed", "unavailable"], 0),
        (["passed", None], 3),
        (["unfinished"], 3),
        (["failed", "unfinished"], 1),
    ],
)
def test_the_exit_code_says_what_is_to_do(states: list[str | None], code: int) -> None:
    steps = {str(i): {"state": state} for i, state in enumerate(states) if state}
    assert exit_code({"steps": steps}, [str(i) for i in range(len(states))]) == code


def test_a_report_of_other_sources_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    steps = {"build": {"state": "passed"}}
    path.write_text(json.dumps({"sources": "a", "device": {}, "steps": steps, "benchmarks": {}}))
    assert load_report(path, "a", fresh=False)["steps"] == steps
    assert load_report(path, "b", fresh=False)["steps"] == {}
    assert load_report(path, "a", fresh=True)["steps"] == {}


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "out"
    assert gpu_check.main(["--out", str(out)]) == gpu_check.NO_GPU
    assert "nothing was checked" in capsys.readouterr().err
    assert not out.exists()


def test_it_starts_where_clfast_is_not_built_yet() -> None:
    code = "import sys, benchmarks.gpu_check; raise SystemExit('clfast' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=gpu_check.ROOT, check=True)


def test_cuda_tests_are_found_by_family_and_mark(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "ops"
    folder.mkdir(parents=True)
    (folder / "test_retrieval_cuda.py").write_text("@pytest.mark.cuda")
    (folder / "test_retrieval.py").write_text("")
    (folder / "test_adaptation_cuda.py").write_text("pytestmark = pytest.mark.cuda")
    assert gpu_check.cuda_tests(tmp_path, "retrieval") == ["tests/ops/test_retrieval_cuda.py"]


class Machine:
    """In place of a machine with a GPU: runs nothing, and answers as `answer` says."""

    def __init__(self, out: Path) -> None:
        self.out, self.ran, self.environment = out, [], {}
        self.answer: Callable[[str], tuple[str, int | None]] = lambda _: (CLEAN, 0)

    def run(
        self, command: list[str], environment: dict[str, str], log: Any, left: float
    ) -> int | None:
        kind = Path(log.name).stem
        self.ran.append(kind)
        self.environment[kind] = environment
        text, code = self.answer(kind)
        if kind == "benchmarks" and code == 0:
            Path(command[command.index("--out") + 1]).write_text(json.dumps(RESULT))
        log.write(text.encode())
        log.flush()
        return code


RESULT = {
    "family": "retrieval",
    "device": "cuda",
    "hardware": "Some GPU",
    "threads": 2,
    "processes": 1,
    "command": "python -m benchmarks.run",
    "environment": {"torch": "2.11.0", "clfast": "0.1.0"},
    "cases": [],
}
EVERYTHING = ["build", "tests", "memcheck", "racecheck", "benchmarks"]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    monkeypatch.setattr(gpu_check, "no_gpu", lambda: None)
    monkeypatch.setattr(gpu_check, "_own_architecture", lambda: "9.0")
    monkeypatch.setattr(gpu_check, "device_facts", lambda: {"gpu": "Some GPU"})
    monkeypatch.setattr(gpu_check, "_built", lambda: True)
    monkeypatch.setattr(gpu_check, "_run", found.run)
    monkeypatch.setattr(gpu_check, "cuda_tests", lambda root, family: [f"test_{family}_cuda.py"])
    monkeypatch.setattr(gpu_check.shutil, "which", lambda program: f"/bin/{program}")
    return found


def _check(machine: Machine, *options: str) -> int:
    machine.ran.clear()
    return gpu_check.main(["--family", "retrieval", "--out", str(machine.out), *options])


def _report(machine: Machine) -> dict[str, Any]:
    return json.loads((machine.out / "result.json").read_text())


def test_all_steps_run_once(machine: Machine) -> None:
    assert _check(machine) == 0
    assert machine.ran == EVERYTHING
    report = _report(machine)
    assert report["device"] == {"gpu": "Some GPU"}
    assert report["benchmarks"] == {"retrieval": RESULT}
    assert {step["state"] for step in report["steps"].values()} == {"passed"}
    assert _check(machine) == 0
    assert machine.ran == []
    assert _check(machine, "--fresh") == 0
    assert machine.ran == EVERYTHING


def test_families_add_up_in_few_files(machine: Machine) -> None:
    for family in ("retrieval", "adaptation"):
        assert gpu_check.main(["--family", family, "--out", str(machine.out)]) == 0
    assert machine.ran == EVERYTHING + EVERYTHING[1:]
    assert _report(machine)["benchmarks"].keys() == {"retrieval", "adaptation"}
    assert len(list(machine.out.iterdir())) <= 8


def test_what_is_checked_for_memory_errors_allocates_each_tensor_alone(machine: Machine) -> None:
    _check(machine)
    assert machine.environment["memcheck"]["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
    assert "PYTORCH_NO_CUDA_MEMORY_CACHING" not in machine.environment["benchmarks"]
    assert machine.environment["build"]["CLFAST_CUDA"] == "1"


def test_a_finding_fails_but_the_rest_still_runs(machine: Machine) -> None:
    found = CLEAN.replace("0 errors", "1 error"), 86
    machine.answer = lambda kind: found if kind == "memcheck" else (CLEAN, 0)
    assert _check(machine) == 1
    assert machine.ran == EVERYTHING
    assert _report(machine)["steps"]["memcheck:retrieval"]["state"] == "failed"
    machine.answer = lambda kind: (CLEAN, 0)
    assert _check(machine) == 0
    assert machine.ran == ["memcheck"]


def test_time_that_runs_out_is_gone_on_with(machine: Machine) -> None:
    machine.answer = lambda kind: ("", store.UNFINISHED) if kind == "benchmarks" else (CLEAN, 0)
    assert _check(machine) == 3
    machine.answer = lambda kind: ("", None) if kind == "benchmarks" else (CLEAN, 0)
    assert _check(machine) == 3
    machine.answer = lambda kind: (CLEAN, 0)
    assert _check(machine) == 0
    assert machine.ran == ["benchmarks"]


def test_no_step_begins_without_time_for_it(machine: Machine) -> None:
    assert _check(machine, "--max-seconds", "1") == 3
    assert machine.ran == []


def test_nothing_runs_on_a_failed_build(machine: Machine) -> None:
    machine.answer = lambda kind: ("error: no", 1)
    assert _check(machine) == 1
    assert machine.ran == ["build"]


def test_a_build_that_is_gone_is_made_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _check(machine) == 0
    answers = iter([False, True])
    monkeypatch.setattr(gpu_check, "_built", lambda: next(answers))
    assert _check(machine) == 0
    assert machine.ran == ["build"]


def test_a_missing_sanitizer_is_unavailable(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check.shutil, "which", lambda program: None)
    assert _check(machine) == 0
    assert machine.ran == ["build", "tests", "benchmarks"]
    assert _report(machine)["steps"]["memcheck:retrieval"] == {
        "state": "unavailable",
        "note": "compute-sanitizer is not installed",
    }


def test_a_family_without_cuda_tests_fails(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "cuda_tests", lambda root, family: [])
    assert _check(machine) == 1
    assert _report(machine)["steps"]["tests:retrieval"]["note"] == "this family has no CUDA tests"


def test_other_sources_start_everything_anew(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _check(machine) == 0
    monkeypatch.setattr(gpu_check.sources, "digest", lambda parts: "other")
    assert _check(machine) == 0
    assert machine.ran == EVERYTHING
    assert (machine.out / "tests.log").read_text().count("===") == CLEAN.count("===") + 1


def test_a_step_that_outlives_its_time_is_killed_with_all_it_started(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        command = ["sh", "-c", "echo begun; sleep 60 & wait"]
        assert gpu_check._run(command, {"PATH": "/usr/bin:/bin"}, log, 0.5) is None
        assert gpu_check._run(["sh", "-c", "exit 7"], {"PATH": "/usr/bin:/bin"}, log, 60) == 7
    assert (tmp_path / "log").read_bytes() == b"begun\n"
