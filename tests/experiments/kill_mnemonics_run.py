"""Kills processes in the middle of a run with trained exemplars, goes on with each, and looks at
where it ends (for test_mnemonics_experiment.py).

Usage: kill_mnemonics_run.py FOLDER; prints one JSON list with an entry for each kill.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from killing import Kill, killed
from mnemonics_runs import CONFIG, TEST, TRAIN, draw_nothing, ends_alike

from clfast.experiments import mnemonics
from clfast.experiments.mnemonics import Training
from clfast.experiments.mnemonics_report import WatchedMnemonics
from clfast.experiments.run_folder import RunFolder

torch.set_num_threads(1)  # a forked process cannot use the threads of its parent
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
    whole = folder / "whole"
    mnemonics.run(TRAINED, TRAIN, TEST, whole, minutes=0)
    outcomes = []
    for number, kill in enumerate(kills):
        run = partial(mnemonics.run, TRAINED, TRAIN, TEST, folder / str(number), minutes=0)
        was_killed = killed(run, kill)
        run()
        alike = ends_alike(folder / str(number), whole, TRAINED)
        outcomes.append({"kill": kill[1:], "killed": was_killed, "same": alike})
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
