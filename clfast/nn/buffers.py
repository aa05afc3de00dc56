"""Buffers as they were: for forward passes whose traces are not wanted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


@torch.no_grad()
def saved_buffers(*models: nn.Module) -> Callable[[], None]:
    """A call that puts the buffers back, with the values that they have now; also those in whose
    place the model has put others since."""
    saved = [
        (module, name, buffer, buffer.clone())
        for model in models
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]

    @torch.no_grad()
    def put_back() -> None:
        for module, name, buffer, values in saved:
            module._buffers[name] = buffer
            buffer.copy_(values)

    return put_back
