"""Tiny runs of DGM, for its tests and the script that one calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from killing import same
from torch import Tensor

from clfast.experiments import dgm, dgm_report
from clfast.experiments.dgm import DgmExperiment, from_arrays
from clfast.methods.dgm import DgmOptions


def arrays(each: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 images of 16 x 16 of three classes: a bar at three heights."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(3).repeat(each)
    x = torch.randint(60, (len(y), 16, 16), generator=generator)
    for image, label in zip(x, y.tolist(), strict=True):
        image[5 * label : 5 * label + 5] += 150
    return x.byte(), y


OPTIONS: dict[str, Any] = {
    "epochs": 2,
    "batch": 8,
    "width": 2,
    "noise": 8,
    "critic_width": 3,
    "max_classes": 3,
}
CONFIG = DgmExperiment(data="bars", options=DgmOptions(**OPTIONS), tasks=2, validation=3, threads=1)
TRAIN, TEST = from_arrays(*arrays(12, 0)), from_arrays(*arrays(5, 1))

PLOTS = (
    (dgm, "image_grid"),
    (dgm_report, "learning_curves"),
    (dgm_report, "mask_trajectories"),
)
"""Of one run."""


def draw_nothing(images: object, path: Path, **options: Any) -> Path:
    """In place of plots, which take most of the time; of them only the moment counts."""
    path.touch()
    return path


def ends_alike(path: Path, other: Path) -> bool:
    """Whether two runs have the same last state, bit for bit, lines but for times, and growth."""
    states, lines, growth = [], [], []
    for folder in (path, other):
        run = dgm.folder_of(folder, CONFIG, TRAIN, TEST)
        checkpoint = run.load_checkpoint()
        assert checkpoint is not None
        states.append(checkpoint)
        lines.append([{**line, "seconds": None} for line in run.metrics()])
        tasks = json.loads((folder / "growth.json").read_text())["tasks"]
        growth.append([{**record, "seconds": None} for record in tasks])
    return same(states[0], states[1]) and lines[0] == lines[1] and growth[0] == growth[1]
