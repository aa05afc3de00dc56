"""Fake kernels of :mod:`clfast.ops.consolidation`: all checks, then outputs without values.

The reference backend checks by them too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._backend import uses_reference
from . import _check


def _check_lists(op: str, grads: list[Tensor], reference: list[Tensor]) -> None:
    _check.require(
        len(grads) == len(reference),
        f"{op}: reference must hold {len(grads)} tensors, as grads does, got {len(reference)}",
    )
    first = grads[0]
    for i, (g, r) in enumerate(zip(grads, reference, strict=True)):
        name, other = f"grads[{i}]", f"reference[{i}]"
        _check.same_precision(op, name, g, "grads[0]", first)
        _check.same_device(op, name, g, "grads[0]", first)
        _check.not_expanded(op, name, g)
        _check.require(
            g.shape == r.shape,
            f"{op}: {other} must have shape {list(g.shape)}, as {name} has, got {list(r.shape)}",
        )
        _check.same_precision(op, other, r, "grads[0]", first)
        _check.same_device(op, other, r, "grads[0]", first)
        if uses_reference():
            _check.no_nan(op, **{name: g, other: r})
    if uses_reference():
        _check_no_infinity(op, "grads or reference", *grads, *reference)


def _check_no_infinity(op: str, names: str, *tensors: Tensor) -> None:
    finite = all(bool(t.isfinite().all()) for t in tensors if _check.values_known(t))
    _check.require(finite, f"{op}: {names} hold infinities, or their products overflow")


@torch.library.register_fake("clfast::project_gradients_")
def project_gradients_(grads: list[Tensor], reference: list[Tensor]) -> None:
    _check_lists("project_gradients_", grads, reference)


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
