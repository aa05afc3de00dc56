"""A run of several processes: what is stored, gone on with, refused."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import families, run, sources
from benchmarks.store import Store

OPTIONS = ["--family", "retrieval", "--only", "class_means", "--processes", "2"]
CASES = [c.name for c in families.cases("retrieval") if "class_means" in c.name]
MACHINE = {
    "memory": [{"name": "DRAM", "capacity": None, "read": 1e9, "copy": 1e9}],
    "flops": {"sgemm": 1e10},
}


class Workers:
    """In place of fresh processes: what they were asked for, and how many cases they manage."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[str]]] = []
        self.patience = 1000

    def __call__(self, process: int, cases: list, *_: Any) -> Iterator[dict[str, Any]]:
        if cases:
            self.asked.append((process, [name for _, name in cases]))
            yield {"process": process, "machine": MACHINE}
        for family, name in cases:
            if self.patience == 0:
                return
            self.patience -= 1
            op, size = name.split(" ", 1)
            variant = {"kind": "clfast", "status": "measured", "seconds": 1e-3, "error": 0.0}
            yield {
                "process": process,
                "family": family,
                "op": op,
                "size": size,
                "input_sets": 1,
                "others": 0.0,
                "work": {"read": 1, "written": 1, "flops": 1},
                "variants": {"clfast": variant},
            }


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    found = Workers()
    monkeypatch.setattr(run, "_fresh_process", found)
    return found


def test_every_process_measures_every_chosen_case(tmp_path: Path, workers: Workers) -> None:
    out = tmp_path / "cpu.json"
    assert run.main([*OPTIONS, "--out", str(out)]) == 0
    assert workers.asked == [(0, CASES), (1, CASES)]
    result = json.loads(out.read_text())
    assert [f"{case['op']} {case['size']}" for case in result["cases"]] == CASES
    assert all(case["processes"] == [0, 1] for case in result["cases"])
    assert {"device", "hardware", "torch", "sources", "settings", "machine"} <= result.keys()
    assert list(tmp_path.iterdir()) == [out]


def test_the_recorded_command_names_no_path(tmp_path: Path, workers: Workers) -> None:
    out = tmp_path / "cpu.json"
    run.main([*OPTIONS, "--out", str(out)])
    assert str(tmp_path) not in out.read_text()
    words = json.loads(out.read_text())["command"].split()
    assert words[:3] == ["python", "-m", "benchmarks.run"]
    assert words[words.index("--only") + 1] == "class_means"


def test_a_run_out_of_time_goes_on_where_it_stopped(tmp_path: Path, workers: Workers) -> None:
    command = [*OPTIONS, "--out", str(tmp_path / "cpu.json")]
    workers.patience = 1
    assert run.main(command) == run.UNFINISHED
    assert not (tmp_path / "cpu.json").exists()
    workers.asked.clear()
    workers.patience = 1000
    assert run.main(command) == 0
    assert workers.asked == [(0, CASES[1:]), (1, CASES)]


def test_a_whole_run_is_not_made_again_unless_something_differs(
    tmp_path: Path, workers: Workers
) -> None:
    command = [*OPTIONS, "--unless-done", "--out", str(tmp_path / "cpu.json")]
    assert run.main(command) == 0
    workers.asked.clear()
    assert run.main(command) == 0
    assert not workers.asked
    assert [path.name for path in tmp_path.iterdir()] == ["cpu.json"]
    assert run.main([*command, "--rounds", "3"]) == 0
    assert workers.asked == [(0, CASES), (1, CASES)]


def test_another_command_does_not_go_on_with_it(tmp_path: Path, workers: Workers) -> None:
    workers.patience = 1
    run.main([*OPTIONS, "--out", str(tmp_path / "cpu.json")])
    other = [*OPTIONS, "--threads", "1", "--out", str(tmp_path / "cpu.json")]
    with pytest.raises(SystemExit, match="other threads: finish that one, or pass --fresh"):
        run.main(other)
    workers.patience = 1000
    assert run.main([*other, "--fresh"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--family", "nothing"], "no benchmark family 'nothing'"),
        (["--family", "retrieval", "--only", "xyz"], "no case of retrieval has 'xyz'"),
    ],
)
def test_a_wrong_choice_says_so(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        run.main([*options, "--out", str(tmp_path / "cpu.json")])
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    path, record = tmp_path / "x.jsonl", {"process": 0, "machine": MACHINE}
    Store(path, {"device": "cpu"}, fresh=False).append(record)
    with path.open("a") as file:
        file.write('{"process": 0, "fam')
    assert Store(path, {"device": "cpu"}, fresh=False).records == [record]
    Store(path, {"device": "cpu"}, fresh=False).append(record)
    assert Store(path, {"device": "cpu"}, fresh=False).records == [record, record]


def test_what_times_depend_on_is_there() -> None:
    parts = sources.timed([*families.names(), *families.OTHERS])
    assert [part for part in parts if not (sources.ROOT / part).exists()] == []


@pytest.mark.parametrize("family", [*families.names(), *families.OTHERS])
def test_cases_that_a_family_takes_from_other_files_are_known(family: str) -> None:
    folder = sources.ROOT / "benchmarks" / "families"
    known, found, todo = sources.timed([family]), set(), [family]
    while todo:
        tree = ast.parse((folder / f"{todo.pop()}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = [node.module] if node.module else [each.name for each in node.names]
                todo += [name for name in names if name and name not in found]
                found.update(names)
    assert {f"benchmarks/families/{name}.py" for name in found} <= set(known)


def test_the_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    file = tmp_path / "csrc" / "op.cpp"
    file.write_text("int a;")
    before = sources.digest(tmp_path, ["csrc"])
    assert sources.digest(tmp_path, ["csrc"]) == before
    (tmp_path / "csrc" / "result.json").write_text("{}")
    assert sources.digest(tmp_path, ["csrc"]) == before
    file.write_text("int b;")
    changed = sources.digest(tmp_path, ["csrc"])
    file.rename(tmp_path / "csrc" / "other.cpp")
    assert len({before, changed, sources.digest(tmp_path, ["csrc"])}) == 3


def test_a_worker_that_dies_names_the_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker"
    worker.write_text('#!/bin/sh\necho \'{"family": "retrieval"}\'\nexit 9\n')
    worker.chmod(0o755)
    monkeypatch.setattr(run.sys, "executable", str(worker))
    options = run._options(OPTIONS)
    cases = [("retrieval", name) for name in CASES]
    records = run._fresh_process(0, cases, options, deadline=float("inf"))
    assert next(records) == {"family": "retrieval"}
    with pytest.raises(SystemExit, match=f"process 1 ended with code 9, at the {CASES[1]}"):
        next(records)
