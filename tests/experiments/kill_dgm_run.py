"""Kills processes in the middle of a run of DGM, goes on with each, and looks at where it ends (for
test_dgm_experiment.py).

Usage: kill_dgm_run.py FOLDER; prints one JSON list with an entry for each kill.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from dgm_runs import CONFIG, PLOTS, TEST, TRAIN, draw_nothing, ends_alike
from killing import Kill, survive

from clfast.experiments import dgm, dgm_report
from clfast.experiments.run_folder import RunFolder


def main(folder: Path) -> None:
    for module, name in PLOTS:
        setattr(module, name, draw_nothing)
    kills = [
        Kill(dgm.DGMw, "_learn_batch", 1, True),
        Kill(RunFolder, "save_checkpoint", 2, False),
        Kill(RunFolder, "save_checkpoint", 4, True),
        Kill(torch, "save", 7, True),  # written, but not in its place
        Kill(RunFolder, "log", 1, False),
        Kill(RunFolder, "log", 2, True),
        Kill(dgm, "image_grid", 2, True),
        Kill(dgm_report, "write_text", 1, False),
    ]
    survive(kills, lambda path: dgm.run(CONFIG, TRAIN, TEST, path, minutes=0), ends_alike, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
