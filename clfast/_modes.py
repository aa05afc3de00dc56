"""Modules in eval mode for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_MODES = threading.RLock()


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule has the mode it had.

    Threads that predict with modules in train mode take turns: one that ends would put a module
    back into train mode under another. Modules in eval mode are shared without waiting.
    """
    with _MODES:
        training = [m for module in modules for m in module.modules() if m.training]
        if training:
            # The flags only: `eval()` of some modules does more, as merging weights.
            for module in training:
                module.training = False
            try:
                yield
            finally:
                for module in training:
                    module.training = True
            return
    yield
