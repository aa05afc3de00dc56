"""SGD and Adam that do not touch what is reserved."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _arguments, ops
from . import checks

_ONE = torch.tensor(1.0, device="cpu")  # which a step counts

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


@dataclass
class _Batch:
    """The parameters of a group that have gradients, of one dtype on one device."""

    params: list[Tensor]
    grads: list[Tensor]
    masks: list[Tensor | None]
    options: dict[str, Any]  # of the step, from the group
    group: dict[str, Any]


class _Masked(torch.optim.Optimizer, ABC):
    """What both have in common, in front of the optimiser of torch.optim that they are."""

    _NOT_NEGATIVE: tuple[str, ...] = ("lr", "weight_decay")

    reserved: dict[Tensor, Tensor]
    clip_norm: float | None

    def _reserve(self, reserved: Mapping[Tensor, Tensor] | None, clip_norm: float | None) -> None:
        """The last part of construction."""
        where = type(self).__name__
        self.reserved = checks.check_reserved(reserved or {}, self.param_groups, where)
        if clip_norm is not None:
            clip_norm = _arguments.real(clip_norm, "clip_norm", where, least=0, open_ends="(")
        self.clip_norm = clip_norm

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            index = len(self.param_groups) - 1
            checks.check_group(self.param_groups[-1], index, type(self).__name__)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "reserved": self.reserved,
            "clip_norm": self.clip_norm,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also of what torch's optimisers kept on a device, for a step of theirs."""
        super().__setstate__(state)
        for group in self.param_groups:
            for option in ("foreach", "fused", "capturable", "differentiable"):
                if option in group:
                    group[option] = self.defaults[option]
        for kept in self.state.values():
            if "step" in kept:
                kept["step"] = kept["step"].cpu()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step; see the class.

        Args:
            closure: evaluates the model again, and returns the loss.

        Returns:
            The loss of the closure, or None.

        Raises:
            TypeError, ValueError, RuntimeError: a mask or a state that does not fit its parameter,
                sparse gradients, an option of a group that is out of range. Parameters and state of
                all groups are as they were then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches = self._batches()
        # An op looks at all that it is given before it changes anything, and takes less time for it
        # than Python; but none may fail behind another.
        if len(batches) > 1:
            self._check()
        try:
            for batch, clip in zip(batches, self._clips(batches), strict=True):
                self._update(batch, clip)
        except Exception:
            self._check()  # which knows parameters by their groups
            raise
        return loss

    @abstractmethod
    def _state_names(self, group: dict[str, Any]) -> list[str]:
        """What a step keeps of every parameter of the group."""

    @abstractmethod
    def _update(self, batch: _Batch, clip: Tensor | None) -> None:
        """Parameters and state after a step with gradients that are scaled by `clip`."""

    def _options(self, group: dict[str, Any], index: int) -> dict[str, Any]:
        """Of the step; all that may be refused there is refused here, before anything changes."""
        where = type(self).__name__
        options = {}
        for name in self._NOT_NEGATIVE:
            options[name] = float(group[name])
            if not (math.isfinite(options[name]) and options[name] >= 0):
                raise ValueError(
                    f"{where}: {name} of group {index} must be finite and >= 0, got {group[name]}"
                )
        return {**options, "maximize": group["maximize"]}

    def _batches(self) -> list[_Batch]:
        batches: list[_Batch] = []
        for group_index, group in enumerate(self.param_groups):
            of_kind: dict[tuple[torch.device, torch.dtype], _Batch] = {}
            options = self._options(group, group_index)
            for p in group["params"]:
                grad = p.grad
                if grad is None:
                    continue
                kind = (p.device, p.dtype)
                batch = of_kind.get(kind)
                if batch is None:
                    checks.check_options(group, group_index, type(self).__name__)
                    batch = of_kind[kind] = _Batch([], [], [], options, group)
                batch.params.append(p)
                batch.grads.append(grad)
                batch.masks.append(self.reserved.get(p))
            batches += of_kind.values()
        return batches

    def _check(self) -> None:
        """Raises for a gradient, a mask or a state that does not fit its parameter."""
        where = type(self).__name__
        for group_index, group in enumerate(self.param_groups):
            names = self._state_names(group)
            for index, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                checks.check_parameter(p, group_index, index, where)
                checks.check_gradient(p.grad, p, group_index, index, where)
                mask = self.reserved.get(p)
                if mask is not None:
                    checks.check_mask(mask, p, group_index, index, where)
                checks.check_state(self.state.get(p, {}), names, p, group_index, index, where)

    def _clips(self, batches: list[_Batch]) -> list[Tensor | None]:
        """The factor of the gradients of each batch, on its device."""
        if self.clip_norm is None or not batches:
            return [None] * len(batches)
        norms = [ops.masked_grad_norm(batch.grads, batch.masks) for batch in batches]
        total = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))
        clip = (self.clip_norm / (total + 1e-6)).clamp(max=1.0)
        return [clip.to(norm.device) for norm in norms]

    def _states(
        self, params: list[Tensor], names: list[str]
    ) -> tuple[list[dict[str, Tensor]], list[bool]]:
        """Of each parameter, with zeros for what it has not yet; and which have such."""
        states, are_new = [], []
        for p in params:
            kept = self.state.get(p, {})
            missing = [name for name in names if kept.get(name) is None]
            if missing:
                kept = {**kept, **{name: _first_state(p, name) for name in missing}}
            states.append(kept)
            are_new.append(bool(missing))
        return states, are_new

    def _keep(
        self, params: list[Tensor], states: list[dict[str, Tensor]], are_new: list[bool]
    ) -> None:
        for p, state, is_new in zip(params, states, are_new, strict=True):
            if is_new:
                self.state[p] = state


def _first_state(parameter: Tensor, name: str) -> Tensor:
    return torch.tensor(0.0, device="cpu") if name == "step" else torch.zeros_like(parameter)


class MaskedSGD(_Masked, torch.optim.SGD):
    """``torch.optim.SGD`` that never changes a reserved entry, whatever its momentum or decay.

    A step reads parameter, gradient, momentum and mask once, all parameters of a group together
    (:func:`clfast.ops.masked_sgd_step_`). Where an entry is reserved, it stays as it is, bit for
    bit, and its momentum sees a gradient of 0, whatever the gradient holds, so that it fades; all
    other entries move as ``torch.optim.SGD`` moves them. State dicts are torch's: one loads into
    the other. Schedulers, closures, hooks and ``GradScaler`` work as with torch's.

    Args:
        params: parameters or groups of them, float32 or float64.
        lr, momentum, dampening, weight_decay, nesterov, maximize: as of ``torch.optim.SGD``, and in
            groups.
        reserved: masks of some of the parameters: bool of the parameter's shape, True where it is
            reserved, or packed by ``pack_mask``, on its device. The masks are live: what is added
            to one in place counts from the next step. So is the dict :attr:`reserved`, which may
            get new masks later; ``deepcopy`` and ``pickle`` copy it with the parameters, and a
            state dict has none of it.
        clip_norm: finite and > 0; gradients of all groups together are scaled down where the 2-norm
            of what is not reserved is larger, as by ``torch.nn.utils.clip_grad_norm_``. The
            gradients themselves stay.

    Raises:
        TypeError, ValueError: a mask of no parameter of the groups, or of wrong shape, dtype or
            device; other parameters than float32 and float64; an option of torch's that is not
            offered (``foreach``, ``fused``, ``differentiable``, ``capturable``) or out of range.

    Example:
        >>> optimizer = MaskedSGD(net.parameters(), lr=0.1, momentum=0.9, reserved={weight: mask})
    """

    _NOT_NEGATIVE = ("lr", "weight_decay", "momentum")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        reserved: Mapping[Tensor, Tensor] | None = None,
        clip_norm: float | None = None,
    ) -> None:
        _arguments.real(lr, "lr", type(self).__name__, least=0)
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, maximize=maximize)
        self._reserve(reserved, clip_norm)

    def _options(self, group: dict[str, Any], index: int) -> dict[str, Any]:
        options = super()._options(group, index)
        dampening, nesterov = float(group["dampening"]), group["nesterov"]
        if not math.isfinite(dampening) or (nesterov and (dampening or not options["momentum"])):
            raise ValueError(
                f"MaskedSGD: dampening of group {index} must be finite, and with nesterov 0 beside "
                f"momentum > 0, got dampening {dampening} and momentum {options['momentum']}"
            )
        return {**options, "dampening": dampening, "nesterov": nesterov}

    def _state_names(self, group: dict[str, Any]) -> list[str]:
        return ["momentum_buffer"] if group["momentum"] != 0 else []

    def _update(self, batch: _Batch, clip: Tensor | None) -> None:
        options = batch.options
        if options["momentum"] == 0:
            ops.masked_sgd_step_(batch.params, batch.grads, [], batch.masks, **options, clip=clip)
            return
        states, are_new = self._states(batch.params, self._state_names(batch.group))
        if len(set(are_new)) > 1:  # two calls, see step()
            self._check()
        for first in set(are_new):  # torch dampens no first step
            of = [i for i, new in enumerate(are_new) if new is first]
            ops.masked_sgd_step_(
                [batch.params[i] for i in of],
                [batch.grads[i] for i in of],
                [states[i]["momentum_buffer"] for i in of],
                [batch.masks[i] for i in of],
                **{**options, "dampening": 0.0 if first else options["dampening"]},
                clip=clip,
            )
        self._keep(batch.params, states, are_new)


class MaskedAdam(_Masked, torch.optim.Adam):
    """``torch.optim.Adam`` that never changes a reserved entry, whatever its old moments or decay.

    DGM and HAT zero the gradients of reserved weights, which keeps them only with an optimiser made
    new for each task: moments from before go on moving a weight whose gradient is 0. Here a step
    reads parameter, gradient, moments and mask once, all parameters of a group together
    (:func:`clfast.ops.masked_adam_step_`). Where an entry is reserved, it stays as it is, bit for
    bit, and its moments see a gradient of 0, whatever the gradient holds, so that they fade; all
    other entries move as ``torch.optim.Adam`` moves them. State dicts are torch's: one loads into
    the other, AdamW's too. Schedulers, closures, hooks and ``GradScaler`` work as with torch's.

    Args:
        params: parameters or groups of them, float32 or float64.
        lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay: as of
            ``torch.optim.Adam``, and in groups.
        reserved: masks of some of the parameters; see :class:`MaskedSGD`.
        clip_norm: see :class:`MaskedSGD`.

    Raises:
        TypeError, ValueError: as of :class:`MaskedSGD`.

    Example:
        >>> optimizer = MaskedAdam(net.parameters(), lr=1e-3, reserved={weight: pack_mask(mask)})
    """

    _NOT_NEGATIVE = ("lr", "weight_decay", "eps")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        reserved: Mapping[Tensor, Tensor] | None = None,
        clip_norm: float | None = None,
    ) -> None:
        _arguments.real(lr, "lr", type(self).__name__, least=0)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        self._reserve(reserved, clip_norm)

    def _options(self, group: dict[str, Any], index: int) -> dict[str, Any]:
        options = super()._options(group, index)
        if any(p.is_cuda for p in group["params"][:1]) and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "MaskedAdam: a step must not be captured into a CUDA graph: its number is part of "
                "the formula, and is counted on the host"
            )
        betas = tuple(float(beta) for beta in group["betas"])
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"MaskedAdam: betas of group {index} must be in [0, 1), got {betas}")
        decoupled = group["decoupled_weight_decay"]
        return {**options, "betas": betas, "decoupled_weight_decay": decoupled}

    def _state_names(self, group: dict[str, Any]) -> list[str]:
        largest = ["max_exp_avg_sq"] if group["amsgrad"] else []
        return ["step", "exp_avg", "exp_avg_sq", *largest]

    def _update(self, batch: _Batch, clip: Tensor | None) -> None:
        names = self._state_names(batch.group)
        states, are_new = self._states(batch.params, names)
        lists = [[state[name] for state in states] for name in names[1:]]
        steps = [state["step"] for state in states]
        counts = checks.counts(steps)
        ops.masked_adam_step_(
            *(batch.params, batch.grads, lists[0], lists[1], lists[2] if len(lists) > 2 else []),
            batch.masks,
            steps=[count + 1 for count in counts],
            **batch.options,
            clip=clip,
        )
        # One number would be made a tensor again for each.
        torch._foreach_add_(steps, [_ONE] * len(steps))
        self._keep(batch.params, states, are_new)
