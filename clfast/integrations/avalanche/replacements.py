"""What `accelerate_avalanche` puts in place of parts of Avalanche 0.6: functions of the same
arguments and results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...ops import gem_project, herding, quadratic_penalty


class _Penalty(NamedTuple):
    """sum_t F_t (theta - theta_t)^2 = F (theta - anchor)^2 + constant, with F = sum_t F_t and
    anchor = sum_t F_t theta_t / F."""

    key: tuple[Any, ...]
    saved: list[Any]  # the tables it was formed of; to hold them keeps their identity
    names: list[str]
    anchors: list[Tensor]
    importances: list[Tensor]
    constant: Tensor


_penalties: WeakKeyDictionary[Any, _Penalty] = WeakKeyDictionary()


def ewc_before_backward(plugin: Any, strategy: Any, **kwargs: Any) -> None:
    """Of EWCPlugin: adds the penalty of all experiences to the loss."""
    del kwargs
    ended = strategy.clock.train_exp_counter
    if ended == 0:
        return
    parameters = dict(strategy.model.named_parameters())
    held = _penalties.get(plugin)
    key = (ended, plugin.mode, *((n, p.shape, p.dtype, p.device) for n, p in parameters.items()))
    terms = range(ended) if plugin.mode == "separate" else [ended - 1]
    # The same plugin in another strategy has other tables at the same counts.
    saved = [table.get(t) for t in terms for table in (plugin.saved_params, plugin.importances)]
    if held is None or held.key != key or not all(map(is_, held.saved, saved)):
        held = _penalties[plugin] = _collapsed(plugin, parameters, terms, key, saved)
    values = [parameters[name] for name in held.names]
    if values:
        penalty = quadratic_penalty(values, held.anchors, held.importances) + held.constant
        strategy.loss += plugin.ewc_lambda * penalty


@torch.no_grad()
def _collapsed(
    plugin: Any,
    parameters: dict[str, nn.Parameter],
    terms: Sequence[int],
    key: tuple[Any, ...],
    saved: list[Any],
) -> _Penalty:
    names, anchors, importances = [], [], []
    constant = torch.zeros((), dtype=torch.float64)
    for name, parameter in parameters.items():
        # A parameter that is new since then does not count.
        held = [t for t in terms if name in plugin.saved_params.get(t, {})]
        if not held:
            continue
        shape = parameter.shape
        f = [plugin.importances[t][name].expand(shape).double() for t in held]
        theta = [plugin.saved_params[t][name].expand(shape).double() for t in held]
        total = torch.stack(f).sum(0)
        pairs = list(zip(f, theta, strict=True))
        mean = torch.stack([a * b for a, b in pairs]).sum(0) / total
        anchor = torch.where(total > 0, mean, theta[-1])
        constant += sum((a * (b - anchor) ** 2).sum() for a, b in pairs).to(constant.device)
        names.append(name)
        anchors.append(anchor.to(parameter.dtype))
        importances.append(total.to(parameter.dtype))
    like = next(iter(parameters.values()))
    return _Penalty(key, saved, names, anchors, importances, constant.to(like))


def sorted_by_herding(selection: Any, features: Tensor) -> list[int]:
    """Of HerdingSelectionStrategy: all rows in the order of herding."""
    del selection
    one_class = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    (order,) = herding(features.detach(), one_class, len(features))
    rows: list[int] = order.tolist()
    return rows


class VirtualStep:
    """A model after a step of SGD that it has not taken, to be called as the model is.

    p - lr g in two roundings, as Avalanche forms it; buffers are copies, so that what a layer in
    training mode writes is dropped with them.
    """

    def __init__(self, model: nn.Module, grads: Sequence[Tensor | None], lr: float) -> None:
        self._model = model
        moved = [
            (name, p.detach(), g)
            for (name, p), g in zip(model.named_parameters(), grads, strict=True)
            if g is not None
        ]
        names, values, slopes = zip(*moved, strict=True) if moved else ((), (), ())
        with torch.no_grad():
            steps = torch._foreach_mul(slopes, lr) if moved else ()
            after = torch._foreach_sub(values, steps) if moved else ()
        self._parameters = dict(zip(names, after, strict=True))

    def __call__(self, x: Tensor) -> Any:
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        return functional_call(self._model, {**self._parameters, **buffers}, (x,))


def virtual_step(was: Callable[..., Any], multi_task: type[nn.Module]) -> Callable[..., Any]:
    """In place of MIRPlugin's ``update_temp``, which ``was`` is."""

    def update_temp(model: nn.Module, grad: Sequence[Tensor | None], lr: float) -> Any:
        if isinstance(model, multi_task):
            return was(model, grad, lr)
        return VirtualStep(model, grad, lr)

    return update_temp


def gem_solution(plugin: Any, g: Tensor) -> Tensor:
    """Of GEMPlugin: the gradient g [P] that agrees with the rows of ``plugin.G`` [T, P]."""
    return gem_project(g, plugin.G, plugin.memory_strength).float()
