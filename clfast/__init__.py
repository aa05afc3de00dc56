"""clfast: continual-learning methods at hardware speed, behind a PyTorch API."""

from importlib.metadata import version as _version

from . import memory, methods, ops, optim, plugins, reference, streams
from ._backend import backend
from .methods import attach

__version__ = _version("clfast")

__all__ = [
    "__version__",
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
