"""`Step`: what a plugin knows of the step that a loop is in."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction


class Step:
    """Whether ``backward`` went through a loss that the plugin has added to, and whether gradients
    are new since its last ``after_backward``. A copy knows of no step."""

    def __init__(self) -> None:
        self._penalised: list[tuple[nn.Parameter, int]] | None = None  # with versions
        self._last: dict[int, tuple[weakref.ref[Tensor], int]] = {}  # versions, by id

    def watched(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
        """The loss, which the plugin has added to."""
        held = list(parameters)

        def ended() -> None:
            self._penalised = [(p, p._version) for p in held if p.grad is not None]

        def began(_: Tensor) -> None:
            # Gradients are there at the end of backward(); losses that are dropped have none.
            torch.autograd.Variable._execution_engine.queue_callback(ended)

        loss.register_hook(began)
        return loss

    def in_loss(self) -> bool:
        """Whether the gradients have what the plugin has added to a loss."""
        # Else they are of a later step, which parameters have moved before. Gradients may be other
        # tensors by now: loops multiply them by masks, say.
        penalised = self._penalised
        return penalised is not None and (
            not penalised or any(p._version == version for p, version in penalised)
        )

    def check_gradients(self, parameters: Iterable[nn.Parameter], where: str) -> None:
        """One of the parameters has a gradient that ``after_backward`` has not seen."""
        own = _gradients(parameters)
        if not all(map(self._is_last, own)):
            return
        name = where.partition(".")[0]
        what = f"call it after loss.backward(), for the model that this {name} was made for"
        if not own:
            raise RuntimeError(f"{where}: no parameter of model has a gradient; {what}")
        raise RuntimeError(
            f"{where}: the gradients of model are those of the last call; call it once a "
            f"step, and {what.removeprefix('call it ')}"
        )

    def _is_last(self, grad: Tensor) -> bool:
        """Whether it is as the last ``after_backward`` has left it."""
        held, version = self._last.get(id(grad), (None, 0))
        return held is not None and held() is grad and grad._version == version

    def end(self, parameters: Iterable[nn.Parameter]) -> None:
        """Gradients are as ``after_backward`` leaves them."""
        grads = _gradients(parameters)
        # Not kept alive, so that loops may free them.
        held = zip(map(weakref.ref, grads), map(_version, grads), strict=True)
        self._penalised, self._last = None, dict(zip(map(id, grads), held, strict=True))

    def forget(self) -> None:
        self._penalised = None

    def __reduce__(self) -> tuple[type[Step], tuple[()]]:
        return Step, ()


_version: Callable[[Tensor], int] = attrgetter("_version")


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [grad for p in parameters if (grad := p.grad) is not None]


def check_loss_of(loss: Tensor, parameters: Iterable[nn.Parameter], where: str) -> None:
    """RuntimeError for a loss, with a graph, that is of other parameters than these; not where
    autograd functions of somebody's own may hide what it is of."""
    own, name = set(map(id, parameters)), where.partition(".")[0]
    seen: set[Any] = set()
    ahead: list[Any] = [loss.grad_fn]
    hidden = loss.grad_fn is None
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if id(getattr(node, "variable", None)) in own:
            return
        # What a function of somebody's own uses need not be an argument of it.
        hidden = hidden or isinstance(node, BackwardCFunction)
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
    if not hidden:
        raise RuntimeError(
            f"{where}: loss depends on no parameter of the model that this {name} was made for; "
            f"make a new {name} for the model that is trained"
        )


def trains(loss: Tensor, where: str) -> bool:
    """Whether ``backward`` will be called of the loss: False for one without a graph under
    ``torch.no_grad``, as in validation.

    Raises:
        RuntimeError: it has no graph otherwise.
    """
    if not loss.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            f"{where}: loss does not require grad, so that what is added would be trained on "
            "alone; compute it outside of torch.no_grad() and without detach(), or evaluate under "
            "torch.no_grad()"
        )
    return loss.requires_grad
