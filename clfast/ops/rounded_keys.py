"""Keys as a search may read them in place of the originals."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import _check

# Elements whose float32 temporaries are in memory together.
_AT_A_TIME = 1 << 18


class RoundedKeys(NamedTuple):
    """M keys less an offset, rounded to bfloat16, each with what bounds the error of rounding.

    For callers that search the same keys often: half the memory of float32 keys. Row i belongs to
    key i and depends on that and the offset alone, so that rows may be replaced and appended as
    keys are, by those of `RoundedKeys.of` with the same offset.
    """

    rows: Tensor
    """[M, s] bfloat16; s depends on the length of a key alone."""
    offset: Tensor
    """[d] float32."""

    @staticmethod
    def of(keys: Tensor, *, offset: Tensor | None = None) -> RoundedKeys:
        """Rounds keys.

        Args:
            keys: [M, d] float32, bfloat16 or float16; detached.
            offset: [d] float32, taken from every key before it is rounded. Any vector gives the
                same neighbours; one in the middle of the keys leaves the fewest candidates. None:
                the mean of the keys.

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
            if offset is None:
                offset = _mean(keys)
            return RoundedKeys(_rounded(keys, offset), offset.detach())


def rounded_size(dim: int) -> int:
    """Elements of a row: twice ``rounded_pairs`` of ``csrc/kernels/common/rounded_keys.h``."""
    return ((dim + 31) // 32 + 1) * 32


def _mean(keys: Tensor) -> Tensor:
    return keys.mean(0, dtype=torch.float32) if len(keys) else keys[0:0].float().sum(0)


def _rounded(keys: Tensor, offset: Tensor) -> Tensor:
    count, dim = keys.shape
    rows = keys.new_zeros(count, rounded_size(dim), dtype=torch.bfloat16)
    bounds = rows.view(torch.float32)[:, -2:]
    # A sum of squares rounds by a unit an element at the most; so does its root.
    margin = 1 + (dim + 16) * 2.0**-23
    step = max(1, _AT_A_TIME // max(dim, 1))
    for at in range(0, count, step):
        part = slice(at, at + step)
        exact = keys[part].float() - offset
        rounded = exact.bfloat16()
        rows[part, :dim] = rounded
        bounds[part, 0] = exact.square().sum(1)
        bounds[part, 1] = (exact - rounded.float()).square().sum(1).sqrt() * margin
    return rows
