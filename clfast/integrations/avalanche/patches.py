"""`accelerate_avalanche`: slow parts of Avalanche's own plugins, replaced for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from .replacements import ewc_before_backward, gem_solution, sorted_by_herding, virtual_step

_VERSION = "0.6."  # whose text the replacements were held against
_PLUGINS = "avalanche.training.plugins"
_in_use: Accelerated | None = None


def accelerate_avalanche() -> Accelerated:
    """Replace slow parts of Avalanche 0.6's own plugins by ours, until it is undone.

    * ``EWCPlugin.before_backward``: the penalties of all experiences are one pass over the
      parameters, formed once an experience. Importances and parameters that it saved are read then;
      what is changed in them by hand later is not seen. Equal up to rounding, which is in float64.
    * ``HerdingSelectionStrategy.make_sorted_indices_from_features``: the order of float64
      arithmetic, where Avalanche's has the rounding of the features; see
      :func:`clfast.ops.herding`.
    * ``update_temp`` of MIRPlugin: the parameters after the virtual step without a copy of the
      model, bit for bit the same; models with task labels get Avalanche's own.
    * ``GEMPlugin.solve_quadprog``: the same programme (:func:`clfast.ops.gem_project`), without a
      copy to the host and without quadprog.

    Returns:
        What undoes it, by ``undo()`` or as a context manager, and says what was replaced.

    Raises:
        ImportError: Avalanche cannot be imported.
        RuntimeError: it is another version than 0.6; a call before has not been undone.

    Example:
        >>> with clfast.accelerate_avalanche() as accelerated:
        ...     print(accelerated.replaced)
        ...     strategy.train(experience)
    """
    global _in_use
    where = "accelerate_avalanche"
    if _in_use is not None:
        raise RuntimeError(f"{where}: it is in use already; undo() what the call before returned")
    try:
        version: str = import_module("avalanche").__version__
    except ImportError as error:
        raise ImportError(
            f"{where}: Avalanche cannot be imported ({error}); pip install avalanche-lib==0.6.0"
        ) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        raise ImportError(
            f"{where}: Avalanche cannot be imported, since torchvision's library does not load "
            f"({error}); declare its operators first, as docs/avalanche.md shows"
        ) from error
    if not version.startswith(_VERSION):
        raise RuntimeError(f"{where}: Avalanche must be version 0.6, got {version}")
    _in_use = Accelerated(_replacements())
    return _in_use


class _Replacement(NamedTuple):
    owner: Any
    name: str
    by: Callable[..., Any]


class Accelerated:
    """From :func:`accelerate_avalanche`.

    Attributes:
        replaced: what was, by its full name.
    """

    replaced: tuple[str, ...]

    def __init__(self, replacements: Sequence[_Replacement]) -> None:
        self._before = [(r, getattr(r.owner, r.name)) for r in replacements]
        self.replaced = tuple(f"{was.__module__}.{was.__qualname__}" for _, was in self._before)
        for owner, name, by in replacements:
            setattr(owner, name, by)

    def undo(self) -> None:
        """Puts back what was there. A second time changes nothing.

        Raises:
            RuntimeError: somebody else has replaced one of them since. Nothing is put back.
        """
        global _in_use
        for (owner, name, by), _ in self._before:
            now = getattr(owner, name)
            if now is not by:
                raise RuntimeError(
                    f"Accelerated.undo: {name} of {owner.__name__} has been replaced since, by "
                    f"{now!r}; undo that first"
                )
        for (owner, name, _), was in self._before:
            setattr(owner, name, was)
        self._before = []
        if _in_use is self:
            _in_use = None

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def _replacements() -> list[_Replacement]:
    mir = import_module(f"{_PLUGINS}.mir")
    storage = import_module("avalanche.training.storage_policy")
    multi_task = import_module("avalanche.models").MultiTaskModule
    return [
        _Replacement(
            import_module(f"{_PLUGINS}.ewc").EWCPlugin, "before_backward", ewc_before_backward
        ),
        _Replacement(
            storage.HerdingSelectionStrategy, "make_sorted_indices_from_features", sorted_by_herding
        ),
        _Replacement(mir, "update_temp", virtual_step(mir.update_temp, multi_task)),
        _Replacement(import_module(f"{_PLUGINS}.gem").GEMPlugin, "solve_quadprog", gem_solution),
    ]
