"""Choosing the hyper-parameters of `OnlineAdaptation`, in the way of the paper's appendix A.1.

What is best on all classes is taken; Mixture, MbPA and Hebb may each try 20 settings. The base
model's learning rate comes first, for Parametric; with it Mixture's and MbPA's own; then Hebb's
own, with what is best for MbPA. The grids reach further than the paper's, because the features of a
small network have another scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean
from typing import Any

from ..methods import Parametric
from .images import Images
from .online_adaptation import Learners, OnlineAdaptation, Trial, paper_learners, threads
from .progress import track

SEEDS = {"digits": (100, 101, 102, 103, 104), "mnist": (100, 101, 102)}
"""None of those reported, which count from 0. MNIST's streams are 19 times as long."""

BASE_LR = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)

GRIDS: dict[str, dict[str, Sequence[float]]] = {
    "Mixture": {"theta": (0.01, 0.03, 0.1, 0.3, 1.0), "gamma": (0.05, 0.1, 0.3, 0.6)},
    "MbPA": {"lr": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "steps": (1, 3, 5, 10)},
    "Hebb": {"beta": (0.5, 0.7, 0.9, 0.99), "eta": (0.2, 0.5, 1.0, 1.5, 3.0)},
}

Settings = dict[str, Any]


def tune(
    config: OnlineAdaptation, images: Images, seeds: Sequence[int] | None = None
) -> OnlineAdaptation:
    """`config` with the hyper-parameters that are best on the stream `images.validation`.

    Best is the highest accuracy on all classes, mean over `seeds` (None: `SEEDS`); of equals the
    first in the grid.
    """
    with threads(config.threads):
        return _tuned(config, images, SEEDS[config.data] if seeds is None else seeds)


def _tuned(config: OnlineAdaptation, images: Images, seeds: Sequence[int]) -> OnlineAdaptation:
    for_rate = [
        accuracies(replace(config, base_lr=rate), images, seeds, "Parametric", [{}])[0]
        for rate in track(BASE_LR, "Tuning Parametric")
    ]
    config = replace(config, base_lr=BASE_LR[_first_best(for_rate)])
    for method, grid in GRIDS.items():
        settings: list[Settings] = [
            dict(zip(grid, values, strict=True)) for values in product(*grid.values())
        ]
        of = accuracies(config, images, track(seeds, f"Tuning {method}"), method, settings)
        config = replace(config, **settings[_first_best(of)])
    return config


def accuracies(
    config: OnlineAdaptation,
    images: Images,
    seeds: Iterable[int],
    method: str,
    settings: Sequence[Settings],
) -> list[float]:
    """On all classes, for each of `settings` of a method, mean over `seeds`.

    The settings run side by side on one base model, so they may not change that.
    """

    def make(config: OnlineAdaptation, base: Parametric, old: Sequence[int]) -> Learners:
        return {
            str(number): paper_learners(replace(config, **setting), base, old)[method]
            for number, setting in enumerate(settings)
        }

    runs = []
    for seed in seeds:
        trial = Trial(replace(config, timed_chunks=0), images.pool, images.validation, seed, make)
        for x, y in trial.stream:
            trial.step(x, y)
        runs.append([record["all"] for record in trial.results()])
    return [fmean(of_setting) for of_setting in zip(*runs, strict=True)]


def _first_best(values: Sequence[float]) -> int:
    return list(values).index(max(values))
