"""Exemplars: which samples of a class are kept, and what is learned from them."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .._backend import uses_reference
from . import _call, _check, _descent_derivative
from . import _exemplars_fakes as fakes

__all__ = ["herding", "softmax_descent"]


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


@torch.compiler.disable(
    reason="clfast::herding: the number of classes is in the labels, which cannot be traced; "
    "call herding outside of the compiled function"
)
def _by_class(picks: Tensor, sizes: Tensor, m: int) -> list[Tensor]:
    lengths = sizes[sizes > 0].clamp_(max=m).tolist()
    return list(picks[picks >= 0].split(lengths))


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
    autograd's. What is kept for it are the predictions of every step, [steps, C, n] numbers.

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
        _check.no_nan_result(op, "features holds", *(t for t in result if t is not None))
        return result
    return _descent_derivative.softmax_descent(features, labels, weight, bias, steps, lr)
