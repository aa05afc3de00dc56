"""How masked layers grow (DGM, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

Masks = Literal["weight", "unit"]
"""A mask of every weight (DGMw), or of every output unit (DGMa)."""


def grown_outputs(
    shapes: Sequence[Sequence[int]],
    newly: Sequence[int],
    masks: Masks,
    ends: Sequence[tuple[int, int]] | None = None,
) -> list[int]:
    """How many outputs there are for the next task, so that no less is free than before.

    Units that a task has newly reserved are replaced one for one. Of weights, delta newly reserved
    ones of a layer need ceil(delta / n) outputs, n the weights into one output (section 3.2), less
    what a wider layer before has added already: what the authors' code does. Layers whose outputs
    are added all get as many as the one that needs most.

    Args:
        shapes: of the weights [C_in, C_out, kernel...] of layers, each after those it reads.
        newly: how many weights of each layer, or units, the task has newly reserved.
        ends: which maps each layer reads and writes; 0 does not grow. None: a chain, whose layer i
            reads i and writes i + 1.

    Returns:
        Channels of the maps 1, 2, ...
    """
    if ends is None:
        ends = [(layer, layer + 1) for layer in range(len(shapes))]
    channels: dict[int, int] = {}
    wider: dict[int, int] = {}
    for (source, target), (inputs, out, *kernel), delta in zip(ends, shapes, newly, strict=True):
        more, area = delta, math.prod(kernel)
        if masks == "weight":
            lacking = max(0, delta - wider.get(source, 0) * out * area)
            more = -(-lacking // ((inputs + wider.get(source, 0)) * area))
        channels[target] = out
        wider[target] = max(wider.get(target, 0), more)
    return [channels[target] + wider[target] for target in sorted(channels)]


def grown(old: Tensor, fresh: Tensor) -> Tensor:
    """`fresh`, larger, with `old` in its corner of smallest indices."""
    fresh[tuple(slice(size) for size in old.shape)] = old
    return fresh
