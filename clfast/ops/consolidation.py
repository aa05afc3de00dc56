"""Consolidation: gradients that do not undo what earlier tasks taught.

* GEM: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning" (NeurIPS 2017).
* A-GEM: Chaudhry et al., "Efficient Lifelong Learning with A-GEM" (ICLR 2019).

A list of gradients stands for the one vector of all their entries: one tensor a parameter, in any
order that the lists of a call share. It may hold tensors of any shapes, empty ones included, on one
device, in float16, bfloat16 and float32 side by side or all in float64. Lists that are changed in
place are taken as they are, whether or not their tensors require grad.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference as in_torch
from .._backend import uses_reference
from . import _call, _check
from . import _consolidation_fakes as fakes
from .interference import mir_scores

__all__ = ["gem_project", "mir_scores", "project_gradients_"]


def project_gradients_(grads: Sequence[Tensor], reference: Sequence[Tensor]) -> None:
    """Takes from gradients what would raise the loss on a memory, in place (A-GEM, Eq. 11).

    With g and r all entries of ``grads`` and of ``reference``: where <g, r> < 0,
    g -= <g, r> / |r|^2 r, so that <g, r> = 0 up to rounding; otherwise, and where r = 0, g stays
    as it is, bit for bit. Sums are formed in float64. The tensors of ``grads`` must not overlap.

    Args:
        grads: list of tensors, changed: the gradients of the current batch, say ``p.grad`` of each
            parameter.
        reference: list of tensors of the same shapes: the gradients of a batch from the memory.

    Raises:
        RuntimeError: wrong shape, dtype or device. NaN, infinities and overflow in either list on
            CPU tensors; on CUDA, where looking would synchronise, gradients stay as they are when
            <g, r> is NaN. A tensor that a transform of torch.func differentiates.
    """
    op = "project_gradients_"
    _check.lists(op, grads=grads, reference=reference)
    if not grads and not reference:
        return  # no tensor that would name a device
    if uses_reference():
        _call.check_for_reference(op, fakes.project_gradients_, grads, reference)
        in_torch.consolidation.project_gradients_(grads, reference)
        return
    _call.compiled(op, grads, reference)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(grads)


def gem_project(grad: Tensor, memory_grads: Tensor, margin: float) -> Tensor:
    """The gradient that agrees with those of all earlier tasks (GEM, Eq. 11).

    With g the gradient and M the rows of ``memory_grads``: g as it is where <g, M_k> >= 0 for all
    k, otherwise g + M^T v, with v the solution of

        min_v  v^T P v / 2 + (M g)^T v   subject to  v >= margin,   P = M M^T + 0.001 I.

    Constants and the bound are those of the authors' code (``memory_strength`` is the margin); the
    paper has neither. Inner products are formed and the programme is solved in float64: the ridge
    is far below what float32 leaves of M M^T. The solver is an active-set method, exact up to
    rounding, for any T; it takes about T^3 operations, on CUDA by one thread, which suits the tens
    of tasks that GEM is run with.

    Args:
        grad: [P].
        memory_grads: [T, P], a row of gradients for each earlier task.
        margin: finite and >= 0; above 0 it pulls towards the memories.

    Returns:
        [P], never ``grad`` itself.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; an input that requires grad in grad mode.
            NaN, infinities and overflow in either input on CPU tensors; on CUDA, where looking
            would synchronise, they travel on.
    """
    op = "gem_project"
    margin = _check.number(op, "margin", margin)
    if uses_reference():
        _call.check_for_reference(op, fakes.gem_project, grad, memory_grads, margin)
        return in_torch.consolidation.gem_project(grad, memory_grads, margin)
    projected: Tensor = _call.compiled(op, grad, memory_grads, margin)
    return projected
