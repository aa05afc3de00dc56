"""`PassHook`: what a forward pass of a model was, for a plugin."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from .lwf import LwF


class Pass(NamedTuple):
    """A forward pass: what went in and what came out, with its graph."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: object


class PassHook:
    """The forward hook of a plugin, which it does not keep alive. A copy of the model carries one
    that belongs to nobody."""

    def __init__(self, plugin: LwF | None) -> None:
        self._plugin = None if plugin is None else weakref.ref(plugin)

    @torch.compiler.disable(reason="what a plugin has seen is read outside of the graph")
    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object
    ) -> None:
        plugin = None if self._plugin is None else self._plugin()
        if plugin is not None:
            plugin._saw(module, Pass(args, kwargs, output))

    def __reduce__(self) -> tuple[type[PassHook], tuple[None]]:
        return PassHook, (None,)
