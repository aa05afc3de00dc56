"""The models by the names that Mammoth's ``--model`` knows them under."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ...memory import ReplayBuffer
from ...methods import ARM
from ...plugins import AGEM, ERMIR, EWC, GEM, MAS, SI, LwF, OnlineEWC, Plugin, RWalk
from .checkout import of_mammoth
from .models import LearnerModel, MemoryModel, PluginModel


def _with_buffer(kind: Callable[..., Plugin]) -> Callable[..., Plugin]:
    def make(net: nn.Module, *, capacity: int, **options: Any) -> Plugin:
        return kind(net, ReplayBuffer(capacity), **options)

    return make


_COMPATIBILITY = ["class-il", "domain-il", "task-il", "general-continual"]
_MODELS: dict[str, tuple[type, dict[str, Any]]] = {
    "clfast-hebb": (MemoryModel, {"METHOD": "hebb"}),
    "clfast-mbpa": (MemoryModel, {"METHOD": "mbpa"}),
    "clfast-mixture": (MemoryModel, {"METHOD": "mixture"}),
    "clfast-arm": (LearnerModel, {"LEARNER": ARM}),
    "clfast-gem": (PluginModel, {"PLUGIN": GEM}),
    "clfast-agem": (PluginModel, {"PLUGIN": _with_buffer(AGEM)}),
    "clfast-er-mir": (PluginModel, {"PLUGIN": _with_buffer(ERMIR)}),
    "clfast-lwf": (PluginModel, {"PLUGIN": LwF, "IN_LOSS": True}),
    "clfast-ewc": (PluginModel, {"PLUGIN": EWC}),
    "clfast-online-ewc": (PluginModel, {"PLUGIN": OnlineEWC}),
    "clfast-si": (PluginModel, {"PLUGIN": SI}),
    "clfast-mas": (PluginModel, {"PLUGIN": MAS}),
    "clfast-rwalk": (PluginModel, {"PLUGIN": RWalk}),
}


def continual_models(base: type) -> dict[str, type]:
    """Models of Mammoth by name, subclasses of ``base``, its ``ContinualModel``.

    Each takes the options of its method by ``--clfast``, a JSON object: ``--model clfast-ewc
    --clfast '{"strength": 100}'``.

    Raises:
        TypeError: no class with ``begin_task`` and ``end_task``.
    """
    if not isinstance(base, type) or not all(
        callable(getattr(base, name, None)) for name in ("begin_task", "end_task")
    ):
        raise TypeError(
            "continual_models: base must be Mammoth's ContinualModel, a class with begin_task and "
            f"end_task, got {base!r}"
        )
    return {
        name: type(
            name.title().replace("-", ""),
            (kind, base),
            {"NAME": name, "COMPATIBILITY": list(_COMPATIBILITY), "__doc__": kind.__doc__, **own},
        )
        for name, (kind, own) in _MODELS.items()
    }


def register() -> dict[str, type]:
    """Make all of :func:`continual_models` known to the Mammoth that this runs in.

    Raises:
        ImportError: there is no Mammoth here.
    """
    base = of_mammoth("models.utils.continual_model", "ContinualModel", "register")
    register_model = of_mammoth("models", "register_model", "register")
    made = continual_models(base)
    for name, model in made.items():
        register_model(name)(model)
    return made
