"""Fake kernels of :mod:`clfast.ops.consolidation`: all checks, then outputs without values.

The reference backend checks by them too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._backend import uses_reference
from . import _check
from ._masks_fakes import check_not_empty, check_same_length, check_same_shape, like


def _check_lists(op: str, **lists: list[Tensor]) -> None:
    """As the first one: as many tensors, of its shapes, its precision and its device."""
    (name, first), *others = lists.items()
    for other, tensors in others:
        check_same_length(op, other, tensors, name, len(first))
    check_not_empty(op, name, first)
    for i, tensor in enumerate(first):
        _check.same_precision(op, f"{name}[{i}]", tensor, f"{name}[0]", first[0])
        _check.same_device(op, f"{name}[{i}]", tensor, f"{name}[0]", first[0])
        for other, tensors in others:
            check_same_shape(op, f"{other}[{i}]", tensors[i], f"{name}[{i}]", tensor)
            _check.same_precision(op, f"{other}[{i}]", tensors[i], f"{name}[0]", first[0])
            _check.same_device(op, f"{other}[{i}]", tensors[i], f"{name}[0]", first[0])


def _check_not_expanded(op: str, name: str, tensors: list[Tensor]) -> None:
    for i, tensor in enumerate(tensors):
        _check.not_expanded(op, f"{name}[{i}]", tensor)


def _check_no_nan(op: str, **lists: list[Tensor]) -> None:
    for i in range(len(next(iter(lists.values())))):
        _check.no_nan(op, **{f"{name}[{i}]": tensors[i] for name, tensors in lists.items()})


def _check_no_infinity(op: str, names: str, *tensors: Tensor) -> None:
    finite = all(bool(t.isfinite().all()) for t in tensors if _check.values_known(t))
    _check.require(finite, f"{op}: {names} hold infinities, or their products overflow")


@torch.library.register_fake("clfast::project_gradients_")
def project_gradients_(grads: list[Tensor], reference: list[Tensor]) -> None:
    op = "project_gradients_"
    _check_lists(op, grads=grads, reference=reference)
    _check_not_expanded(op, "grads", grads)
    if uses_reference():
        _check_no_nan(op, grads=grads, reference=reference)
        _check_no_infinity(op, "grads or reference", *grads, *reference)


@torch.library.register_fake("clfast::gem_project")
def gem_project(grad: Tensor, memory_grads: Tensor, margin: float) -> Tensor:
    op = "gem_project"
    _check.dim(op, "grad", grad, 1)
    _check.floating(op, "grad", grad)
    _check.dim(op, "memory_grads", memory_grads, 2)
    _check.shape(op, "memory_grads", memory_grads, (memory_grads.shape[0], grad.shape[0]))
    _check.same_precision(op, "memory_grads", memory_grads, "grad", grad)
    _check.same_device(op, "memory_grads", memory_grads, "grad", grad)
    _check.finite(op, "margin", margin, margin >= 0, "finite and >= 0")
    if uses_reference() and len(memory_grads) > 0:
        _check.no_nan(op, grad=grad, memory_grads=memory_grads)
        _check_no_infinity(op, "grad or memory_grads", grad, memory_grads)
    return grad.new_empty(grad.shape, dtype=_check.compute_dtype(grad))


@torch.library.register_fake("clfast::quadratic_penalty")
def quadratic_penalty(
    params: list[Tensor], anchors: list[Tensor], importances: list[Tensor], with_gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    op = "quadratic_penalty"
    lists = {"params": params, "anchors": anchors, "importances": importances}
    _check_lists(op, **lists)
    if uses_reference():
        _check_no_nan(op, **lists)
    value = params[0].new_empty((), dtype=_check.compute_dtype(params[0]))
    return value, like(params) if with_gradient else []


@torch.library.register_fake("clfast::add_penalty_gradients_")
def add_penalty_gradients_(
    grads: list[Tensor],
    params: list[Tensor],
    anchors: list[Tensor],
    importances: list[Tensor],
    strength: float,
) -> None:
    op = "add_penalty_gradients_"
    _check_lists(op, grads=grads, params=params, anchors=anchors, importances=importances)
    _check_not_expanded(op, "grads", grads)
    dtype = _check.compute_dtype(grads[0])
    _check.finite(op, "strength", strength, strength >= 0, "finite and >= 0", dtype)


@torch.library.register_fake("clfast::path_integral_")
def path_integral_(
    omegas: list[Tensor],
    grads: list[Tensor],
    deltas: list[Tensor],
    before: list[Tensor] | None = None,
) -> None:
    op = "path_integral_"
    _check_lists(op, omegas=omegas, grads=grads, deltas=deltas)
    if before is not None:
        _check_lists(op, omegas=omegas, before=before)
    _check_not_expanded(op, "omegas", omegas)


def rwalk_importance_(
    scores: list[Tensor],
    path_integrals: list[Tensor],
    fishers: list[Tensor],
    deltas: list[Tensor],
    damping: float,
) -> None:
    """The checks alone: there is no kernel."""
    op = "rwalk_importance_"
    lists = {"path_integrals": path_integrals, "fishers": fishers, "deltas": deltas}
    _check_lists(op, scores=scores, **lists)
    _check_not_expanded(op, "scores", scores)
    info = torch.finfo(_check.compute_dtype(scores[0]))
    # Here, where torch.compile traces, which follows neither _check.finite nor a message that is
    # made of a number that changes from call to call.
    if not info.smallest_normal * info.eps <= damping <= info.max:
        raise RuntimeError(f"clfast::{op}: damping must be finite and > 0, got {damping:g}")
    _check_no_nan(op, scores=scores, **lists)
    for i, fisher in enumerate(fishers):
        _check.not_negative(op, f"fishers[{i}]", fisher, "negative somewhere")
