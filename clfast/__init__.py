"""clfast: continual-learning methods at hardware speed, behind a PyTorch API."""

from importlib.metadata import version as _version
from typing import Any as _Any

from . import memory, methods, ops, optim, plugins, reference, streams
from ._backend import backend
from .methods import attach

__version__ = _version("clfast")

__all__ = [
    "__version__",
    "accelerate_avalanche",
    "attach",
    "backend",
    "memory",
    "methods",
    "ops",
    "optim",
    "plugins",
    "reference",
    "streams",
]


def __getattr__(name: str) -> _Any:
    if name == "accelerate_avalanche":  # whoever has no Avalanche does not pay for its adapters
        from .integrations.avalanche import accelerate_avalanche

        return accelerate_avalanche
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
