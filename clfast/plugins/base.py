"""What every plugin offers to a loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Batches: TypeAlias = "Iterable[Any]"
"""Batches (x [N, ...], y [N] int64, ...), as a DataLoader gives them."""


# Whether a forward pass is one that a plugin makes beside those of the loop; of this thread alone.
_own_pass: ContextVar[bool] = ContextVar("_own_pass", default=False)


@contextmanager
def own_pass() -> Iterator[None]:
    """Forward passes inside are a plugin's own: no plugin takes them for the loop's."""
    token = _own_pass.set(True)
    try:
        yield
    finally:
        _own_pass.reset(token)


def in_own_pass() -> bool:
    return _own_pass.get()


class Plugin(ABC):
    """Calls in a loop of somebody else; a plugin that needs nothing at one does nothing there, so
    that a loop may make all of them.
    """

    def before_backward(self, loss: Tensor) -> Tensor:
        """The loss to call ``backward`` of.

        Raises:
            RuntimeError: a plugin would add something to a loss that does not require grad. Under
                ``torch.no_grad``, as in validation, nothing is added to it.
        """
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
        if rest:
            check_samples(x, rest[0], where)
        yield x, rest[0] if rest else None


def check_samples(x: Tensor, y: Tensor, where: str) -> None:
    """x [N, ...] and class labels y [N] of it."""
    samples: dict[str, object] = {"x": x, "y": y}
    for name, given in samples.items():
        if not isinstance(given, Tensor):
            raise TypeError(f"{where}: {name} must be a torch.Tensor, got {type(given).__name__}")
    if y.dtype != torch.int64:
        raise TypeError(f"{where}: y must be int64, got {y.dtype}; convert it with y.long()")
    if not x.ndim or y.shape != x.shape[:1]:
        raise ValueError(
            f"{where}: y must have one label a sample of x, got x {list(x.shape)} and y "
            f"{list(y.shape)}"
        )
    if len(y) and int(y.min()) < 0:
        raise ValueError(
            f"{where}: y must be class labels >= 0, got {int(y.min())}; leave samples out that "
            "have no label"
        )


def check_parts(state_dict: object, parts: Collection[str], where: str) -> None:
    """`state_dict` is a mapping of these parts and no others."""
    if not isinstance(state_dict, Mapping):
        kind = type(state_dict).__name__
        raise TypeError(f"{where}: state_dict must be a mapping, got {kind}")
    if state_dict.keys() != set(parts):
        raise ValueError(
            f"{where}: state_dict must have the parts {', '.join(parts)}, got "
            f"{', '.join(map(str, state_dict))}; nothing was loaded"
        )


def generator_state(given: object) -> Tensor:
    """What a generator on the CPU takes over; ValueError for anything else."""
    try:
        if not isinstance(given, Tensor):
            raise TypeError
        state = given.cpu()
        torch.Generator("cpu").set_state(state)
    except (TypeError, RuntimeError):
        raise ValueError("generator is no state of a CPU generator") from None
    return state


def check_model(model: object, where: str) -> None:
    """`model` is a module with something to train."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where}: model must be an nn.Module, got {type(model).__name__}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"{where}: model must have a parameter that requires grad")


def check_loss(loss: object, where: str) -> None:
    """`loss` is a tensor of one number."""
    if not isinstance(loss, Tensor):
        raise TypeError(f"{where}: loss must be a tensor, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise ValueError(
            f"{where}: loss must be one number, got shape {list(loss.shape)}; take its mean first"
        )


def _named(batch: object) -> str:
    if isinstance(batch, list | tuple):
        return f"({', '.join(type(part).__name__ for part in batch)})"
    return type(batch).__name__
