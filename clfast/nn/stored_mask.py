"""`StoredMask`: what is kept of the mask of a past task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..ops.masks import pack_mask, unpack_mask


class StoredMask(nn.Module):
    """The mask of a past task: one bit an entry, and for a soft one the values of what is used.

    A value has the dtype it was given in: with float32, a soft mask is one bit an entry and 32 more
    for every entry that is used. Entries that are not used are exactly 0, in both kinds.

    Args:
        used: bool [...], the entries of at least 1/2.
        soft: of the same shape, their values; None: 1.
    """

    bits: Tensor
    values: Tensor | None

    def __init__(self, used: Tensor, soft: Tensor | None = None) -> None:
        super().__init__()
        self.shape = tuple(used.shape)
        self.register_buffer("bits", pack_mask(used))
        self.register_buffer("values", None if soft is None else soft.detach()[used])

    @property
    def nbytes(self) -> int:
        """Bytes of the bits, and of the values of a soft mask."""
        return sum(t.numel() * t.element_size() for t in self.buffers())

    def used(self) -> Tensor:
        """bool, of the mask's shape."""
        return unpack_mask(self.bits, self.shape)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The mask in floating point."""
        used = self.used()
        if self.values is None:
            return used.to(dtype)
        soft = self.values.new_zeros(self.shape).masked_scatter_(used, self.values)
        return soft.to(dtype)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        # How many values there are is known only now.
        given = state_dict.get(prefix + "values")
        if isinstance(given, Tensor) and self.values is not None:
            self.values = torch.empty_like(given, device=self.values.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
