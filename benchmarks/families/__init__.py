"""The cases of every family of ops: one module each, with the list `CASES`; what begins with _ is
shared by some of them. Eight modules are no family of ops: `scaling` takes ops at many sizes,
`calls` ops that have nothing to do, `online` whole predictions, `observe` whole steps of learning,
`index` a memory with each kind of index; `importance`, `plugins` and `replay` what loops of other
people take from clfast."""

from __future__ import annotations

import importlib
import pkgutil

from ..case import Case

OTHERS = ("scaling", "calls", "online", "observe", "index", "importance", "plugins", "replay")
SCALING, CALLS, ONLINE, OBSERVE, INDEX, IMPORTANCE, PLUGINS, REPLAY = OTHERS


def names() -> list[str]:
    """All families of ops, by name."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in modules if not name.startswith("_") and name not in OTHERS)


def cases(family: str) -> list[Case]:
    """The cases of a family or of one of `OTHERS`; ValueError when there is no such family."""
    known = [*names(), *OTHERS]
    if family not in known:
        raise ValueError(f"no benchmark family {family!r}; there are {', '.join(known)}")
    module = importlib.import_module(f"{__name__}.{family}")
    found: list[Case] = module.CASES
    return found
