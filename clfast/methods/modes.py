"""Modules as they were when something fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..nn.buffers import saved_buffers


@contextmanager
def as_before_if_it_fails(*modules: nn.Module) -> Iterator[None]:
    """Puts buffers back, and drops gradients, when the block raises.

    A forward pass in train mode has moved batch-norm statistics by the time anything fails.
    """
    put_back = saved_buffers(*modules)
    try:
        yield
    except BaseException:
        put_back()
        for module in modules:
            module.zero_grad(set_to_none=True)
        raise
