"""Tables and plots of result files.

    python -m benchmarks.report benchmarks/results/*.json --readme README.md

prints the tables as markdown, draws the plots beside each file, and with --readme puts the tables
between the README's benchmark markers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .families import INDEX
from .store import write_whole

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
NOT_MEASURED = "not measured"
# Share of the cores that other processes may use before the report mentions it.
QUIET = 0.05
DEVICES = {"cpu": "CPU", "cuda": "CUDA"}
COLUMNS = (
    *("op", "size", "clfast", "best PyTorch", "PyTorch / clfast"),
    *("loop / clfast", "library / clfast", "of the machine's limits"),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.report")
    parser.add_argument("results", type=Path, nargs="+", help="from benchmarks.run or gpu_check")
    parser.add_argument("--readme", type=Path, help="rewrite the tables between its markers")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="instead of beside each file")
    options = parser.parse_args(argv)
    found = {name: result for path in options.results for name, result in load(path).items()}
    text = markdown(found.values())
    sys.stdout.write(text)
    from . import plots  # only here is matplotlib needed

    for name, result in found.items():
        plots.draw(result, options.plots or name.parent, name.name)
    if options.readme:
        write_whole(options.readme, rewritten(options.readme.read_text(), text))
    return 0


def load(path: Path) -> dict[Path, dict[str, Any]]:
    """The results in a file of `benchmarks.run`, or of `benchmarks.gpu_check`; keys are the paths
    of their plots, less what each plot adds."""
    content, stem = json.loads(path.read_text()), path.with_suffix("")
    if "benchmarks" not in content:
        return {stem: content}
    families = content["benchmarks"].items()
    return {stem.with_name(f"{stem.name}-{family}"): result for family, result in families}


def markdown(results: Iterable[dict[str, Any]]) -> str:
    """A paragraph on how to read them, and one table a result."""
    results = list(results)
    parts = [
        "Times are medians, ratios are medians over fresh processes [smallest to largest]; above 1 "
        "clfast is faster. The limits are the bandwidth and the FLOP/s that the same run "
        "measured; the larger share, which is first, is of the one that binds.\n"
    ]
    for result in results:
        parts += [heading(result), table(result)]
    for device, name in DEVICES.items():
        if all(result["device"] != device for result in results):
            parts.append(f"On {name}: {NOT_MEASURED}.\n")
    return "\n".join(parts)


def heading(result: dict[str, Any]) -> str:
    """The machine, the versions and the command."""
    made, machine = result["environment"], result["hardware"]
    if result["device"] == "cpu":
        machine += f", {_count(result['threads'], 'thread')}"
    return (
        f"**{DEVICES[result['device']]}**: {machine}, torch {made['torch']}, "
        f"clfast {made['clfast']}, {_count(result['processes'], 'process')}; "
        f"made by `{result['command']}`{_disturbance(result)}.\n"
    )


def _disturbance(result: dict[str, Any]) -> str:
    """Says so when the machine was not quiet."""
    noisy = [max(case["others"]) for case in result["cases"] if max(case["others"]) > QUIET]
    if not noisy:
        return ""
    return (
        f". Not a quiet machine: in {len(noisy)} of {len(result['cases'])} cases other programs "
        f"used more than {100 * QUIET:.0f} % of the cores, up to {100 * max(noisy):.0f} %"
    )


def table(result: dict[str, Any]) -> str:
    """One line for each variant of clfast in each case."""
    rows = [(case, row) for case in result["cases"] for row in case["rows"]]
    lines = [COLUMNS, ("---", "---", *["---:"] * (len(COLUMNS) - 2))]
    lines += [_cells(case, row) for case, row in rows]
    columns = []
    if bases := {row["base"]["name"] for _, row in rows if "base" in row}:
        names = ", ".join(sorted(bases))
        columns.append([f"over {names}", "---:", *(_over_base(row) for _, row in rows)])
    if result["family"] == INDEX:
        columns.append(["recall", "---:", *(_recall(row) for _, row in rows)])
    if any("peak" in row for _, row in rows):
        columns.append(["peak memory", "---:", *(_peak(row) for _, row in rows)])
    lines = [(*line, *added) for line, *added in zip(lines, *columns, strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rewritten(text: str, tables: str) -> str:
    """`text` with `tables` between the markers; ValueError unless each stands there once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"report: the page must hold {BEGIN} and after it {END}, once each")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n{tables}{END}{after}"


def _cells(case: dict[str, Any], row: dict[str, Any]) -> tuple[str, ...]:
    _, _, choice = row["name"].partition(", ")
    op = f"{case['op']} ({choice})" if choice else case["op"]
    if row["status"] != "measured":
        state = NOT_MEASURED if row["status"] == "missing" else row["status"]
        return (op, case["size"], state, *[NOT_MEASURED] * (len(COLUMNS) - 3))
    best = row.get("torch")
    kinds = {variant["kind"] for variant in case["variants"].values()}
    return (
        op,
        case["size"],
        _milliseconds(row["seconds"]),
        f"{_milliseconds(best['seconds'])} ({best['name']})" if best else NOT_MEASURED,
        *(_ratio(row, rival, kinds) for rival in ("torch", "loop", "library")),
        _shares(row["limits"]),
    )


def _ratio(row: dict[str, Any], rival: str, kinds: set[str]) -> str:
    """ "none" where no such rival is known."""
    if rival not in row:
        return NOT_MEASURED if rival in kinds else "none"
    spread = {key: _three_digits(value) for key, value in row[rival]["ratio"].items()}
    return f"{spread['median']}x [{spread['min']} to {spread['max']}]"


def _over_base(row: dict[str, Any]) -> str:
    """What it takes longer than what it adds to."""
    if "base" not in row:
        return NOT_MEASURED
    more = {key: f"{100 / value - 100:+.0f} %" for key, value in row["base"]["ratio"].items()}
    return f"{more['median']} [{more['max']} to {more['min']}]"


def _recall(row: dict[str, Any]) -> str:
    """Of an index, whose error is the share of neighbours that it misses."""
    return f"{1 - row['error']:.3f}" if "error" in row else NOT_MEASURED


def _peak(row: dict[str, Any]) -> str:
    """And that of others over it."""
    if "peak" not in row:
        return NOT_MEASURED
    names = {"torch": "best PyTorch", "loop": "loop"}
    more = [
        f"{name} {_three_digits(row[rival]['peak'] / max(row['peak'], 1))}x"
        for rival, name in names.items()
        if rival in row
    ]
    return ", ".join([f"{_three_digits(row['peak'] / 1e6)} MB", *more])


def _shares(limits: dict[str, dict[str, float]]) -> str:
    """The largest first: it says what binds."""
    shares = sorted(((found["median"], bound) for bound, found in limits.items()), reverse=True)
    return ", ".join(f"{_percent(share)} % of {bound}" for share, bound in shares) or "not counted"


def _percent(share: float) -> str:
    return "<1" if share < 0.01 else f"{100 * share:.0f}"


def _milliseconds(seconds: float) -> str:
    return f"{_three_digits(1e3 * seconds)} ms"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


if __name__ == "__main__":
    sys.exit(main())
