"""How times grow: one size of an op changes, the others stay. Without compiled opponents, whose
compilation for every size would take longer than all the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator

from ..case import Case
from ._adaptation_inputs import Sizes
from .adaptation import hebb_logits
from .retrieval import Search, knn


@dataclass(frozen=True)
class Sweep:
    """Cases that differ in one size, `axis`, of their `Case.size`."""

    axis: str
    cases: tuple[Case, ...]


def _sweeps(
    make: Callable[..., Case], base: dict[str, int], axes: dict[str, Sequence[int]]
) -> list[Sweep]:
    made: dict[tuple[int, ...], Case] = {}

    def case(sizes: dict[str, int]) -> Case:
        key = tuple(sizes.values())
        if key not in made:
            whole = make(**sizes)
            variants = tuple(
                v
                for v in whole.variants
                if v.kind != "compiled" and (v.kind != "clfast" or v.name == "clfast")
            )
            made[key] = replace(whole, variants=variants)
        return made[key]

    return [
        Sweep(axis, tuple(case({**base, axis: value}) for value in values))
        for axis, values in axes.items()
    ]


def _hebb_logits(**sizes: Any) -> Case:
    return hebb_logits(Sizes(**sizes), "rmsprop")


def _knn_in_clusters(clusters: int, **sizes: int) -> Case:
    """Keys closer together than products of their lengths can tell. PyTorch's expanded form loses
    digits here, and counts as right with what it has left."""

    def inputs(generator: Generator) -> Search:
        centres = torch.randn(clusters, sizes["d"], generator=generator)
        keys, queries = (
            centres[torch.randint(clusters, (count,), generator=generator)]
            + 0.01 * torch.randn(count, sizes["d"], generator=generator)
            for count in (sizes["M"], sizes["B"])
        )
        return Search(queries, keys, keys.square().sum(1))

    whole = knn(**sizes)
    return replace(whole, size={**sizes, "clusters": clusters}, inputs=inputs, tolerance=0.1)


SWEEPS = [
    *_sweeps(
        knn,
        {"B": 100, "M": 100_000, "d": 64, "k": 200},
        {
            "M": (1_000, 10_000, 100_000, 1_000_000),
            "d": (16, 64, 256, 1024),
            "k": (1, 10, 100, 200, 1000),
            "B": (1, 10, 100, 1000),
        },
    ),
    *_sweeps(
        _knn_in_clusters,
        {"B": 100, "M": 60_000, "d": 512, "k": 200},
        {"clusters": (1, 2, 10, 100, 1000)},
    ),
    *_sweeps(
        _hebb_logits,
        {"B": 100, "K": 200, "d": 128, "C": 100, "M": 60_000},
        {
            "K": (10, 50, 200, 500),
            "d": (32, 128, 512, 2048),
            "C": (10, 100, 1000),
            "B": (1, 10, 100, 1000),
        },
    ),
]
CASES = list({case.name: case for sweep in SWEEPS for case in sweep.cases}.values())
