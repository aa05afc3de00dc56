"""Output arrays that show what a kernel writes beside them, and what it leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shapes = Sequence[tuple[tuple[int, ...], Any]]  # of each output, with its dtype

# Before and behind an output: more than a vector of any level, and odd, so that it is aligned to
# no more than its elements.
_MARGIN = 67
_SENTINEL = 0xA5


class Guarded:
    """An array in the middle of a larger one that is full of sentinel bytes."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        size = math.prod(shape)
        item = np.dtype(dtype).itemsize
        self._bytes = np.full((size + 2 * _MARGIN) * item, _SENTINEL, np.uint8)
        self._inside = slice(_MARGIN * item, (_MARGIN + size) * item)
        self.array: Array = self._bytes[self._inside].view(dtype).reshape(shape)

    def written(self) -> Array:
        """Which elements no longer hold the sentinel; no kernel computes that number by chance."""
        item = self.array.itemsize
        changed = (self._bytes[self._inside].reshape(-1, item) != _SENTINEL).any(axis=1)
        return changed.reshape(self.array.shape)

    def check_margins(self) -> None:
        outside = np.ones(len(self._bytes), bool)
        outside[self._inside] = False
        assert (self._bytes[outside] == _SENTINEL).all(), "written outside of the output"


def call_guarded(outputs: Shapes, call: Callable[..., None]) -> list[Array]:
    """What `call` writes to the outputs: every element of them and nothing else."""
    guards = [Guarded(shape, dtype) for shape, dtype in outputs]
    call(*(guard.array for guard in guards))
    for guard in guards:
        guard.check_margins()
        assert guard.written().all(), "an element of the output was not written"
    return [guard.array for guard in guards]
