"""Consolidation: gradients that do not undo what earlier tasks taught.

* EWC: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (PNAS 2017).
* SI: Zenke et al., "Continual Learning Through Synaptic Intelligence" (ICML 2017).
* GEM: Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning" (NeurIPS 2017).
* A-GEM: Chaudhry et al., "Efficient Lifelong Learning with A-GEM" (ICLR 2019).

A list stands for the one vector of all its entries: one tensor a parameter, in any order that the
lists of a call share. It may hold tensors of any shapes, empty ones included, on one device, in
float16, bfloat16 and float32 side by side or all in float64. Lists of ops that change one of them
in place are taken as they are, whether or not their tensors require grad.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference as in_torch
from .._backend import uses_reference
from . import _call, _check, _derivative
from . import _consolidation_fakes as fakes
from .importance import mas_importance, per_sample_fisher, rwalk_importance_
from .interference import mir_scores

__all__ = [
    "add_penalty_gradients_",
    "gem_project",
    "mas_importance",
    "mir_scores",
    "path_integral_",
    "per_sample_fisher",
    "project_gradients_",
    "quadratic_penalty",
    "rwalk_importance_",
]


def quadratic_penalty(
    params: Sequence[Tensor], anchors: Sequence[Tensor], importances: Sequence[Tensor]
) -> Tensor:
    """How far parameters have moved from where they mattered: sum F (theta - theta*)^2.

    EWC's Eq. 3 is lambda / 2 times this, with F the Fisher information and theta* the parameters at
    the end of a task; SI, MAS and RWalk differ in F alone. Value and gradient come in one pass; the
    sum is formed in float64.

    Tasks 1 to T need no more than two lists. With F = sum_t F_t and theta* = sum_t F_t theta*_t / F
    (where F = 0 any finite number, say the parameter as it is), the penalties of all tasks together
    are this one up to a constant, and have its gradient.

    Args:
        params: list of tensors, theta.
        anchors: list of tensors of the same shapes, theta*.
        importances: list of tensors of the same shapes, F; signs are not looked at.

    Returns:
        A scalar, differentiable in ``params`` twice; 0 of no tensors.

    Raises:
        RuntimeError: wrong shape, dtype or device; an anchor or an importance that requires grad in
            grad mode. On CPU tensors, NaN in the value, which names the tensor that holds it; on
            CUDA, where looking would synchronise, it travels on.
    """
    op = "quadratic_penalty"
    _check.lists(op, params=params, anchors=anchors, importances=importances)
    _call.refuse_grad_of(op, anchors=anchors, importances=importances)
    lists = (params, anchors, importances)
    if not any(lists):
        return torch.zeros(())  # no tensor that would name a device
    if uses_reference() or _call.in_transform():
        _call.check_for_reference(op, fakes.quadratic_penalty, *lists, False, differentiable=True)
        value = in_torch.consolidation.quadratic_penalty(*lists)
        if uses_reference():
            _check.no_nan_result(op, "params, anchors or importances hold", value)
        return value
    return _derivative.value_of_lists(op, lists, slopes=_penalty_slopes)


def _penalty_slopes(
    params: Sequence[Tensor], anchors: Sequence[Tensor], importances: Sequence[Tensor]
) -> list[Tensor]:
    dtype = _check.compute_dtype(params[0])
    lists = zip(params, anchors, importances, strict=True)
    return [2 * f.to(dtype) * (p.to(dtype) - a.to(dtype)) for p, a, f in lists]


def add_penalty_gradients_(
    grads: Sequence[Tensor],
    params: Sequence[Tensor],
    anchors: Sequence[Tensor],
    importances: Sequence[Tensor],
    strength: float,
) -> None:
    """Adds the gradient of strength :func:`quadratic_penalty`, in place and without a graph.

    grads += 2 strength F (theta - theta*), in one pass over all tensors: what adding the penalty to
    a loss would do to ``p.grad``. EWC's Eq. 3 has strength = lambda / 2. The tensors of ``grads``
    must not overlap each other or those of other lists.

    Every entry has a gradient of its own, so NaN and infinities travel on where they stand, as
    through a layer; nothing is looked at, which would take a pass of its own before the first entry
    is changed. The penalty's value is :func:`quadratic_penalty` under ``torch.no_grad()``.

    Args:
        grads: list of tensors, changed: ``p.grad`` of each parameter.
        params, anchors, importances: lists of tensors of the same shapes, as of
            :func:`quadratic_penalty`.
        strength: finite and >= 0; 0 leaves ``grads`` as they are, bit for bit.

    Raises:
        RuntimeError: wrong shape, dtype, device or value. A tensor that a transform of torch.func
            differentiates.
    """
    op = "add_penalty_gradients_"
    strength = _check.number(op, "strength", strength)
    _check.lists(op, grads=grads, params=params, anchors=anchors, importances=importances)
    if not any((grads, params, anchors, importances)):
        return
    arguments = (grads, params, anchors, importances, strength)
    if uses_reference():
        _call.check_for_reference(op, fakes.add_penalty_gradients_, *arguments)
        in_torch.consolidation.add_penalty_gradients_(*arguments)
        return
    _call.compiled(op, *arguments)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(grads)


def path_integral_(
    omegas: Sequence[Tensor],
    grads: Sequence[Tensor],
    deltas: Sequence[Tensor],
    *,
    before: Sequence[Tensor] | None = None,
) -> None:
    """What a step of each parameter has brought the loss down by, added in place: SI, Eq. 3.

    omega -= grad * delta, in one pass over all tensors: the sum over the steps of a task
    approximates the path integral of the gradient. RWalk's scores begin with the same sum. The
    tensors of ``omegas`` must not overlap each other or those of other lists.

    An entry that has not moved adds nothing, whatever its gradient: a step that ``GradScaler`` has
    skipped for infinities leaves every bit. Elsewhere NaN and infinities travel on where they
    stand, as in :func:`add_penalty_gradients_`.

    Args:
        omegas: list of tensors, changed.
        grads: list of tensors of the same shapes, the gradients at the beginning of the step.
        deltas: list of tensors of the same shapes, the parameters after the step less before it;
            with ``before``, the parameters after the step.
        before: list of tensors of the same shapes, the parameters before the step, which are
            subtracted in the same pass.

    Raises:
        RuntimeError: wrong shape, dtype or device. A tensor that a transform of torch.func
            differentiates.
    """
    op = "path_integral_"
    _check.lists(op, omegas=omegas, grads=grads, deltas=deltas)
    if before is not None:
        _check.lists(op, before=before)
    if not any((omegas, grads, deltas, before)):
        return
    if uses_reference():
        _call.check_for_reference(op, fakes.path_integral_, omegas, grads, deltas, before)
        in_torch.consolidation.path_integral_(omegas, grads, deltas, before=before)
        return
    _call.compiled(op, omegas, grads, deltas, before)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(omegas)


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
