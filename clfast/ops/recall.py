"""Recall of what a network knows, in the images that are optimised for it: the ARM paper, Eq. 8-9.

Ji et al., "Automatic Recall Machines: Internal Replay, Continual Learning and the Brain". Terms and
constants are those of the authors' code; where the paper says otherwise there is a switch. All
losses are minimised. Shared arguments:

* ``multiplicity`` [M] int64 >= 1: row i counts as if it stood there ``multiplicity[i]`` times.

On CPU tensors a class outside the logits, a multiplicity below 1, or NaN in the value raises. On
CUDA tensors, where looking would synchronise, such a class is left out, such a multiplicity counts
as 1, and NaN travels on. Logits are finite; of -inf some terms make NaN.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .. import reference
from .._backend import uses_reference
from . import _call, _check, _derivative
from . import _recall_fakes as fakes

__all__ = [
    "Divergence",
    "divergence",
    "image_prior",
    "recall_gradients",
    "recall_loss",
    "recall_step_",
    "soft_cross_entropy",
    "total_variation",
]

Divergence = Literal["ag", "js", "ce"]

# A parameter of recall_loss has the name of this module's function.
_DivergenceKind = Literal["ag", "js"]


def recall_loss(
    old_logits: Tensor,
    new_logits: Tensor,
    present_classes: Tensor,
    *,
    divergence_weight: float = 1.0,
    not_local_old: float = 1.0,
    not_local_new: float = 0.1,
    diversity: float = 16.0,
    sharpness: float = 0.1,
    divergence: Divergence = "ag",
    multiplicity: Tensor | None = None,
) -> Tensor:
    """What recalled images minimise, but for the image prior (Eq. 8 and 9, negated).

    With p and q the softmax of the old and the new network's logits, in means over rows:

        divergence_weight (1 - D(p, q)) + diversity sum_c pbar_c log pbar_c
        + not_local_old NL(p) + not_local_new NL(q) + sharpness S(p)

    D is :func:`divergence`, or the cross-entropy of q under p; pbar the mean of p over the rows;
    NL(p) the mean of log p_c over the present classes, which images are to leave; S(p) = -log max_c
    p_c. Entries of pbar below 2.2e-16 count as that constant, as in the authors' code.

    Args:
        old_logits: [M, C], of the network before the training step.
        new_logits: [M, C], of the network after it.
        present_classes: [P] int64, P >= 1, the classes of the real batch.
        divergence_weight, not_local_old, not_local_new, diversity, sharpness: finite; the authors'
            values for CIFAR-10 and MNIST are the defaults.
        divergence: ``"ag"`` is KL(m || p) / 2 + KL(m || q) / 2 with m = (p + q) / 2, of the
            authors' code; ``"js"`` the Jensen-Shannon divergence of the paper, KL(p || m) / 2 +
            KL(q || m) / 2; ``"ce"`` -sum_c p_c log q_c, of their ablation.
        multiplicity: see the module.

    Returns:
        A scalar, differentiable once in both logits.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; a second derivative.
    """
    weights = _weights(
        "recall_loss",
        divergence_weight=divergence_weight,
        not_local_old=not_local_old,
        not_local_new=not_local_new,
        diversity=diversity,
        sharpness=sharpness,
    )
    logits = (old_logits, new_logits, present_classes)
    arguments = (*logits, *weights.values(), divergence, multiplicity)
    if uses_reference():
        _call.check_for_reference("recall_loss", fakes.recall_loss, *arguments, differentiable=True)
        return reference.recall.recall_loss(
            *logits, **weights, divergence=divergence, multiplicity=multiplicity
        )
    return _derivative.value("recall_loss", 2, *arguments)


def recall_gradients(
    old_logits: Tensor,
    new_logits: Tensor,
    present_classes: Tensor,
    *,
    divergence_weight: float = 1.0,
    not_local_old: float = 1.0,
    not_local_new: float = 0.1,
    diversity: float = 16.0,
    sharpness: float = 0.1,
    divergence: Divergence = "ag",
    multiplicity: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`recall_loss` and its gradients, in one call and without autograd.

    Args:
        As of :func:`recall_loss`.

    Returns:
        ``(loss, d_old [M, C], d_new [M, C])``.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; an input that requires grad in grad mode.
    """
    weights = _weights(
        "recall_gradients",
        divergence_weight=divergence_weight,
        not_local_old=not_local_old,
        not_local_new=not_local_new,
        diversity=diversity,
        sharpness=sharpness,
    )
    logits = (old_logits, new_logits, present_classes)
    arguments = (*logits, *weights.values(), divergence, multiplicity)
    if uses_reference():
        _call.check_for_reference("recall_gradients", fakes.recall_gradients, *arguments)
        return reference.recall.recall_gradients(
            *logits, **weights, divergence=divergence, multiplicity=multiplicity
        )
    loss, d_old, d_new = _call.compiled("recall_gradients", *arguments)
    return loss, d_old, d_new


def _weights(op: str, **given: float) -> dict[str, Any]:
    return {name: _check.number(op, name, value) for name, value in given.items()}


def divergence(p_logits: Tensor, q_logits: Tensor, kind: _DivergenceKind = "ag") -> Tensor:
    """How far two predictions are from one another, for each row.

    Args:
        p_logits, q_logits: [M, C] each.
        kind: ``"ag"`` or ``"js"``, see :func:`recall_loss`. Both are >= 0 up to rounding; only "js"
            is bounded, by log 2.

    Returns:
        [M], differentiable once in both logits.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; a second derivative.
    """
    op = "divergence"
    if uses_reference():
        arguments = (p_logits, q_logits, kind)
        _call.check_for_reference(op, fakes.divergence, *arguments, differentiable=True)
        return reference.recall.divergence(*arguments)
    return _derivative.value(op, 2, p_logits, q_logits, kind)


def soft_cross_entropy(
    logits: Tensor,
    target_logits: Tensor,
    *,
    temperature: float = 1.0,
    multiplicity: Tensor | None = None,
) -> Tensor:
    """The mean cross-entropy of predictions under soft targets, ARM's replay loss.

    mean_i -sum_c softmax(target_i / T)_c log softmax(logits_i / T)_c, without a factor T^2.

    Args:
        logits: [M, C].
        target_logits: [M, C], constants: no gradient goes there.
        temperature: T > 0, divides both sides.
        multiplicity: see the module.

    Returns:
        A scalar, differentiable in ``logits`` twice.

    Raises:
        RuntimeError: wrong shape, dtype, device or value.
    """
    op = "soft_cross_entropy"
    temperature = _check.number(op, "temperature", temperature)
    if uses_reference():
        _call.check_for_reference(
            op,
            fakes.soft_cross_entropy,
            *(logits, target_logits, temperature, multiplicity),
            differentiable=True,
        )
        return reference.recall.soft_cross_entropy(
            logits, target_logits, temperature=temperature, multiplicity=multiplicity
        )
    if isinstance(target_logits, Tensor):
        target_logits = target_logits.detach()
    return _derivative.value(
        *(op, 1, logits, target_logits, temperature, multiplicity), slope=_cross_entropy_slope
    )


def _cross_entropy_slope(
    logits: Tensor, target_logits: Tensor, temperature: float, multiplicity: Tensor | None
) -> Tensor:
    p, target = (
        (z.to(_check.compute_dtype(z)) / temperature).softmax(1) for z in (logits, target_logits)
    )
    weights = p.new_full((len(p), 1), 1 / max(1, len(p)))
    if multiplicity is not None:
        counts = multiplicity.to(p.dtype)
        weights = (counts / counts.sum())[:, None]
    return weights / temperature * (p - target)


def image_prior(
    images: Tensor,
    *,
    tv_weight: float = 1.0,
    l2_weight: float = 1.0,
    multiplicity: Tensor | None = None,
) -> Tensor:
    """How unlike photographs images are: total variation and norm (Eq. 9's lambda 5 and 6).

    tv_weight TV + l2_weight mean_i ||x_i||_2 / (Ch H W), with the norm not squared and
    :func:`total_variation` of squared differences.

    Args:
        images: [M, Ch, H, W]; channels_last is read where it lies.
        tv_weight, l2_weight: finite.
        multiplicity: see the module.

    Returns:
        A scalar, differentiable once in ``images``; an image of zeros has gradient 0.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; a second derivative.
    """
    op = "image_prior"
    tv_weight = _check.number(op, "tv_weight", tv_weight)
    l2_weight = _check.number(op, "l2_weight", l2_weight)
    arguments = (images, tv_weight, l2_weight, multiplicity, _derivative.wanted(images))
    if uses_reference():
        _call.check_for_reference(op, fakes.image_prior, *arguments, differentiable=True)
        return reference.recall.image_prior(
            images, tv_weight=tv_weight, l2_weight=l2_weight, multiplicity=multiplicity
        )
    return _derivative.value(op, 1, *arguments)


def total_variation(images: Tensor, *, norm: Literal["squared", "abs"] = "squared") -> Tensor:
    """The mean difference of neighbouring pixels, along height and along width.

    2 / M [sum (x_{h+1,w} - x_{h,w})^2 / (Ch (H-1) W) + sum (x_{h,w+1} - x_{h,w})^2 / (Ch H (W-1))],
    as in the authors' code; a side of one pixel adds nothing.

    Args:
        images: [M, Ch, H, W]; channels_last is read where it lies.
        norm: ``"abs"`` has |.| in place of the squares.

    Returns:
        A scalar, differentiable once; where neighbours are equal "abs" has gradient 0.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; a second derivative.
    """
    op = "total_variation"
    arguments = (images, norm, _derivative.wanted(images))
    if uses_reference():
        _call.check_for_reference(op, fakes.total_variation, *arguments, differentiable=True)
        return reference.recall.total_variation(images, norm=norm)
    return _derivative.value(op, 1, *arguments)


def recall_step_(
    images: Tensor,
    grad: Tensor,
    *,
    lr: float,
    tv_weight: float,
    l2_weight: float,
    multiplicity: Tensor | None = None,
    per_copy: bool = False,
) -> None:
    """A step of gradient descent on images, in place: images -= lr (grad + d prior).

    The prior is the scalar :func:`image_prior` of all images; ``grad`` is the gradient of the other
    losses.

    Args:
        images: [M, Ch, H, W] float32 or float64, changed; channels_last stays so.
        grad: [M, Ch, H, W].
        lr, tv_weight, l2_weight: finite.
        multiplicity: see the module.
        per_copy: divide row i's whole gradient by ``multiplicity[i]``: the step of one copy, where
            the row stands for that many which stay equal.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; an input that requires grad in grad mode.
    """
    op = "recall_step_"
    lr = _check.number(op, "lr", lr)
    tv_weight = _check.number(op, "tv_weight", tv_weight)
    l2_weight = _check.number(op, "l2_weight", l2_weight)
    per_copy = _check.boolean(op, "per_copy", per_copy)
    arguments = (images, grad, lr, tv_weight, l2_weight, multiplicity, per_copy)
    if uses_reference():
        _call.check_for_reference(op, fakes.recall_step_, *arguments)
        reference.recall.recall_step_(
            *(images, grad),
            lr=lr,
            tv_weight=tv_weight,
            l2_weight=l2_weight,
            multiplicity=multiplicity,
            per_copy=per_copy,
        )
        return
    _call.compiled(op, *arguments)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(images)
