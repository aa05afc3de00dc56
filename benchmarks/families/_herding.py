"""Cases of `herding`: classes of one size, whose features lie side by side, so that batched forms
need not sort them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from clfast import ops, reference

from ..case import Case, Variant, Work, forms, in_float64
from ..opponents import herding as opponents

FLOAT, INDEX = 4, 8  # bytes


class Labelled(NamedTuple):
    features: Tensor  # [K n, d]
    labels: Tensor  # [K n]


def _differing(output: Any, expected: list[Tensor], _: Labelled) -> float:
    """The share of picks that are not those of float64."""
    wanted = torch.stack(expected)
    got = output if isinstance(output, Tensor) else torch.stack(output)
    return float((got != wanted).double().mean()) if got.shape == wanted.shape else math.inf


def herding(K: int, n: int, d: int, m: int, *, small: bool = False) -> Case:
    def make(generator: Generator) -> Labelled:
        features = torch.randn(K * n, d, generator=generator)
        return Labelled(features, torch.arange(K).repeat_interleave(n))

    def given(x: Labelled) -> tuple[Any, ...]:
        return (*x, m)

    def batched(x: Labelled) -> tuple[Any, ...]:
        return (x.features.view(K, n, d), m)

    return Case(
        op="herding",
        size={"K": K, "n": n, "d": d, "m": m},
        inputs=make,
        oracle=lambda x: reference.exemplars.herding(*in_float64(x), m),
        error=_differing,
        tolerance=0.0,
        work=lambda _: Work(FLOAT * K * n * d, INDEX * K * m, 2 * K * n * d * m),
        variants=(
            Variant("clfast", "clfast", ops.herding, given),
            Variant("distances, class by class", "loop", opponents.herding_by_distances, given),
            Variant("products, class by class", "torch", opponents.herding_by_products, given),
            *forms("all classes at once", opponents.herding_batched, batched),
        ),
        small=small,
    )


CASES = [
    herding(100, 500, 64, 20),
    herding(100, 500, 512, 20),
    herding(1, 5000, 512, 20),
    herding(4, 30, 9, 5, small=True),
]
