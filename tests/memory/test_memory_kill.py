"""A process that is killed while it saves leaves the old file or the new one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("kill_while_saving.py")


def kill_while_saving(how: str, folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, SCRIPT, folder / "memory.safetensors", how],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes: list[dict[str, Any]] = json.loads(done.stdout)
    return outcomes


def test_killed_at_any_moment(tmp_path: Path) -> None:
    outcomes = kill_while_saving("moments", tmp_path)
    assert all(outcome["old"] != outcome["new"] for outcome in outcomes)
    # The kills are worth something only if some hit a save under way and both files are seen; the
    # test below kills at every step.
    assert any(outcome["interrupted"] for outcome in outcomes)
    assert any(outcome["old"] for outcome in outcomes)
    assert any(outcome["new"] for outcome in outcomes)


def test_killed_at_each_step(tmp_path: Path) -> None:
    outcomes = kill_while_saving("steps", tmp_path)
    steps = [(outcome["step"], outcome["after"]) for outcome in outcomes]
    assert steps == [
        (step, after)
        for step in ("save_file", "save_file", "fsync", "replace")
        for after in (False, True)
    ]
    for outcome in outcomes:
        renamed = outcome["step"] == "replace" and outcome["after"]
        assert outcome["new"] == renamed
        assert outcome["old"] != renamed
        assert outcome["interrupted"]


def test_the_script_reports_a_file_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "memory.safetensors").mkdir()
    with pytest.raises(AssertionError, match=r"KeyValueMemory\.save"):
        kill_while_saving("moments", tmp_path)
