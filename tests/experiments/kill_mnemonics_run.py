"""Kills processes in the middle of a run with trained exemplars, goes on with each, and looks at
where it ends (for test_mnemonics_experiment.py).

Usage: kill_mnemonics_run.py FOLDER; prints one JSON list with an entry for each kill.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from killing import Kill, survive
from mnemonics_runs import CONFIG, TEST, TRAIN, draw_nothing, ends_alike

from clfast.experiments import mnemonics
from clfast.experiments.mnemonics import Training
from clfast.experiments.mnemonics_report import WatchedMnemonics
from clfast.experiments.run_folder import RunFolder

TRAINED = replace(
    CONFIG,
    exemplars="mnemonics",
    training=Training(steps=2, epochs=2, lr=30.0, batch=10, batches=1),
)


def main(folder: Path) -> None:
    mnemonics.exemplar_pictures = draw_nothing
    kills = [
        Kill(mnemonics.LUCIR, "_train_on", 3, True),
        Kill(WatchedMnemonics, "select", 2, True),
        Kill(RunFolder, "save_checkpoint", 2, False),
        Kill(RunFolder, "save_checkpoint", 4, True),
        Kill(torch, "save", 5, True),  # written, but not in its place
        Kill(RunFolder, "log", 1, False),
        Kill(RunFolder, "log", 2, True),
    ]
    survive(
        kills,
        lambda path: mnemonics.run(TRAINED, TRAIN, TEST, path, minutes=0),
        lambda path, other: ends_alike(path, other, TRAINED),
        folder,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
