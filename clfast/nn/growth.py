"""How masked layers grow (DGM, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

Masks = Literal["weight", "unit"]
"""A mask of every weight (DGMw), or of every output unit (DGMa)."""


def grown_outputs(shapes: Sequence[Sequence[int]], newly: Sequence[int], masks: Masks) -> list[int]:
    """How many outputs each layer has for the next task, so that no less is free than before.

    Units that a task has newly reserved are replaced one for one. Of weights, delta newly reserved
    ones of a layer need ceil(delta / n) outputs, n the weights into one output (section 3.2), less
    what a wider layer before has added already: what the authors' code does.

    Args:
        shapes: of the weights [C_in, C_out, kernel...] of consecutive layers.
        newly: how many weights of each layer, or units, the task has newly reserved.
    """
    outputs, wider = [], 0
    for (inputs, out, *kernel), delta in zip(shapes, newly, strict=True):
        if masks == "weight":
            area = math.prod(kernel)
            lacking = max(0, delta - wider * out * area)
            wider = -(-lacking // ((inputs + wider) * area))
        else:
            wider = delta
        outputs.append(out + wider)
    return outputs


def grown(old: Tensor, fresh: Tensor) -> Tensor:
    """`fresh`, larger, with `old` in its corner of smallest indices."""
    fresh[tuple(slice(size) for size in old.shape)] = old
    return fresh
