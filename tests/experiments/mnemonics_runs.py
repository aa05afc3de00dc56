"""Tiny runs of learners with exemplars, for their tests and the script that one calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from killing import same

from clfast.experiments import mnemonics
from clfast.experiments.mnemonics import MnemonicsExperiment, Samples


def bars(each: int, seed: int) -> Samples:
    """uint8 images of 12 x 12 of four classes: a bar at four heights."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(4).repeat(each)
    x = torch.randint(90, (len(y), 1, 12, 12), generator=generator)
    for image, label in zip(x, y.tolist(), strict=True):
        image[0, 3 * label : 3 * label + 3] += 150
    return x.byte(), y


TRAIN, TEST = bars(10, 0), bars(4, 1)
CONFIG = MnemonicsExperiment(
    data="bars",
    phases=2,
    per_class=3,
    network="convnet",
    width=4,
    epochs=2,
    batch=8,
    finetune_epochs=1,
    shift=0,
    flip=False,
    threads=1,
)


def draw_nothing(*arguments: Any, **options: Any) -> list[Path]:
    """In place of pictures, which take most of the time."""
    return []


def ends_alike(path: Path, other: Path, config: MnemonicsExperiment) -> bool:
    """Whether two runs have the same last state, bit for bit, and lines but for times."""
    states, lines = [], []
    for folder in (path, other):
        run = mnemonics.folder_of(folder, config, TRAIN, TEST)
        states.append(run.load_checkpoint())
        lines.append([{**line, "seconds": None} for line in run.metrics()])
    return None not in states and same(states[0], states[1]) and lines[0] == lines[1]
