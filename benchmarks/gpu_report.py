"""What the steps of a GPU check found: outcomes, and the report that a later call goes on with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypedDict

from .store import UNFINISHED as UNFINISHED_CODE
from .store import write_whole

PASSED, FAILED, UNAVAILABLE, UNFINISHED = "passed", "failed", "unavailable", "unfinished"
SETTLED = (PASSED, UNAVAILABLE)


class Outcome(TypedDict, total=False):
    state: str
    note: str
    seconds: float


def pytest_outcome(text: str, code: int) -> Outcome:
    """Passed when pytest ended well and at least one test ran."""
    summaries = re.findall(r"^=*\s*(\d+ [a-z]+(?:, \d+ [a-z]+)*) in [\d.]+s", text, re.M)
    note = summaries[-1] if summaries else f"exit code {code}, no summary"
    if code == 0 and re.search(r"\b[1-9]\d* passed", note):
        return Outcome(state=PASSED, note=note)
    return Outcome(state=FAILED, note=f"no test ran: {note}" if code in (0, 5) else note)


def sanitizer_outcome(text: str, code: int) -> Outcome:
    """Passed when the tool summed up without a finding, and the tests under it passed, too."""
    if "Device not supported" in text:
        return Outcome(state=UNAVAILABLE, note="compute-sanitizer does not support this device")
    findings = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)", text)
    if not findings:
        return Outcome(state=FAILED, note=f"exit code {code}, no summary of the tool")
    if found := sum(map(int, findings)):
        return Outcome(state=FAILED, note=f"{found} findings, see the log")
    tests = pytest_outcome(text, code)
    return Outcome(state=tests["state"], note=f"0 findings; {tests['note']}")


def load_report(path: Path, sources: str, *, fresh: bool) -> dict[str, Any]:
    """The report to go on with, of the same sources; else a new one."""
    if path.exists() and not fresh:
        report: dict[str, Any] = json.loads(path.read_text())
        if report["sources"] == sources:
            return report
        print("gpu-check: the sources changed since, every step is done again", flush=True)
    return {"sources": sources, "device": {}, "steps": {}, "benchmarks": {}}


def write_report(path: Path, report: dict[str, Any]) -> None:
    write_whole(path, json.dumps(report, indent=1) + "\n")


def exit_code(report: dict[str, Any], wanted: list[str]) -> int:
    """0 when every wanted step is settled, 1 when one failed, 3 when one is still to do."""
    states = [report["steps"].get(name, {}).get("state", UNFINISHED) for name in wanted]
    if FAILED in states:
        return 1
    return 0 if all(state in SETTLED for state in states) else UNFINISHED_CODE
