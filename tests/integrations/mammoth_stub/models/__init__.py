"""`register_model`, which refuses a name that is taken."""

from __future__ import annotations

from collections.abc import Callable

REGISTERED_MODELS: dict[str, type] = {}


def register_model(name: str) -> Callable[[type], type]:
    def decorator(cls: type) -> type:
        if name in REGISTERED_MODELS:
            raise ValueError(f"{name} is registered")
        REGISTERED_MODELS[name] = cls
        return cls

    return decorator
