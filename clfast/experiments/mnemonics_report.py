"""What runs of learners with exemplars came to: tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..methods.exemplar_selection import (
    Exemplars,
    Herding,
    Network,
    RandomSelection,
    as_inputs,
    features_of,
)
from ..methods.mnemonics import Mnemonics
from ..methods.network_parts import parts
from ..methods.phases import PhaseLearner
from ..streams import AccuracyMatrix
from .plots import image_grid, point_map
from .tables import Table

Line = dict[str, Any]
"""Of a run's metrics.jsonl."""
_CLASSES, _SHOWN, _POINTS = 5, 10, 200  # in pictures: classes; of each exemplars and images


class WatchedMnemonics(Mnemonics):
    """Keeps the images that its exemplars of the last selection began as."""

    begun: Exemplars | None = None

    def _select(
        self, network: Network, x: Tensor, y: Tensor, count: int, generator: torch.Generator
    ) -> Exemplars:
        same = torch.Generator()
        same.set_state(generator.get_state())
        begin = Herding() if self.init == "herding" else RandomSelection()
        self.begun = begin.select(network, x, y, count, generator=same)
        return super()._select(network, x, y, count, generator)


def moved(learner: PhaseLearner) -> dict[str, float]:
    """Of the exemplars that the last phase trained, as they are stored: "moved", the share of
    values, pixels of most images, that are not those they began as, and "moved_by", by how much, of
    1, in the mean. Of uint8, which takes 1/255 at least, small steps leave nothing."""
    begun: Exemplars | None = getattr(learner.selection, "begun", None)
    if begun is None:
        return {}
    memory = learner.exemplars
    stored = memory.x[torch.isin(memory.y, begun.y.to(memory.y.device))]
    if len(stored) != len(begun):  # BiC keeps some of them apart
        return {}
    away = as_inputs(stored) - as_inputs(begun.x).to(stored.device)
    return {"moved": float((away != 0).float().mean()), "moved_by": float(away.abs().mean())}


def table(lines: list[Line], title: str) -> Table:
    """A row a phase: accuracy on test images of all classes so far, and of those of the first
    phase."""
    found = Table(
        f"{title}: after each phase",
        ["phase", "classes", "accuracy (%)", "of the first (%)", "exemplars", "kB", "seconds"],
        digits=[0, 0, 2, 2, 0, 0, 0],
    )
    for line in lines:
        found.add_row(
            line["phase"],
            line["classes"],
            100 * line["accuracy"],
            100 * line["by_phase"][0],
            line["exemplars"],
            line["bytes"] / 1e3,
            line["seconds"],
        )
    return found


def matrix_of(lines: list[Line]) -> AccuracyMatrix:
    """The accuracies of a run on the test images of each phase."""
    matrix = AccuracyMatrix(len(lines))
    for line in lines:
        for task, accuracy in enumerate(line["by_phase"]):
            matrix[line["phase"], task] = accuracy
    return matrix


def exemplar_pictures(
    learner: PhaseLearner, x: Tensor, y: Tensor, path: Path, phase: int
) -> list[Path]:
    """The first classes of the first phase, whose images x [N, Ch, H, W] with labels y [N] are: a
    grid of their exemplars, and where these are among images of theirs in a plane.

    The plane is that of the two principal components of the features of these images, of unit
    length, as the network is now (figures 1 and 5 of the paper, which has t-SNE).
    """
    memory = learner.exemplars
    labels = [label for label in memory.classes if bool((y == label).any())][:_CLASSES]
    if not labels:
        return []
    device = next(learner.model.parameters()).device
    shown = {f"exemplars-phase-{phase}": Exemplars(memory.x, memory.y)}
    begun = getattr(learner.selection, "begun", None)
    if phase == 0 and begun is not None:  # labels of the first phase are 0, 1, ...
        shown["begin-phase-0"] = begun
    grids = [_grid(exemplars, labels, path / f"{name}.png") for name, exemplars in shown.items()]
    network = parts(learner.model, "exemplar_pictures")

    def unit(images: Tensor) -> Tensor:
        found = features_of(network, images.to(device), "exemplar_pictures")
        return torch.nn.functional.normalize(found).double().cpu()

    data = [unit(x[(y == label).nonzero()[:_POINTS, 0]]) for label in labels]
    kept = [unit(memory.x[memory.y == label]) for label in labels]
    points = torch.cat(data)
    centre = points.mean(0)
    directions = torch.linalg.svd(points - centre, full_matrices=False).Vh[:2].T
    groups = {
        f"class {label}": ((a - centre) @ directions, (b - centre) @ directions)
        for label, a, b in zip(labels, data, kept, strict=True)
    }
    drawn = point_map(
        groups, path / f"map-phase-{phase}.png", title=f"images and exemplars, phase {phase}"
    )
    return [*grids, drawn]


def _grid(exemplars: Exemplars, labels: list[int], path: Path) -> Path:
    """A row of exemplars a class."""
    rows = [(exemplars.y == label).nonzero()[:_SHOWN, 0] for label in labels]
    title = f"{path.stem}, classes {labels[0]} to {labels[-1]}"
    return image_grid(exemplars.x[torch.cat(rows)], path, columns=len(rows[0]), title=title)
