"""Processes that train one model together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from .._wrapped import distributed


@contextmanager
def together(model: nn.Module, where: str) -> Iterator[None]:
    """What fails in one process fails in all of them, which else would wait for it in the next
    reduction; a block has none of its own."""
    ddp = distributed(model)
    if ddp is None:
        yield
        return
    failed = torch.ones((), device=next(model.parameters()).device)
    try:
        yield
        failed.zero_()
    finally:
        dist.all_reduce(failed, group=ddp.process_group)
    if failed:
        raise RuntimeError(f"{where}: another process failed, see its error; all is as before")
