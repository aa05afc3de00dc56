"""Exemplars: which samples of a class are kept, and what is learned from them.

* iCaRL: Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning" (CVPR 2017).
* LwF: Li and Hoiem, "Learning without Forgetting" (ECCV 2016).
* BiC: Wu et al., "Large Scale Incremental Learning" (CVPR 2019).
* LUCIR: Hou et al., "Learning a Unified Classifier Incrementally via Rebalancing" (CVPR 2019).

``new_classes`` [P] int64 lists the classes of the task at hand. On CPU tensors a label or a class
that there is not, and NaN in the result, raise. On CUDA tensors, where looking would synchronise,
such a label or class is left out, and NaN travels on.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import reference
from .._backend import uses_reference
from .._untraced import untraced
from . import _call, _check, _derivative, _descent_derivative
from . import _exemplar_losses_derivative as differentiable
from . import _exemplar_losses_fakes as loss_fakes
from . import _exemplars_fakes as fakes

__all__ = [
    "bias_correct",
    "cosine_logits",
    "distillation_loss",
    "herding",
    "margin_ranking_loss",
    "softmax_descent",
]

Reduction = Literal["batchmean", "mean", "sum"]


def herding(features: Tensor, labels: Tensor, m: int) -> list[Tensor]:
    """The m samples of every class whose mean stays nearest to the class's mean, one after another.

    Pick k of a class minimises ||mu - (S + x) / k|| over the samples x that are not picked yet,
    with mu the mean of the class's features and S the sum of the k - 1 picks before (iCaRL,
    Rebuffi et al. 2017, Algorithm 4). Features are taken as they are: scale them to unit length
    for iCaRL's exemplars. The authors' code adds ``mu - x`` to a running target and takes the
    largest product with it, which picks the same samples where features have unit length, and
    others where they have not.

    Picks are those of float64 arithmetic, whatever the dtype of the features: 16-bit products only
    tell which samples are near the best, and those are scored again in float64. Samples are as near
    where their scores, -||k mu - S - x||^2 without what all have in common, differ by less than
    2^-46 of the products of lengths that they are made of, where rounding in float64 begins:
    duplicates, for one, and the two of a class of two. Of these the smaller row comes first, on
    every device.

    Args:
        features: [N, d], any floating dtype.
        labels: [N] int64; any numbers.
        m: picks of a class, at least 1.

    Returns:
        One int64 tensor for each class that is present, in ascending order of labels: rows of
        ``features`` in the order of the picks, m of them, or all where the class has no more. The
        length of the list is in the labels: on CUDA it is waited for, and ``torch.compile`` breaks
        its graph there, which it refuses with ``fullgraph=True``.

    Raises:
        RuntimeError: wrong shape, dtype or device; m below 1; an input that requires grad in grad
            mode. On CPU tensors also NaN, Inf, or float64 numbers
            whose squares overflow; on CUDA such samples are picked last.
    """
    op = "herding"
    m = _check.integer(op, "m", m)
    if uses_reference():
        _call.check_for_reference(op, fakes.herding, features, labels, m)
        return reference.exemplars.herding(features, labels, m)
    picks, sizes = _call.compiled(op, features, labels, m)
    found: list[Tensor] = _by_class(picks, sizes, m)
    return found


@untraced(
    "clfast::herding: the number of classes is in the labels, which cannot be traced; "
    "call herding outside of the compiled function"
)
def _by_class(picks: Tensor, sizes: Tensor, m: int) -> list[Tensor]:
    if torch._C._functorch.is_batchedtensor(sizes):
        raise RuntimeError(
            "clfast::herding: the number of classes is in the labels, which vmap cannot follow; "
            "call herding outside of it"
        )
    lengths = sizes[sizes.nonzero()[:, 0]].clamp_(max=m).tolist()
    return list(picks[picks >= 0].split_with_sizes(lengths))


def softmax_descent(
    features: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    steps: int,
    lr: float,
) -> tuple[Tensor, Tensor | None]:
    """A linear classifier after some steps of gradient descent on these features, differentiable.

    The inner loop of Mnemonics (Liu et al. 2020, Eq. 8) where only the last layer is trained:
    ``steps`` times W -= lr (P - Y)^T H / n and b -= lr mean(P - Y), with P = softmax(H W^T + b) and
    Y the labels, the gradient of the mean cross-entropy. The gradient of a loss of the result by
    the features and by the initial layer is exact, a sweep back through all steps (Eq. 9), not
    autograd's. What is kept for it are the predictions of every step, [steps, C, n] numbers; the
    weights of the steps are not: the sweep goes back through them as it came. While it runs on a
    CPU it holds a few arrays of [n, d], [C, n] and [C, d], and with n <= 2 d up to three of [n, n].

    Args:
        features: [n, d], any floating dtype.
        labels: [n] int64 in [0, C).
        weight: [C, d], initial.
        bias: [C], initial, or None for a layer without.
        steps: at least 0.
        lr: learning rate, finite and >= 0.

    Returns:
        ``(weight [C, d], bias [C] or None)``, never the given tensors; differentiable once in
        features, weight and bias. Without features the layer stays as it is.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; a second derivative. On CPU tensors also
            labels out of range (on CUDA such a sample has no class: its probabilities are all
            pushed down) and NaN.
    """
    op = "softmax_descent"
    steps, lr = _check.integer(op, "steps", steps), _check.number(op, "lr", lr)
    if uses_reference():
        arguments = (features, labels, weight, bias)
        _call.check_for_reference(
            op, fakes.softmax_descent, *arguments, steps, lr, differentiable=True
        )
        result = reference.exemplars.softmax_descent(*arguments, steps=steps, lr=lr)
        if any(_check.values_known(t) and bool(t.isnan().any()) for t in result if t is not None):
            _check.no_nan(op, features=features, weight=weight, bias=bias)
            problem = "the steps diverge: lr is too large for these features, or they hold Inf"
            _check.require(False, f"{op}: {problem}")
        return result
    return _descent_derivative.softmax_descent(features, labels, weight, bias, steps, lr)


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    *,
    reduction: Reduction = "batchmean",
    scale_t2: bool = False,
) -> Tensor:
    """How far a network has moved from what an earlier one says of the old classes (LwF, BiC).

    KL(softmax(teacher / T) || softmax(student[:, :Ct] / T)), which has the gradient of LwF's
    cross-entropy under soft targets.

    Args:
        student: [N, C] logits, of which the first Ct are compared.
        teacher: [N, Ct] logits, Ct <= C, constants.
        temperature: T > 0, divides both sides.
        reduction: ``"batchmean"`` is the mean over rows, ``"sum"`` their sum, ``"mean"`` the mean
            over all N Ct terms, as ``torch.nn.KLDivLoss()`` has it.
        scale_t2: multiply by T^2, which makes gradients of about one size at all temperatures
            (Hinton et al., "Distilling the Knowledge in a Neural Network").

    Returns:
        A scalar, differentiable in ``student`` twice; 0 of no rows.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; a teacher that requires grad in grad
            mode.
    """
    op = "distillation_loss"
    temperature = _check.number(op, "temperature", temperature)
    scale_t2 = _check.boolean(op, "scale_t2", scale_t2)
    arguments = (student, teacher, temperature, reduction, scale_t2)
    if _derivative.wanted(teacher):
        _call.refuse_grad(op, arguments, 1)
    if uses_reference():
        fake = loss_fakes.distillation_loss
        _call.check_for_reference(op, fake, *arguments, differentiable=True)
        return reference.exemplars.distillation_loss(
            *(student, teacher, temperature), reduction=reduction, scale_t2=scale_t2
        )
    return _derivative.value(op, 1, *arguments, slope=differentiable.distillation_slope)


def margin_ranking_loss(
    cosines: Tensor, labels: Tensor, new_classes: Tensor, *, margin: float = 0.5, k: int = 2
) -> Tensor:
    """Keeps samples of old classes away from the new classes that they resemble (LUCIR).

    Its inter-class separation: the mean of max(0, margin - cos(x, own) + cos(x, new)) over the
    samples of old classes and the min(k, P) new classes that score highest on each; of equal scores
    the class listed first. 0 where there is no such sample or no new class.

    Args:
        cosines: [N, C], before any scale.
        labels: [N] int64; samples of new classes do not count.
        new_classes: see the module; a class counts as often as it is listed.
        margin: finite.
        k: >= 1.

    Returns:
        A scalar, differentiable in ``cosines`` twice (the second derivative is 0).

    Raises:
        RuntimeError: wrong shape, dtype, device or value.
    """
    op = "margin_ranking_loss"
    margin = _check.number(op, "margin", margin)
    k = _check.integer(op, "k", k)
    arguments = (cosines, labels, new_classes, margin, k)
    if uses_reference():
        fake = loss_fakes.margin_ranking_loss
        _call.check_for_reference(op, fake, *arguments, differentiable=True)
        return reference.exemplars.margin_ranking_loss(
            *(cosines, labels, new_classes), margin=margin, k=k
        )
    return _derivative.value(op, 1, *arguments, slope=differentiable.ranking_slope)


def cosine_logits(features: Tensor, weight: Tensor, scale: float | Tensor) -> Tensor:
    """scale * cos(feature, class weight), LUCIR's cosine normalization.

    Lengths below 1e-12 count as that, as in ``torch.nn.functional.normalize``: a row of zeros has
    logits 0 and a finite gradient in float32 and float64.

    Args:
        features: [N, d].
        weight: [C, d].
        scale: a number, or a tensor without dimensions, which may be learnt; finite.

    Returns:
        [N, C], differentiable in features, weight and scale, twice.

    Raises:
        RuntimeError: wrong shape, dtype, device or value.
    """
    op = "cosine_logits"
    _check.tensors(op, features=features, weight=weight)
    scale = loss_fakes.scalar(op, "scale", scale, features)
    arguments = (features, weight, scale)
    if uses_reference():
        fake = loss_fakes.cosine_logits
        _call.check_for_reference(op, fake, *arguments, differentiable=True)
        return reference.exemplars.cosine_logits(*arguments)
    return differentiable.cosine_logits(*arguments)


def bias_correct(
    logits: Tensor, new_classes: Tensor, scale: float | Tensor, shift: float | Tensor
) -> Tensor:
    """Logits of the new classes made scale * logit + shift, the others left: BiC's correction.

    Args:
        logits: [N, C].
        new_classes: see the module.
        scale, shift: numbers, or tensors without dimensions, which may be learnt; finite.

    Returns:
        [N, C], differentiable in logits, scale and shift, twice.

    Raises:
        RuntimeError: wrong shape, dtype, device or value.
    """
    op = "bias_correct"
    _check.tensors(op, logits=logits)
    scale = loss_fakes.scalar(op, "scale", scale, logits)
    shift = loss_fakes.scalar(op, "shift", shift, logits)
    arguments = (logits, new_classes, scale, shift)
    if uses_reference():
        fake = loss_fakes.bias_correct
        _call.check_for_reference(op, fake, *arguments, differentiable=True)
        return reference.exemplars.bias_correct(*arguments)
    return differentiable.bias_correct(*arguments)
