"""`untraced`: functions that ``torch.compile`` leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def untraced(reason: str) -> Callable[[F], F]:
    """As ``torch.compiler.disable``, which would load the compiler with every import of clfast."""

    def mark(function: F) -> F:
        vars(function).update(_torchdynamo_disable=True, _torchdynamo_disable_msg=reason)
        return function

    return mark
