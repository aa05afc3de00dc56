"""From the records of several processes to one result: medians, ratios and their spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from .machine import floors

# Whom a variant of clfast is compared with, and the kinds of which the fastest stands for them.
RIVALS: dict[str, tuple[str, ...]] = {
    "torch": ("torch", "compiled"),
    "loop": ("loop",),
    "library": ("library",),
    "base": ("base",),
}


def result(header: dict[str, Any], records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """`header`, the machine, and every case with the numbers of all processes and its rows.

    A record has `process` and either `machine` or what `harness.measure` returns with `family`.
    """
    machines: dict[int, dict[str, Any]] = {}
    cases: dict[tuple[str, str, str], dict[str, Any]] = {}
    for record in records:
        if "machine" in record:
            machines[record["process"]] = record["machine"]
            continue
        key = (record["family"], record["op"], record["size"])
        case = cases.setdefault(
            key,
            {name: record[name] for name in ("family", "op", "size", "input_sets")}
            | {"work": [], "others": [], "processes": [], "variants": {}},
        )
        case["work"].append(record["work"])
        case["others"].append(record["others"])
        case["processes"].append(record["process"])
        for name, measured in record["variants"].items():
            _add(case["variants"].setdefault(name, _empty(measured["kind"])), measured)
    for case in cases.values():
        case["rows"] = _rows(case, machines)
    return header | {
        "machine": {str(process): machines[process] for process in sorted(machines)},
        "cases": list(cases.values()),
    }


def _empty(kind: str) -> dict[str, Any]:
    return {"kind": kind, "status": "measured", "seconds": [], "error": []}


def _add(variant: dict[str, Any], measured: dict[str, Any]) -> None:
    """What went wrong in one process counts for all of them."""
    if measured["status"] != "measured":
        variant |= {"status": measured["status"], "note": measured["note"]}
        return
    variant["seconds"].append(measured["seconds"])
    variant["error"].append(measured["error"])
    if measured.get("peak") is not None:
        variant.setdefault("peak", []).append(measured["peak"])


def _rows(case: dict[str, Any], machines: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each variant of clfast."""
    return [
        _row(name, variant, case, machines)
        for name, variant in case["variants"].items()
        if variant["kind"] == "clfast"
    ]


def _row(
    name: str, own: dict[str, Any], case: dict[str, Any], machines: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "status": own["status"]}
    if own["status"] != "measured":
        return row
    row |= {"seconds": statistics.median(own["seconds"]), "error": max(own["error"])}
    if "peak" in own:
        row["peak"] = statistics.median(own["peak"])
    for label, kinds in RIVALS.items():
        if best := _fastest(case["variants"], kinds):
            rival = case["variants"][best]["seconds"]
            row[label] = {"name": best, "seconds": statistics.median(rival)}
            row[label]["ratio"] = _spread(
                [theirs / ours for theirs, ours in zip(rival, own["seconds"], strict=True)]
            )
            if "peak" in row:
                row[label]["peak"] = statistics.median(case["variants"][best]["peak"])
    row["limits"] = _limits(own["seconds"], case, machines)
    return row


def _limits(
    seconds: list[float], case: dict[str, Any], machines: dict[int, dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """The fractions of the machine's limits that were reached, each against its own process."""
    fractions: dict[str, list[float]] = {}
    for own, work, process in zip(seconds, case["work"], case["processes"], strict=True):
        for bound, floor in floors(work, machines[process]).items():
            fractions.setdefault(bound, []).append(floor / own)
    return {bound: _spread(found) for bound, found in fractions.items() if any(found)}


def _fastest(variants: dict[str, Any], kinds: tuple[str, ...]) -> str | None:
    """By the median over processes, among those that were right in every process."""
    medians = {
        name: statistics.median(variant["seconds"])
        for name, variant in variants.items()
        if variant["kind"] in kinds and variant["status"] == "measured"
    }
    return min(medians, key=medians.__getitem__) if medians else None


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
