"""Which implementation of the ops runs: the compiled kernels or the plain-PyTorch reference."""

from __future__ import annotations

from typing import Literal

_in_use: str = "compiled"


class backend:  # noqa: N801 - reads as a function: clfast.backend("reference")
    """Selects the implementation behind every op, as a call or for a ``with`` block.

    Args:
        name: ``"compiled"`` (the default) or ``"reference"``, plain PyTorch on whatever device the
            tensors are. This is the only switch, for all threads: nothing falls back silently.

    Raises:
        ValueError: for another name.

    Example:
        >>> with clfast.backend("reference"):
        ...     clfast.ops.knn(queries, keys, 10)
    """

    def __init__(self, name: Literal["compiled", "reference"]) -> None:
        global _in_use
        if name not in ("compiled", "reference"):
            raise ValueError(f"clfast.backend: name must be compiled or reference, got {name!r}")
        self._name = name
        self._before = _in_use
        _in_use = name

    def __enter__(self) -> backend:
        global _in_use
        _in_use = self._name  # again: a block may be entered more than once
        return self

    def __exit__(self, *_: object) -> None:
        global _in_use
        _in_use = self._before


def uses_reference() -> bool:
    return _in_use == "reference"


def backend_in_use() -> str:
    """``"compiled"`` or ``"reference"``."""
    return _in_use
