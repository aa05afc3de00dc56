"""From records to rows, tables and plots."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import families, plots, report, summary
from benchmarks.families.scaling import SWEEPS

HEADER = {
    "family": "retrieval",
    "device": "cpu",
    "threads": 2,
    "processes": 3,
    "hardware": "Some CPU",
    "command": "python -m benchmarks.run --family retrieval",
    "environment": {"torch": "2.13.0", "clfast": "0.1.0"},
}
MACHINE = {
    "memory": [{"name": "DRAM", "capacity": None, "read": 1e9, "copy": 1e9}],
    "flops": {"sgemm": 1e10},
}


def _variant(kind: str, seconds: float) -> dict[str, Any]:
    return {"kind": kind, "status": "measured", "seconds": seconds, "error": 1e-7, "samples": 9}


def _record(process: int, clock: float, **changes: dict[str, Any]) -> dict[str, Any]:
    """One case in one process, whose clock makes everything `clock` times as long."""
    variants = {
        "clfast": _variant("clfast", 0.010 * clock),
        "clfast, norms not kept": _variant("clfast", 0.020 * clock),
        "loop": _variant("loop", 1.0 * clock),
        "addmm": _variant("torch", 0.040 * clock),
        "addmm, compiled": _variant("compiled", 0.030 * clock + 0.001 * process),
        "faiss": {"kind": "library", "status": "missing", "note": "faiss is not installed"},
    }
    return {
        "process": process,
        "family": "retrieval",
        "op": "knn",
        "size": "B=1",
        "input_sets": 1,
        "others": 0.04,
        "work": {"read": 4_000_000, "written": 0, "flops": 1000},
        "variants": variants | changes,
    }


@pytest.fixture
def records() -> list[dict[str, Any]]:
    machines = [{"process": process, "machine": MACHINE} for process in range(3)]
    return [*machines, _record(0, 1.0), _record(1, 1.3), _record(2, 0.9)]


@pytest.fixture
def result(records: list[dict[str, Any]]) -> dict[str, Any]:
    return summary.result(HEADER, records)


def test_ratios_are_taken_within_a_process(result: dict[str, Any]) -> None:
    row = result["cases"][0]["rows"][0]
    assert row["seconds"] == pytest.approx(0.010)
    assert row["torch"]["name"] == "addmm, compiled"
    assert row["torch"]["ratio"] == {
        "median": pytest.approx(0.040 / 0.013),
        "min": pytest.approx(3.0),
        "max": pytest.approx(0.029 / 0.009),
    }
    assert list(row["loop"]["ratio"].values()) == pytest.approx([100, 100, 100])
    assert "library" not in row


def test_the_fraction_of_the_limit_is_of_the_same_process(result: dict[str, Any]) -> None:
    limits = result["cases"][0]["rows"][0]["limits"]
    assert limits["DRAM"]["median"] == pytest.approx(0.4)
    assert limits["DRAM"]["max"] == pytest.approx(0.4 / 0.9)
    assert limits["sgemm"]["median"] == pytest.approx(1e-5)


def test_every_variant_of_clfast_has_a_row(result: dict[str, Any]) -> None:
    rows = result["cases"][0]["rows"]
    assert [row["name"] for row in rows] == ["clfast", "clfast, norms not kept"]


def test_wrong_in_one_process_is_wrong(records: list[dict[str, Any]]) -> None:
    wrong = {"kind": "compiled", "status": "wrong", "note": "error 1, tolerance 0.001"}
    records[-2] = _record(1, 1.3, **{"addmm, compiled": wrong})
    found = summary.result(HEADER, records)
    assert found["cases"][0]["rows"][0]["torch"]["name"] == "addmm"


def test_a_result_is_what_json_can_hold(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_table_says_who_was_compared_and_what_was_not_measured(
    result: dict[str, Any],
) -> None:
    lines = report.table(result).splitlines()
    assert lines[2] == (
        "| knn | B=1 | 10 ms | 30 ms (addmm, compiled) | 3.08x [3 to 3.22] | "
        "100x [100 to 100] | not measured | 40 % of DRAM, <1 % of sgemm |"
    )
    assert lines[3].startswith("| knn (norms not kept) | B=1 | 20 ms |")


def test_what_a_method_adds_to_another_has_a_column(records: list[dict[str, Any]]) -> None:
    for record, seconds in zip(records[3:], (0.008, 0.0104, 0.0045), strict=True):
        record["variants"]["Parametric"] = _variant("base", seconds)
    result = summary.result(HEADER, records)
    lines = report.table(result).splitlines()
    assert lines[0].endswith("| over Parametric |")
    assert lines[2].endswith("| +25 % [+25 % to +100 %] |")
    assert len({line.count(" | ") for line in lines}) == 1


def test_the_recall_of_an_index_has_a_column(records: list[dict[str, Any]]) -> None:
    result = summary.result({**HEADER, "family": "index"}, records)
    lines = report.table(result).splitlines()
    assert lines[0].endswith("| recall |")
    assert lines[2].endswith("| 1.000 |")
    assert "recall" not in report.table(summary.result(HEADER, records))


def test_peak_memory_has_a_column(records: list[dict[str, Any]]) -> None:
    for record in records[3:]:
        peaks = {"clfast": 40_000_000, "loop": 300_000_000, "addmm, compiled": 60_000_000}
        for name, peak in peaks.items():
            record["variants"][name]["peak"] = peak
        record["variants"]["addmm"]["peak"] = None
    lines = report.table(summary.result(HEADER, records)).splitlines()
    assert lines[0].endswith("| peak memory |")
    assert lines[2].endswith("| 40 MB, best PyTorch 1.5x, loop 7.5x |")
    assert lines[3].endswith("| not measured |")


def test_a_rival_that_does_not_exist_is_none(records: list[dict[str, Any]]) -> None:
    for record in records[3:]:
        del record["variants"]["faiss"]
    assert report.table(summary.result(HEADER, records)).count("| none |") == 2


@pytest.mark.parametrize(
    ("status", "cell"),
    [("wrong", "wrong"), ("failed", "failed"), ("missing", "not measured")],
)
def test_clfast_itself_is_judged_alike(
    records: list[dict[str, Any]], status: str, cell: str
) -> None:
    bad = {"kind": "clfast", "status": status, "note": "why"}
    records[-1] = _record(2, 0.9, clfast=bad)
    line = report.table(summary.result(HEADER, records)).splitlines()[2]
    assert line.split(" | ")[2] == cell
    assert line.count("not measured") >= 5


def test_the_heading_names_machine_versions_and_command(result: dict[str, Any]) -> None:
    assert report.heading(result) == (
        "**CPU**: Some CPU, 2 threads, torch 2.13.0, clfast 0.1.0, 3 processes; "
        "made by `python -m benchmarks.run --family retrieval`.\n"
    )


def test_the_heading_says_when_the_machine_was_not_quiet(records: list[dict[str, Any]]) -> None:
    records[-1]["others"] = 0.31
    assert report.heading(summary.result(HEADER, records)).endswith(
        "`. Not a quiet machine: in 1 of 1 cases other programs used more than 5 % of the cores, "
        "up to 31 %.\n"
    )


def test_a_device_without_a_result_is_not_measured(result: dict[str, Any]) -> None:
    text = report.markdown([result])
    assert text.endswith("\nOn CUDA: not measured.\n")
    assert "On CPU" not in text


README = f"# clfast\n\n{report.BEGIN}\nold\n{report.END}\n\nThe rest.\n"


def test_only_what_is_between_the_markers_changes() -> None:
    once = report.rewritten(README, "new\n")
    assert once == f"# clfast\n\n{report.BEGIN}\nnew\n{report.END}\n\nThe rest.\n"
    assert report.rewritten(once, "new\n") == once


@pytest.mark.parametrize("text", ["", report.BEGIN, f"{report.END}{report.BEGIN}", 2 * README])
def test_a_readme_without_its_markers_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="benchmark:begin"):
        report.rewritten(text, "new\n")


def _written(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_command_prints_draws_and_rewrites(
    tmp_path: Path, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    results = _written(tmp_path / "cpu.json", result)
    assert report.main([str(results), "--readme", str(readme)]) == 0
    printed = capsys.readouterr().out
    assert printed in readme.read_text()
    for name in ("cpu-ratios.png", "cpu-roofline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_sweeps_are_drawn_as_times_against_sizes(
    tmp_path: Path, records: list[dict[str, Any]]
) -> None:
    template = next(r for r in records if "machine" not in r)
    swept = [
        {**template, "family": "scaling", "op": case.op, "size": case.size_text}
        for case in families.cases("scaling")
    ]
    machines = [r for r in records if "machine" in r]
    result = summary.result({**HEADER, "family": "scaling"}, [*machines, *swept])
    (axes, *others) = plots.times(result).axes
    assert len(others) == len(SWEEPS) - 1
    assert axes.get_xlabel() == SWEEPS[0].axis
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    ms = [1e3 * template["variants"]["clfast"]["seconds"]] * len(SWEEPS[0].cases)
    assert lines["clfast"][:, 1].tolist() == pytest.approx(ms)
    assert lines["clfast"][:, 0].tolist() == [c.size["M"] for c in SWEEPS[0].cases]
    results = _written(tmp_path / "scaling.json", result)
    assert report.main([str(results)]) == 0
    assert (tmp_path / "scaling-times.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_result_gives_the_same_plots(tmp_path: Path, result: dict[str, Any]) -> None:
    results = _written(tmp_path / "cpu.json", result)
    for folder in ("one", "two"):
        assert report.main([str(results), "--plots", str(tmp_path / folder)]) == 0
    for plot in (tmp_path / "one").iterdir():
        assert plot.read_bytes() == (tmp_path / "two" / plot.name).read_bytes()


def test_the_result_of_a_gpu_check_holds_one_result_a_family(
    tmp_path: Path, result: dict[str, Any]
) -> None:
    cuda = copy.deepcopy(result) | {"device": "cuda", "hardware": "Some GPU"}
    path = _written(tmp_path / "gpu.json", {"steps": {}, "benchmarks": {"retrieval": cuda}})
    assert report.load(path) == {tmp_path / "gpu-retrieval": cuda}
    assert "**CUDA**: Some GPU, torch" in report.markdown([cuda])
