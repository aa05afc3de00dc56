"""Plots of a result: how many times faster than whom, and where each op stands under the roof."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from . import families
from .families.online import PAPER
from .families.scaling import SWEEPS, Sweep

# Okabe and Ito's palette: told apart under every common colour blindness.
RIVALS = {
    "torch": ("best PyTorch", "o", "#0072B2"),
    "library": ("library", "s", "#D55E00"),
    "loop": ("loop", "D", "#009E73"),
}
OPS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")


def draw(result: dict[str, Any], folder: Path, stem: str) -> list[Path]:
    """Writes `<stem>-ratios.png` and `<stem>-roofline.png`; of the sweeps `<stem>-times.png`, of
    online adaptation `<stem>-overhead.png`, of indexes the ratios alone, of empty calls and of
    steps of learning nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _OF_OTHERS.get(result.get("family", ""), _OF_FAMILIES)
    paths = [folder / f"{stem}-{name}.png" for name in drawn]
    for path, figure in zip(paths, drawn.values(), strict=True):
        # The version of matplotlib in the file would make equal plots differ.
        figure(result).savefig(path, metadata={"Software": None})
    return paths


def times(result: dict[str, Any]) -> Figure:
    """A panel a sweep: the median time against the size that changes."""
    measured = {(case["op"], case["size"]): case for case in result["cases"]}
    ops = list(dict.fromkeys(sweep.cases[0].op for sweep in SWEEPS))
    columns = max(sum(sweep.cases[0].op == op for sweep in SWEEPS) for op in ops)
    figure = Figure(figsize=(3.0 * columns, 2.9 * len(ops)), dpi=150, layout="constrained")
    panels = figure.subplots(len(ops), columns, squeeze=False)
    for row, op in zip(panels, ops, strict=True):
        sweeps = [sweep for sweep in SWEEPS if sweep.cases[0].op == op]
        for axes, sweep in zip(row, sweeps, strict=False):
            _sweep(axes, sweep, measured)
        for axes in row[len(sweeps) :]:
            axes.remove()
        row[0].set_ylabel(f"{op}, ms")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def _sweep(axes: Any, sweep: Sweep, measured: dict[tuple[str, str], Any]) -> None:
    axes.set(xscale="log", yscale="log", xlabel=sweep.axis)
    lines: dict[str, list[tuple[int, float]]] = {"clfast": [], **{rival: [] for rival in RIVALS}}
    for case in sweep.cases:
        for row in measured.get((case.op, case.size_text), {}).get("rows", []):
            if row["name"] != "clfast":
                continue
            for name, points in lines.items():
                found = row if name == "clfast" else row.get(name, {})
                if "seconds" in found:
                    points.append((int(case.size[sweep.axis]), 1e3 * found["seconds"]))
    styles = {"clfast": ("clfast", "^", "#000000"), **RIVALS}
    for name, points in lines.items():
        label, marker, colour = styles[name]
        x, y = [size for size, _ in points], [ms for _, ms in points]
        axes.plot(x, y, marker=marker, color=colour, ms=4, lw=1, label=label)
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def ratios(result: dict[str, Any]) -> Figure:
    """One line a row of the table: the rivals' times over clfast's, and the spread of processes."""
    rows = [
        (f"{case['op']} {case['size']}{row['name'].removeprefix('clfast')}", row)
        for case in result["cases"]
        for row in case["rows"]
        if row["status"] == "measured"
    ]
    figure = Figure(figsize=(9, 1.2 + 0.26 * len(rows)), dpi=150, layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="time / time of clfast")
    axes.axvline(1, color="0.4", lw=1)
    for rival, (label, marker, colour) in RIVALS.items():
        found = [(i, row[rival]["ratio"]) for i, (_, row) in enumerate(rows) if rival in row]
        if not found:
            continue
        middle = [spread["median"] for _, spread in found]
        below = [spread["median"] - spread["min"] for _, spread in found]
        above = [spread["max"] - spread["median"] for _, spread in found]
        axes.errorbar(
            middle,
            [i for i, _ in found],
            xerr=[below, above],
            fmt=marker,
            color=colour,
            label=label,
            markersize=4,
            elinewidth=1,
            capsize=2,
        )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(RIVALS), frameon=False)
    return figure


def roofline(result: dict[str, Any]) -> Figure:
    """FLOP/s against FLOP per byte of the least work, under what the machine was measured to do.

    Filled for clfast, hollow for the best PyTorch, one colour an op.
    """
    figure = Figure(figsize=(8.4, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    axes.set(xlabel="FLOP per byte, at the least", ylabel="GFLOP/s")
    for number, op in enumerate(dict.fromkeys(case["op"] for case in result["cases"])):
        colour = OPS[number % len(OPS)]
        axes.plot([], [], "o", color=colour, ms=4, label=op)
        for case in result["cases"]:
            if case["op"] == op:
                _point(axes, case, colour)
    _roofs(axes, list(result["machine"].values()))
    axes.plot([], [], "o", color="0.3", ms=4, label="clfast")
    axes.plot([], [], "o", color="0.3", mfc="white", ms=4, label="best PyTorch")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def overhead(result: dict[str, Any]) -> Figure:
    """Bars: what each method takes longer than Parametric, by network and queries at a time, and
    what the paper's took."""
    groups: dict[str, dict[str, dict[str, float]]] = {}
    for case in result["cases"]:
        method, group = case["size"].split(" ", 1)
        group = group.split(" M=")[0].replace(", adapted whole", ",\nadapted whole")
        for row in case["rows"]:
            if "base" in row:
                ratios = row["base"]["ratio"].items()
                times = {key: 1 / value for key, value in ratios}
                groups.setdefault(group.replace(" B=", "\nB="), {})[method] = times
    paper = {method: dict.fromkeys(("median", "min", "max"), 1 + x) for method, x in PAPER.items()}
    groups["ResNet on a\nTITAN X (paper)"] = paper
    figure = Figure(figsize=(1.9 * len(groups), 3.6), dpi=150, layout="constrained")
    axes = figure.add_subplot(yscale="log", ylabel="time / time of Parametric")
    for number, (method, colour) in enumerate(zip(PAPER, OPS, strict=False)):
        found = [(i, group[method]) for i, group in enumerate(groups.values()) if method in group]
        middle = [times["median"] for _, times in found]
        axes.bar(
            [i + 0.27 * (number - 1) for i, _ in found],
            [height - 1 for height in middle],
            bottom=1,
            width=0.25,
            # The largest ratio is of the shortest time.
            yerr=[
                [times["median"] - times["max"] for _, times in found],
                [times["min"] - times["median"] for _, times in found],
            ],
            color=colour,
            label=method,
            error_kw={"elinewidth": 1, "capsize": 2},
        )
    axes.axhline(1, color="0.4", lw=1)
    axes.set_ylim(bottom=0.8)
    axes.set_xticks(range(len(groups)), list(groups), fontsize=8)
    axes.yaxis.set_major_formatter("{x:g}x")
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(PAPER), frameon=False)
    return figure


_OF_FAMILIES = {"ratios": ratios, "roofline": roofline}
_OF_OTHERS: dict[str, dict[str, Callable[[dict[str, Any]], Figure]]] = {
    families.SCALING: {"times": times},
    families.CALLS: {},
    families.OBSERVE: {},
    families.INDEX: {"ratios": ratios},
    families.ONLINE: {"overhead": overhead},
    # What other people's loops take; much of it is not work that is counted.
    ",".join((families.IMPORTANCE, families.PLUGINS, families.REPLAY)): {"ratios": ratios},
}


def _point(axes: Any, case: dict[str, Any], colour: str) -> None:
    work = case["work"][0]
    intensity = work["flops"] / (work["read"] + work["written"])
    for row in case["rows"]:
        if row["name"] != "clfast" or row["status"] != "measured":
            continue
        own = work["flops"] / row["seconds"] / 1e9
        if "torch" in row:
            theirs = work["flops"] / row["torch"]["seconds"] / 1e9
            axes.plot([intensity] * 2, [theirs, own], color="0.85", lw=1, zorder=1)
            axes.plot(intensity, theirs, "o", color=colour, mfc="white", ms=4, zorder=2)
        axes.plot(intensity, own, "o", color=colour, ms=4, zorder=3)


def _roofs(axes: Any, machines: list[dict[str, Any]]) -> None:
    """One roof for each level of memory, all under the FLOP/s of sgemm."""
    low, high = axes.get_xlim()
    peak = statistics.median(machine["flops"]["sgemm"] for machine in machines)
    label = f"sgemm, {peak / 1e9:.0f} GFLOP/s"
    axes.plot([low, high], [peak / 1e9] * 2, color="0.3", lw=1, label=label)
    for number, level in enumerate(machines[0]["memory"]):
        read = statistics.median(machine["memory"][number]["read"] for machine in machines)
        ridge = max(peak / read, low)
        roof = [min(peak, read * x) / 1e9 for x in (low, ridge)]
        label = f"{level['name']} read, {read / 1e9:.0f} GB/s"
        style = ("--", ":", "-.")[number % 3]
        axes.plot([low, ridge], roof, style, color="0.3", lw=1, label=label)
