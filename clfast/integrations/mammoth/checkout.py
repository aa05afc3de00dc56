"""Modules of a Mammoth checkout, which has no package of its own."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def of_mammoth(module: str, name: str, where: str) -> Any:
    """What Mammoth calls so.

    Raises:
        ImportError: there is no such module on the path, or it is another program's.
    """
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"{where}: there is no {name} in a module {module} ({error}); call it where Mammoth's "
            "main.py lies, or with that folder on sys.path"
        ) from error
