"""Keys as a search may read them in place of the originals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import _check

# Elements whose float32 temporaries are in memory together.
_AT_A_TIME = 1 << 18
_FEWEST_OFFSET_ROWS, _MOST_OFFSET_ROWS = 8, 64


class RoundedKeys(NamedTuple):
    """M keys less an offset, rounded to bfloat16, each with what bounds the error of rounding.

    For callers that search the same keys often. Row i belongs to key i and depends on that and the
    offset alone: when keys are replaced or appended, their rows must be, too, by those of
    `RoundedKeys.of` with the same offset. A search with rows of other keys finds wrong neighbours.
    """

    rows: Tensor
    """[M, s] bfloat16, where s is d rounded up to a multiple of 32, and 32."""
    offset: Tensor
    """[d] float32."""

    @staticmethod
    def of(keys: Tensor, *, offset: Tensor | None = None) -> RoundedKeys:
        """Rounds keys.

        Args:
            keys: [M, d] float32, bfloat16 or float16; detached.
            offset: [d] float32, taken from every key before it is rounded; copied. Any vector gives
                the same neighbours; one in the middle of the keys leaves the fewest candidates.
                None: what the keys have in common, zero where that is little.

        Raises:
            TypeError: no dense tensor.
            RuntimeError: wrong shape, dtype or device.
        """
        where = "RoundedKeys.of"
        _check.tensors(where, keys=keys)
        _check.optional_tensors(where, offset=offset)
        _check.dim(where, "keys", keys, 2)
        _check.floating(where, "keys", keys)
        _check.require(
            keys.dtype != torch.float64, f"{where}: keys must be of float32 or 16 bits, not float64"
        )
        if offset is not None:
            _check.dtype(where, "offset", offset, torch.float32)
            _check.shape(where, "offset", offset, (keys.shape[1],))
            _check.same_device(where, "offset", offset, "keys", keys)
        with torch.no_grad():
            offset = common_offset(keys) if offset is None else offset.detach().clone()
            return RoundedKeys(_rounded(keys, offset), offset)


def rounded_size(dim: int) -> int:
    """Elements of a row: twice ``rounded_pairs`` of ``csrc/kernels/common/rounded_keys.h``."""
    return ((dim + 31) // 32 + 1) * 32


def common_offset(keys: Tensor) -> Tensor:
    """The mean of a few keys, if most of their length is in it and all are finite; else zero: what
    ``common_offset`` of ``csrc/kernels/cpu/knn.cpp`` takes from keys that were not rounded before.
    """
    count = min(_MOST_OFFSET_ROWS, len(keys) // 8)
    if count >= _FEWEST_OFFSET_ROWS:
        some = keys[:: len(keys) // count][:count].float()
        mean, norms = some.mean(0), some.square().sum(1)
        if bool(mean.square().sum() > norms.mean() / 4) and bool(norms.isfinite().all()):
            return mean
    return keys.new_zeros(keys.shape[1], dtype=torch.float32)


def _rounded(keys: Tensor, offset: Tensor) -> Tensor:
    count, dim = keys.shape
    rows = keys.new_zeros(count, rounded_size(dim), dtype=torch.bfloat16)
    bounds = rows.view(torch.float32)[:, -2:]
    # A sum of squares rounds by dim / 2 units at the most, the root by one; and squares below the
    # normal range may be lost.
    margin, lost = 1 + (dim + 16) * 2.0**-23, dim * 2.0**-126
    step = max(1, _AT_A_TIME // max(dim, 1))
    for at in range(0, count, step):
        part = slice(at, at + step)
        exact = keys[part].float() - offset
        rounded = exact.bfloat16()
        rows[part, :dim] = rounded
        bounds[part, 0] = exact.square().sum(1)
        bounds[part, 1] = ((exact - rounded.float()).square().sum(1) + lost).sqrt() * margin
    return rows
