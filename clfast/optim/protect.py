"""What is reserved stays as it is in steps of any optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet, ref

import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from .. import ops
from . import checks


def protect(optimizer: torch.optim.Optimizer, reserved: Mapping[Tensor, Tensor]) -> Protection:
    """Keep reserved entries of parameters as they are, bit for bit, in every step.

    Before a step the protected parameters are copied, after it their reserved entries are set back,
    whatever the optimiser did to them: SGD with momentum, AdamW, one with NaN in its gradients. It
    is the parameters that are protected: also from an optimiser that is made anew over them, as
    some libraries do for each task. (A step of L-BFGS evaluates its closure several times, and its
    line search moves reserved entries on the way; they are set back at its end.)

    After a step that raises in the middle, reserved entries are what the optimiser made of them,
    until the next step of an optimiser that has protected parameters begins, or the protection
    ends: then they are set back to what they were before it. Other values that are written into
    them in between are lost. A deepcopy of the optimiser has parameters of its own, which are not
    protected.

    It costs a copy of the protected parameters and a pass over them each step, and the state of the
    optimiser keeps what their gradients bring; :class:`MaskedSGD` and :class:`MaskedAdam` need
    neither. An optimiser that has no protected parameter pays for a look at its list.

    Args:
        optimizer: any of ``torch.optim``, or a subclass of ``torch.optim.Optimizer``.
        reserved: masks of some of its parameters: bool of the parameter's shape, True where it is
            reserved, or packed by ``pack_mask``, on its device. They are live: what is added to one
            in place counts from the next step.

    Returns:
        What ends it, by :meth:`Protection.remove` or as a context manager. It ends by itself for a
        parameter that nothing else refers to any more.

    Raises:
        TypeError, ValueError: no optimiser; a mask of no parameter of it, or of wrong shape, dtype
            or device, which is looked at again before every step.

    Example:
        >>> with protect(optimizer, {weight: mask}):
        ...     train(net, optimizer)
    """
    checks.check_optimizer(optimizer, "protect")
    return Protection(checks.check_reserved(reserved, optimizer.param_groups, "protect"))


class Protection:
    """From :func:`protect`. Until it is removed, steps leave reserved entries as they are."""

    def __init__(self, reserved: dict[Tensor, Tensor]) -> None:
        # Weak: torch's list of hooks, which holds this, must not keep a network alive.
        self._masks: dict[int, tuple[ref[Tensor], Tensor]] = {}
        self._before: dict[int, Tensor] = {}  # the parameters, before the steps that are under way
        for parameter, mask in reserved.items():
            forget = _forget(id(parameter), self._masks, self._before)
            self._masks[id(parameter)] = (ref(parameter, forget), mask)
        # Steps may be inside of others, and nothing tells of one that has raised.
        self._under_way: WeakSet[torch.optim.Optimizer] = WeakSet()
        self._hooks = (
            register_optimizer_step_pre_hook(self._save),
            register_optimizer_step_post_hook(self._restore),
        )

    def remove(self) -> None:
        """From now on steps change what they like, and what a step has left that raised is set
        back. A second time changes nothing."""
        for hook in self._hooks:
            hook.remove()
        self._set_back()
        self._before.clear()

    def __enter__(self) -> Protection:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _save(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not self._masks:
            return
        found = []
        for group_index, group in enumerate(optimizer.param_groups):
            for index, parameter in enumerate(group["params"]):
                entry = self._masks.get(id(parameter))
                if entry is not None:
                    checks.check_mask(entry[1], parameter, group_index, index, "protect")
                    found.append(parameter)
        if found:
            self._set_back()  # what a step has left that raised
            self._under_way.add(optimizer)
            self._before.update((id(p), p.detach().clone()) for p in found)

    def _restore(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer not in self._under_way:
            return
        self._under_way.remove(optimizer)
        self._set_back()
        if not self._under_way:
            self._before.clear()

    @torch.no_grad()
    def _set_back(self) -> None:
        for key, (weak, mask) in list(self._masks.items()):
            parameter = weak()
            if parameter is not None and key in self._before:
                kept = torch.where(_as_bool(mask, parameter), self._before[key], parameter)
                parameter.copy_(kept)
                self._before[key] = kept


def _forget(key: int, *mappings: dict[int, Any]) -> Callable[[object], None]:
    def forget(_: object) -> None:
        for mapping in mappings:
            mapping.pop(key, None)

    return forget


def _as_bool(mask: Tensor, parameter: Tensor) -> Tensor:
    return mask if mask.dtype == torch.bool else ops.unpack_mask(mask, parameter.shape)
