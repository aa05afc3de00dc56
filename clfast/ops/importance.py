"""How much parameters mattered to a task: plain PyTorch around runs of the network, the same under
either backend.

* EWC: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (PNAS 2017); the
  ways to its Fisher information: van de Ven, "On the Computation of the Fisher Information in
  Continual Learning" (ICLR blog posts 2025).
* MAS: Aljundi et al., "Memory Aware Synapses: Learning what (not) to forget" (ECCV 2018).
* RWalk: Chaudhry et al., "Riemannian Walk for Incremental Learning" (ECCV 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _arguments
from .. import reference as in_torch
from .._wrapped import unwrapped
from . import _check
from . import _consolidation_fakes as fakes
from ._per_sample import per_sample

__all__ = ["mas_importance", "per_sample_fisher", "rwalk_importance_"]

Targets: TypeAlias = "Tensor | Literal['sample', 'exact']"


def per_sample_fisher(
    model: nn.Module,
    inputs: Tensor,
    targets: Targets,
    *,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information: mean over samples of (d log p(y | x) / d theta)^2.

    Each sample's gradient is squared on its own. (The square of a batch's mean gradient, which many
    implementations take, is another number.) The network runs once on all samples, in eval mode.
    For `Linear` the sum over samples is one product of squares, (d^2)^T x^2; for `Conv2d` gradients
    of samples are products with unfolded patches; batch normalisation uses its running statistics,
    which are constants. Parameters of other layers, those that are shared or used several times,
    and all where samples of a batch influence each other, as in batch normalisation without running
    statistics, come from ``torch.func.vmap``, or from a loop over batches of one where that fails.

    The result is that of such a loop. Whether samples influence each other is looked up for the
    first and the last: a model in which only others are influenced, or by less than sqrt(eps) of
    the largest output (a hundredth in float32 on CUDA), is taken for one in which none is.

    Hooks on parameters, which change their gradients in a loop, are not called. Threads take turns;
    while the call lasts none may run the model for another purpose.

    Nothing of the model changes: no parameter, gradient, buffer, mode. The graph of the whole batch
    is held, so pass what fits and average over batches, weighted by their sizes.

    Args:
        model: returns logits [N, C] for ``inputs``. DistributedDataParallel, DataParallel and
            ``torch.compile`` are looked through: it is the network inside that runs.
        inputs: [N, ...]. Of none the information is 0.
        targets: y. [N] int64 labels: the empirical Fisher information. "sample": one label a
            sample, drawn from the model's p(y | x). "exact": the mean over y of all C classes,
            weighted by p(y | x), which takes C backward passes.
        generator: on the CPU, for "sample"; torch's own where there is none.

    Returns:
        By the name of each parameter that requires grad (``named_parameters()`` of the network), a
        tensor of its shape, float32 of parameters in 16 bits; 0 where a parameter took no part.

    Raises:
        TypeError, ValueError: an argument of a wrong kind; unknown ``targets``.
        RuntimeError: wrong shape, dtype, device or value; an input that requires grad in grad mode;
            a model that fails. Labels outside the classes and NaN in the logits are looked for on
            CPU tensors.
    """
    op = "per_sample_fisher"
    _check_inputs(op, model, inputs)
    if isinstance(targets, str):
        _arguments.one_of(targets, ("sample", "exact"), "targets", f"clfast::{op}")
    else:
        _check_labels(op, targets, inputs)
    if generator is not None:
        _arguments.cpu_generator(generator, f"clfast::{op}")
    if not len(inputs):
        return _nothing(model)
    with per_sample(op, model, inputs) as run:
        _check.dim(op, "logits of the model", run.outputs, 2)
        _check.no_nan(op, **{"what the model returns": run.outputs})
        log_p = F.log_softmax(run.outputs.to(_check.compute_dtype(run.outputs)), 1)
        ones = torch.ones_like(log_p[:, 0])
        if isinstance(targets, Tensor):
            _check.in_range(op, "targets", targets, log_p.shape[1], "the classes")
            terms = [(targets.clone(), ones)]
        elif targets == "sample":
            drawn = torch.multinomial(log_p.exp().cpu(), 1, generator=generator)
            terms = [(drawn[:, 0].to(log_p.device), ones)]
        else:
            # (sqrt(p) d log p)^2 = p (d log p)^2
            roots = (0.5 * log_p).exp()
            terms = [(torch.full_like(ones, c).long(), roots[:, c]) for c in range(roots.shape[1])]
        return run.mean(_log_likelihood, terms, torch.square)


def _log_likelihood(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    log_p = F.log_softmax(logits.to(weights.dtype), 1)
    return weights * log_p.gather(1, labels[:, None])[:, 0]


def mas_importance(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """How much the output hangs on each parameter: mean over samples of |d ||f(x)||^2 / d theta|.

    MAS, Eq. 3, with the gradient of the squared norm of section 4.1; no labels are needed. Absolute
    values are of the gradients of single samples, as in the paper. How it is computed, and what
    stays as it is, is as of :func:`per_sample_fisher`.

    Args:
        model: returns f(x) [N, ...] for ``inputs``.
        inputs: [N, ...]. Of none the importance is 0.

    Returns:
        As of :func:`per_sample_fisher`.

    Raises:
        TypeError, RuntimeError: as of :func:`per_sample_fisher`.
    """
    op = "mas_importance"
    _check_inputs(op, model, inputs)
    if not len(inputs):
        return _nothing(model)
    with per_sample(op, model, inputs) as run:
        _check.no_nan(op, **{"what the model returns": run.outputs})
        return run.mean(_sq_norm, [()], torch.abs)


def _sq_norm(outputs: Tensor) -> Tensor:
    return outputs.to(_check.compute_dtype(outputs)).square().flatten(1).sum(1)


def rwalk_importance_(
    scores: Sequence[Tensor],
    path_integrals: Sequence[Tensor],
    fishers: Sequence[Tensor],
    deltas: Sequence[Tensor],
    *,
    damping: float = 0.1,
) -> None:
    """RWalk's scores at the end of a task, in place: scores <- (scores + s) / 2, with

        s = max(0, w / (F delta^2 + damping)),

    what the loss fell by along a parameter's path, over how far that moved the model's
    distribution. The mean with the scores before keeps them from growing with the number of tasks
    (section 4.2); those before the first task are 0. F delta^2 without the factor 1/2 of the
    paper's distance, and ``damping``, are FACIL's.

    Args:
        scores: list of tensors, changed.
        path_integrals: w, list of tensors of the same shapes: the sum of -gradient x step over the
            steps of the task, as of :func:`~clfast.ops.path_integral_`.
        fishers: F >= 0, list of tensors of the same shapes.
        deltas: list of tensors of the same shapes: the parameters now less those at the start of
            the task.
        damping: finite and > 0.

    Raises:
        TypeError: what is no list of tensors, or no number.
        RuntimeError: wrong shape, dtype, device or value. NaN, and F < 0, are looked for on CPU
            tensors.
    """
    op = "rwalk_importance_"
    damping = _check.number(op, "damping", damping)
    lists = {"path_integrals": path_integrals, "fishers": fishers, "deltas": deltas}
    _check.lists_of_tensors(op, scores=scores, **lists)
    if not scores and not any(lists.values()):
        return
    fakes.rwalk_importance_(
        list(scores), list(path_integrals), list(fishers), list(deltas), damping
    )
    in_torch.consolidation.rwalk_importance_(
        scores, path_integrals, fishers, deltas, damping=damping
    )


def _check_inputs(op: str, model: object, inputs: Tensor) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"clfast::{op}: model must be a nn.Module, got {type(model).__name__}")
    _check.tensors(op, inputs=inputs)
    _check.require(inputs.dim() > 0, f"{op}: inputs must have shape [N, ...], got a scalar")
    _check.require(
        not (torch.is_grad_enabled() and inputs.requires_grad),
        f"{op}: inputs requires grad, but {op} has no gradient; "
        "call it under torch.no_grad() or pass inputs.detach()",
    )


def _check_labels(op: str, targets: Tensor, inputs: Tensor) -> None:
    _check.tensors(op, targets=targets)
    _check.dtype(op, "targets", targets, torch.int64)
    _check.shape(op, "targets", targets, (len(inputs),))
    _check.same_device(op, "targets", targets, "inputs", inputs)


def _nothing(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p, dtype=_check.compute_dtype(p), requires_grad=False)
        for name, p in unwrapped(model).named_parameters()
        if p.requires_grad
    }
