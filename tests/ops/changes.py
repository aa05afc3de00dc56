"""Changes that make the arguments of an op wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Arguments = tuple[list[Any], dict[str, Any]]
Change = Callable[[list[Any], dict[str, Any]], None]


def set_at(position: int | str, change: Callable[[Any], Any]) -> Change:
    def apply(args: list[Any], kwargs: dict[str, Any]) -> None:
        if isinstance(position, int):
            args[position] = change(args[position])
        else:
            kwargs[position] = change(kwargs.get(position))

    return apply


def put(position: int | str, value: Any) -> Change:
    return set_at(position, lambda _: value)


def first(value: float) -> Callable[[Tensor], Tensor]:
    def change(t: Tensor) -> Tensor:
        t = t.clone()
        t[(0,) * t.dim()] = value
        return t

    return change
