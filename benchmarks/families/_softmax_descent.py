"""Cases of `softmax_descent`, forward and backward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ..case import Case, Variant, Work, forms, in_float64, relative_error
from ..opponents import softmax_descent as opponents

FLOAT = 4  # bytes
LR = 0.1


class Head(NamedTuple):
    features: Tensor  # [n, d]
    labels: Tensor  # [n]
    layer: tuple[Tensor, Tensor]  # [C, d], [C]
    grads: tuple[Tensor, Tensor]  # of a loss by the layer after all steps


def softmax_descent(n: int, d: int, C: int, T: int, *, small: bool = False) -> Case:
    def make(generator: Generator) -> Head:
        features = torch.randn(n, d, generator=generator)
        labels = torch.arange(n) % C
        layer = torch.randn(C, d, generator=generator) / d**0.5, torch.zeros(C)
        grads = torch.randn(C, d, generator=generator), torch.randn(C, generator=generator)
        return Head(features, labels, layer, grads)

    def given(x: Head) -> tuple[Any, ...]:
        return (*x, T, LR)

    floats = n * d + 2 * C * (d + 1)
    return Case(
        op="softmax_descent",
        size={"n": n, "d": d, "C": C, "T": T},
        inputs=make,
        oracle=lambda x: opponents.by_residuals(*given(in_float64(x))),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-4,
        work=lambda _: Work(FLOAT * floats, FLOAT * floats, 12 * n * d * C * T),
        variants=(
            Variant("clfast", "clfast", opponents.by_clfast, given),
            Variant("double backward", "loop", opponents.by_double_backward, given),
            Variant("residuals, autograd once", "torch", opponents.by_residuals, given),
            *forms("by hand", opponents.by_hand, given),
        ),
        small=small,
    )


CASES = [
    softmax_descent(200, 64, 10, 50),
    softmax_descent(200, 512, 10, 50),
    softmax_descent(200, 64, 100, 50),
    softmax_descent(200, 512, 100, 50),
    softmax_descent(2000, 64, 100, 50),
    softmax_descent(12, 9, 4, 3, small=True),
]
