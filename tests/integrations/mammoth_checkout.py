"""The stub of Mammoth as a checkout would be: its folder on `sys.path`, its modules at the top."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

STUB = Path(__file__).parent / "mammoth_stub"


_MODULES = (
    *("models", "models.utils", "models.utils.continual_model"),
    *("utils", "utils.buffer", "utils.training", "backbone"),
)


def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh modules, which nobody sees afterwards."""
    monkeypatch.syspath_prepend(str(STUB))
    for name in _MODULES:
        monkeypatch.setitem(sys.modules, name, None)  # what was there comes back
        del sys.modules[name]
    for name in _MODULES:
        import_module(name)
