"""What one run of DGM, or of a method it is compared to, came to: a table and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .._files import write_text
from .plots import learning_curves, mask_trajectories
from .tables import Cell, Table

Line = dict[str, Any]
"""Of a run's metrics.jsonl."""


def table(lines: list[Line], title: str) -> Table:
    """A row a task; neurons and what is newly blocked of methods that have them."""
    columns: dict[str, tuple[int, list[Cell]]] = {
        "classes": (0, [len(line["by_class"]) for line in lines]),
        "accuracy (%)": (2, [100 * line["accuracy"] for line in lines]),
    }
    if "best" in lines[0]:
        columns["best epoch (%)"] = 2, [100 * line["best"]["accuracy"] for line in lines]
    if "widths" in lines[0]:
        columns["neurons"] = 0, [sum(line["widths"]) for line in lines]
    if "newly_blocked_ratio" in lines[0]:
        ratios: list[Cell] = [100 * line["newly_blocked_ratio"] for line in lines]
        columns["newly blocked (%)"] = 1, ratios
    for part in lines[0]["bytes"]:
        columns[f"{part} (kB)"] = 1, [line["bytes"][part] / 1e3 for line in lines]
    digits = [places for places, _ in columns.values()]
    found = Table(f"{title}: after each task", list(columns), digits=digits)
    for row in zip(*(cells for _, cells in columns.values()), strict=True):
        found.add_row(*row)
    return found


def plots(lines: list[Line], history: list[dict[str, Any]], path: Path) -> list[Path]:
    """The paths of plots: accuracy.png, sizes.png (table 4), and of methods that have them
    growth.png (neurons, figure 4), reuse.png (figure 3a) and masks-task-T.png (figure 3b).

    growth.json holds all that they show, and all else of the lines and of `history`.
    """
    tasks = [{**record, **line} for line, record in zip(lines, history, strict=True)]
    write_text(path / "growth.json", json.dumps({"tasks": tasks}, indent=1) + "\n")
    shared: dict[str, Any] = {"x": [line["task"] + 1 for line in lines], "xlabel": "tasks learnt"}
    accuracy = {"classes so far": [100 * line["accuracy"] for line in lines]}
    if "best" in lines[0]:
        accuracy["best epoch"] = [100 * line["best"]["accuracy"] for line in lines]
    kilobytes = {part: [line["bytes"][part] / 1e3 for line in lines] for part in lines[0]["bytes"]}
    made = [
        learning_curves(accuracy, path / "accuracy.png", ylabel="test accuracy (%)", **shared),
        learning_curves(kilobytes, path / "sizes.png", ylabel="kept (kB)", **shared),
    ]
    if "widths" in lines[0]:
        neurons = {"all layers": [sum(line["widths"]) for line in lines]}
        for layer in range(len(lines[0]["widths"])):
            neurons[f"layer {layer + 1}"] = [line["widths"][layer] for line in lines]
        made.append(learning_curves(neurons, path / "growth.png", ylabel="neurons", **shared))
    if "newly_blocked_ratio" in lines[0]:
        percent = {
            "newly blocked": [100 * line["newly_blocked_ratio"] for line in lines],
            "reused": [100 * line["reused_ratio"] for line in lines],
        }
        of_used = {**shared, "ylabel": "of what a task uses (%)"}
        made.append(learning_curves(percent, path / "reuse.png", **of_used))
    for task in tasks:
        if "masks" in task:
            ways = {
                f"layer {layer + 1}": (way["values"], way["occupation"])
                for layer, way in enumerate(task["masks"])
            }
            name = f"masks-task-{task['task']}.png"
            made.append(mask_trajectories(ways, path / name, title=f"task {task['task']}"))
    return made
