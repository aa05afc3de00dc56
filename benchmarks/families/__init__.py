"""The cases of every family of ops: one module each, with the list `CASES`; what begins with _ is
shared by some of them. `scaling` takes ops of all families at many sizes; `online` takes whole
methods."""

from __future__ import annotations

import importlib
import pkgutil

from ..case import Case

SCALING, ONLINE = "scaling", "online"


def names() -> list[str]:
    """All families of ops, by name."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(
        name for name in modules if not name.startswith("_") and name not in (SCALING, ONLINE)
    )


def cases(family: str) -> list[Case]:
    """The cases of a family, of `SCALING` or `ONLINE`; ValueError when there is no such family."""
    known = [*names(), SCALING, ONLINE]
    if family not in known:
        raise ValueError(f"no benchmark family {family!r}; there are {', '.join(known)}")
    module = importlib.import_module(f"{__name__}.{family}")
    found: list[Case] = module.CASES
    return found
