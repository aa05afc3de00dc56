"""`fingerprint`: whether samples are those that a phase was begun with, in their order."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def fingerprint(*tensors: Tensor) -> int:
    """A checksum of dtypes, shapes and bits, the same on every device."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        flat = tensor.detach().cpu().contiguous().flatten()
        if flat.numel():
            found = zlib.crc32(flat.view(torch.uint8).numpy().data, found)
    return found
