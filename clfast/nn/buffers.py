"""Buffers as they were: for forward passes whose traces are not wanted."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class SavedBuffer(NamedTuple):
    """A buffer, where it hangs, and its values; a model may have put another in its place since."""

    module: nn.Module
    name: str
    buffer: Tensor
    values: Tensor


@torch.no_grad()
def saved_buffers(*models: nn.Module) -> list[SavedBuffer]:
    """Copies of all buffers, to be put back."""
    return [
        SavedBuffer(module, name, buffer, buffer.clone())
        for model in models
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]


@torch.no_grad()
def put_back(saved: list[SavedBuffer]) -> None:
    """Each buffer where it was, with the values it had."""
    for module, name, buffer, values in saved:
        module._buffers[name] = buffer
        buffer.copy_(values)
