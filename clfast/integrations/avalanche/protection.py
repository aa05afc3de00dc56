"""`Protect`: parts of the model that no step of a strategy changes."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from ...optim import Protection, protect
from .strategy import OfModel, Strategy


class Protect(OfModel):
    """:func:`clfast.optim.protect` in a strategy: reserved entries of parameters stay as they are,
    bit for bit, whatever its optimiser and other plugins make of the gradients.

    Args:
        reserved: masks by the names of parameters, bool of the parameter's shape, True where it is
            reserved. They are live: what is set in one counts from the next step, and one that is
            added or replaced from the next experience. A parameter that has grown in dimension 0,
            as heads do, may keep the mask it had: its new entries are free.

    Raises:
        TypeError, ValueError: no mapping of names to masks, here; a name that no parameter has, or
            a mask that does not fit, when an experience begins. The strategy is as before.
    """

    supports_distributed = False

    def __init__(self, reserved: Mapping[str, Tensor]) -> None:
        super().__init__()
        if not isinstance(reserved, Mapping) or not all(isinstance(n, str) for n in reserved):
            kind = type(reserved).__name__
            raise TypeError(f"Protect: reserved must map names of parameters to masks, got {kind}")
        self.reserved = reserved
        self._protection: Protection | None = None
        self._protects: nn.Module | None = None
        self._longer: list[tuple[Tensor, Tensor]] = []  # masks, and what grown parameters have

    def before_training_exp(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        self._protects = self.of(strategy, lambda model: model, self._protects)
        parameters = dict(strategy.model.named_parameters())
        masks: MutableMapping[Tensor, Tensor] = {}
        longer = []
        for name, mask in self.reserved.items():
            if name not in parameters:
                raise ValueError(
                    f"Protect: reserved has {name!r}, which is no parameter of strategy.model; "
                    f"there are {', '.join(parameters)}"
                )
            held = masks[parameters[name]] = _grown(mask, parameters[name])
            if held is not mask:
                longer.append((mask, held))
        made = protect(strategy.optimizer, masks)
        self.remove()
        self._protection, self._longer = made, longer

    def before_update(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del strategy, args, kwargs
        for mask, held in self._longer:
            held[: len(mask)] = mask

    def remove(self) -> None:
        """From now on steps change what they like, until the next experience begins."""
        if self._protection is not None:
            self._protection.remove()
            self._protection = None


def _grown(mask: Tensor, parameter: Tensor) -> Tensor:
    """The mask, with new rows that are free; itself where nothing has grown, and where it does not
    fit, which `protect` will say."""
    shape = parameter.shape
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.dim() != len(shape):
        return mask
    if mask.shape == shape or not len(shape) or mask.shape[1:] != shape[1:]:
        return mask
    if len(mask) > len(parameter):
        return mask
    free = mask.new_zeros(len(parameter) - len(mask), *shape[1:])
    return torch.cat([mask, free])
