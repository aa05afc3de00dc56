"""The network inside of what runs it."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def distributed(model: nn.Module) -> DistributedDataParallel | None:
    """The DistributedDataParallel that a model is, or that `torch.compile` has around it."""
    while isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
        model = compiled
    return model if isinstance(model, DistributedDataParallel) else None


def unwrapped(model: nn.Module) -> nn.Module:
    """Without the wrappers of DistributedDataParallel, DataParallel and `torch.compile`."""
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model
