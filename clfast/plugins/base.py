"""What every plugin offers to a loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

Batches: TypeAlias = "Iterable[Any]"
"""Batches (x [N, ...], y [N] int64, ...), as a DataLoader gives them."""


class Plugin(ABC):
    """Calls in a loop of somebody else; a plugin that needs nothing at one does nothing there, so
    that a loop may make all of them.
    """

    def before_backward(self, loss: Tensor) -> Tensor:
        """The loss to call ``backward`` of."""
        return loss

    def after_backward(self, *, scale: float = 1.0) -> None:
        """Once a step, when all gradients are there and before the optimiser's step.

        Args:
            scale: what the loss was multiplied by before ``backward()``, where gradients still have
                that factor: ``scaler.get_scale()`` of a GradScaler that has not unscaled them.
        """
        del scale

    def after_step(self) -> None:
        """After the optimiser's step."""
        return

    @abstractmethod
    def on_task_end(self, loader: Batches | None = None) -> None:
        """Between tasks, with the samples of the task that ended."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Copies of all that was learnt: tensors, numbers and containers of these, which
        ``torch.load`` with ``weights_only=True`` reads. Arguments of the constructor are not in it.
        """

    @abstractmethod
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what ``state_dict`` of a plugin made alike returned, bit for bit.

        Raises:
            TypeError: not a mapping.
            ValueError: a part is missing, unknown or does not fit; nothing was loaded.
        """


def batches(
    loader: Batches | None, device: torch.device, where: str, *, labels: bool
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The samples of a loader, and their labels if they are wanted, on a device.

    Batches may have more than two parts (task labels, say), which are not looked at; where no
    labels are wanted, they may be tensors alone.
    """
    wanted = "batches (x, y)" if labels else "batches x or (x, ...)"
    if not isinstance(loader, Iterable):
        kind = "none" if loader is None else type(loader).__name__
        raise TypeError(
            f"{where}: loader must give {wanted}, got {kind}; pass the samples of the task that "
            "ended, as a DataLoader of it does"
        )
    for batch in loader:
        parts = [batch] if isinstance(batch, Tensor) and not labels else batch
        enough = isinstance(parts, list | tuple) and len(parts) >= (2 if labels else 1)
        if not enough or not all(isinstance(part, Tensor) for part in parts[: 1 + labels]):
            raise TypeError(
                f"{where}: loader must give {wanted} of tensors, got {_named(batch)} instead"
            )
        x, *rest = (part.to(device) for part in parts[: 1 + labels])
        yield x, rest[0] if rest else None


def check_mapping(state_dict: object, where: str) -> None:
    if not isinstance(state_dict, Mapping):
        kind = type(state_dict).__name__
        raise TypeError(f"{where}: state_dict must be a mapping, got {kind}")


def _named(batch: object) -> str:
    if isinstance(batch, list | tuple):
        return f"({', '.join(type(part).__name__ for part in batch)})"
    return type(batch).__name__
