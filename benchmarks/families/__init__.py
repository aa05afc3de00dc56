"""The cases of every family: one module each, with the list `CASES`; what begins with _ is shared
by some of them."""

from __future__ import annotations

import importlib
import pkgutil

from ..case import Case


def names() -> list[str]:
    """All families, by name."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if not name.startswith("_"))


def cases(family: str) -> list[Case]:
    """The cases of a family; ValueError when there is no such family."""
    if family not in names():
        raise ValueError(f"no benchmark family {family!r}; there are {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{family}")
    found: list[Case] = module.CASES
    return found
