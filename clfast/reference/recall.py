"""Recall in plain PyTorch; see :mod:`clfast.ops.recall` for the contracts.

Equation numbers are those of the ARM paper (Ji et al., "Automatic Recall Machines"); what the
authors' code computes where it differs from the paper is said at each function. A gradient is what
autograd makes of these, but for :func:`recall_step_`, which is plain arithmetic on one.
"""

from __future__ import annotations

import sys
from typing import Literal

import torch
from torch import Tensor

from .retrieval import _widened

Divergence = Literal["ag", "js", "ce"]


def _row_weights(like: Tensor, multiplicity: Tensor | None) -> Tensor:
    """What each row counts in a mean over all copies, [M] with sum 1 (nothing for no rows)."""
    if multiplicity is None:
        return like.new_full(like.shape[:1], 1 / max(1, like.shape[0]))
    counts = multiplicity.to(like.dtype)
    return counts / counts.sum()


def _divergence(p: Tensor, q: Tensor, log_p: Tensor, log_q: Tensor, kind: str) -> Tensor:
    """[M]. "ag", of the authors' code: 1/2 KL(m || p) + 1/2 KL(m || q) with m = (p + q) / 2.
    "js", of the paper: 1/2 KL(p || m) + 1/2 KL(q || m). "ce": the cross-entropy of q under p."""
    if kind == "ce":
        return -(p * log_q).sum(1)
    mean = (p + q) / 2
    # Where p and q underflow, their term is 0 whatever the logarithm.
    log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
    if kind == "ag":
        return (mean * (log_mean - (log_p + log_q) / 2)).sum(1)
    return (p * (log_p - log_mean) + q * (log_q - log_mean)).sum(1) / 2


def divergence(p_logits: Tensor, q_logits: Tensor, kind: Literal["ag", "js"] = "ag") -> Tensor:
    log_p, log_q = (_widened(logits).log_softmax(1) for logits in (p_logits, q_logits))
    return _divergence(log_p.exp(), log_q.exp(), log_p, log_q, kind)


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
    """Eq. 8 and 9 but for the image prior, negated: what the images are to minimise."""
    log_p, log_q = (_widened(logits).log_softmax(1) for logits in (old_logits, new_logits))
    p, q = log_p.exp(), log_q.exp()
    weights = _row_weights(log_p, multiplicity)
    differing = weights @ _divergence(p, q, log_p, log_q, divergence)
    # Negative entropy of the mean prediction; the code sets what is smaller to its constant.
    mean = weights @ p
    mean = mean.masked_fill(mean < sys.float_info.epsilon, sys.float_info.epsilon)
    uniform = (mean * mean.log()).sum()
    # -mean over present classes of the cross-entropy: away from the classes that are at hand.
    elsewhere_old = weights @ log_p[:, present_classes].mean(1)
    elsewhere_new = weights @ log_q[:, present_classes].mean(1)
    unsharp = -(weights @ log_p.gather(1, log_p.argmax(1, keepdim=True))[:, 0])
    return (
        divergence_weight * (1 - differing)
        + diversity * uniform
        + not_local_old * elsewhere_old
        + not_local_new * elsewhere_new
        + sharpness * unsharp
    )


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
    with torch.enable_grad():
        old, new = (_widened(z).detach().requires_grad_() for z in (old_logits, new_logits))
        loss = recall_loss(
            *(old, new, present_classes),
            divergence_weight=divergence_weight,
            not_local_old=not_local_old,
            not_local_new=not_local_new,
            diversity=diversity,
            sharpness=sharpness,
            divergence=divergence,
            multiplicity=multiplicity,
        )
        d_old, d_new = torch.autograd.grad(loss, (old, new))
    return loss.detach(), d_old, d_new


def soft_cross_entropy(
    logits: Tensor,
    target_logits: Tensor,
    *,
    temperature: float = 1.0,
    multiplicity: Tensor | None = None,
) -> Tensor:
    """Mean over rows of -sum_c softmax(target / T)_c log softmax(logits / T)_c."""
    log_q = (_widened(logits) / temperature).log_softmax(1)
    target = (_widened(target_logits.detach()) / temperature).softmax(1)
    return _row_weights(log_q, multiplicity) @ -(target * log_q).sum(1)


def _directions(images: Tensor) -> list[tuple[Tensor, int]]:
    """Differences of neighbours along height and along width, and how many one image has."""
    _, channels, height, width = images.shape
    down = images[:, :, 1:] - images[:, :, :-1]
    right = images[:, :, :, 1:] - images[:, :, :, :-1]
    return [(down, channels * (height - 1) * width), (right, channels * height * (width - 1))]


def _total_variation(images: Tensor, norm: Literal["squared", "abs"], weights: Tensor) -> Tensor:
    total = images.new_zeros(())
    for differences, count in _directions(images):
        if count > 0:
            terms = differences.square() if norm == "squared" else differences.abs()
            total = total + 2 / count * (weights @ terms.flatten(1).sum(1))
    return total


def total_variation(images: Tensor, *, norm: Literal["squared", "abs"] = "squared") -> Tensor:
    images = _widened(images)
    return _total_variation(images, norm, _row_weights(images, None))


def image_prior(
    images: Tensor,
    *,
    tv_weight: float = 1.0,
    l2_weight: float = 1.0,
    multiplicity: Tensor | None = None,
) -> Tensor:
    """tv_weight TV + l2_weight mean_i ||x_i||_2 / pixels: the norm is not squared."""
    images = _widened(images)
    weights = _row_weights(images, multiplicity)
    pixels = max(1, images[0].numel() if len(images) else 1)
    # vector_norm has gradient 0 at an image of zeros.
    norms: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    variation = _total_variation(images, "squared", weights)
    return tv_weight * variation + l2_weight * (weights @ norms) / pixels


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
    with torch.enable_grad():
        at = _widened(images).detach().requires_grad_()
        prior = image_prior(at, tv_weight=tv_weight, l2_weight=l2_weight, multiplicity=multiplicity)
        (slope,) = torch.autograd.grad(prior, at)
    step = _widened(grad).detach() + slope
    if per_copy and multiplicity is not None:
        step = step / multiplicity.to(step.dtype)[:, None, None, None]
    with torch.no_grad():
        images.copy_(at - lr * step)
