"""What clfast's recall ops are measured against: the losses as people write them, vectorised
PyTorch under autograd, and gradients derived by hand, which is as fast as plain PyTorch gets.

`as_published` has the loops over classes of the ARM authors' code, without its calls of `.item()`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Function = Callable[..., Tensor]
EPSILON = sys.float_info.epsilon


class Logits(NamedTuple):
    old: Tensor  # [M, C]
    new: Tensor  # [M, C]
    present: Tensor  # [P]


def with_gradients(function: Function, count: int) -> Callable[..., tuple[Tensor, ...]]:
    """`function` with the gradients, by autograd, of the sum of its values with respect to its
    first `count` arguments."""

    @torch.enable_grad()
    def differentiated(*given: Tensor) -> tuple[Tensor, ...]:
        inputs = [t.detach().requires_grad_() for t in given[:count]]
        value = function(*inputs, *given[count:])
        total = value if value.dim() == 0 else value.sum()
        return (value.detach(), *torch.autograd.grad(total, inputs))

    return differentiated


def value_and_gradient(function: Function, count: int = 1) -> Callable[..., tuple[Tensor, ...]]:
    """The same by torch.func, which compiles."""

    def total(*given: Tensor) -> tuple[Tensor, Tensor]:
        value = function(*given)
        return (value if value.dim() == 0 else value.sum()), value

    def differentiated(*given: Tensor) -> tuple[Tensor, ...]:
        slopes, value = torch.func.grad(total, tuple(range(count)), has_aux=True)(*given)
        return value, *slopes

    return differentiated


# --- recall_gradients: (loss, d_old, d_new), with the default weights -----------------------------


def recall_value(old: Tensor, new: Tensor, present: Tensor) -> Tensor:
    log_p, log_q = old.log_softmax(1), new.log_softmax(1)
    p, q = log_p.exp(), log_q.exp()
    mean = (p + q) / 2
    divergence = (mean * (mean.log() - (log_p + log_q) / 2)).sum(1).mean()
    average = p.mean(0).clamp_min(EPSILON)
    diversity = (average * average.log()).sum()
    not_local = log_p[:, present].mean() + 0.1 * log_q[:, present].mean()
    sharpness = -log_p.amax(1).mean()
    return 1 - divergence + 16 * diversity + not_local + 0.1 * sharpness


def recall_by_hand(old: Tensor, new: Tensor, present: Tensor) -> tuple[Tensor, ...]:
    """Both gradients in closed form."""
    log_p, log_q = old.log_softmax(1), new.log_softmax(1)
    p, q = log_p.exp(), log_q.exp()
    mean = (p + q) / 2
    ratio = mean.log() - (log_p + log_q) / 2
    mean_p, mean_q = (p * ratio).sum(1, keepdim=True), (q * ratio).sum(1, keepdim=True)
    average = p.mean(0).clamp_min(EPSILON)
    slope = average.log() + 1
    here = old.new_zeros(old.shape[1]).index_fill(0, present, 1 / len(present))
    loss = (
        (1 - (mean_p + mean_q).mean() / 2 + 16 * (average * average.log()).sum())
        + ((here * log_p).sum() + 0.1 * (here * log_q).sum()) / len(old)
        - 0.1 * log_p.amax(1).mean()
    )
    d_old = (
        (p * (ratio + 1 - mean_p) - mean) / -2
        + 16 * p * (slope - (p * slope).sum(1, keepdim=True))
        - (p - here)
        + 0.1 * (p - F.one_hot(old.argmax(1), old.shape[1]))
    )
    d_new = (q * (ratio + 1 - mean_q) - mean) / -2 - 0.1 * (q - here)
    return loss, d_old / len(old), d_new / len(old)


def recall_terms_as_published(old: Tensor, new: Tensor, present: Tensor) -> list[Tensor]:
    """Weighted: divergence, diversity, not local (old, new), sharpness; the loss is their sum."""
    p, q = old.softmax(1), new.softmax(1)
    mean = (p + q) / 2
    divergence = (
        F.kl_div(old.log_softmax(1), mean, reduction="batchmean")
        + F.kl_div(new.log_softmax(1), mean, reduction="batchmean")
    ) / 2
    average = p.mean(0)
    average[(average < EPSILON).detach()] = EPSILON
    terms = [1 - divergence, 16 * (average * average.log()).sum()]
    for weight, logits in ((1.0, old), (0.1, new)):
        near = logits.new_zeros(())
        for label in present:
            targets = torch.full((len(logits),), 0, device=logits.device) + label
            near = near + F.cross_entropy(logits, targets)
        terms.append(-weight / len(present) * near)
    return [*terms, 0.1 * F.cross_entropy(old, old.argmax(1).detach())]


def recall_as_published(old: Tensor, new: Tensor, present: Tensor) -> Tensor:
    return torch.stack(recall_terms_as_published(old, new, present)).sum()


# --- soft_cross_entropy: a loss -------------------------------------------------------------------


def cross_entropy_as_published(logits: Tensor, target_logits: Tensor) -> Tensor:
    target = target_logits.softmax(1)
    loss = logits.new_zeros(())
    for label in range(logits.shape[1]):
        targets = torch.full((len(logits),), label, device=logits.device)
        loss = loss + (target[:, label] * F.cross_entropy(logits, targets, reduction="none")).mean()
    return loss


def cross_entropy_of_softmax(logits: Tensor, target_logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, target_logits.softmax(1))


def cross_entropy_value(logits: Tensor, target_logits: Tensor) -> Tensor:
    return -(target_logits.softmax(1) * logits.log_softmax(1)).sum() / len(logits)


# --- divergence: [M] ------------------------------------------------------------------------------


def divergence_values(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    log_p, log_q = p_logits.log_softmax(1), q_logits.log_softmax(1)
    mean = (log_p.exp() + log_q.exp()) / 2
    return (mean * (mean.log() - (log_p + log_q) / 2)).sum(1)


def divergence_by_kl_div(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """As the authors write it, for every row."""
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    mean = (p + q) / 2
    of_p, of_q = (F.kl_div(z.log_softmax(1), mean, reduction="none") for z in (p_logits, q_logits))
    return (of_p + of_q).sum(1) / 2


# --- image_prior, total_variation: a value; recall_step_: images ----------------------------------


def prior_value(images: Tensor) -> Tensor:
    m, channels, height, width = images.shape
    down = (images[:, :, 1:] - images[:, :, :-1]).square().sum()
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).square().sum()
    variation = down / ((height - 1) * width) + right / (height * (width - 1))
    norm = images.flatten(1).norm(dim=1).sum() / (height * width)
    return (2 * variation + norm) / (m * channels)


def absolute_variation(images: Tensor) -> Tensor:
    m, channels, height, width = images.shape
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().sum() / ((height - 1) * width)
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().sum() / (height * (width - 1))
    return 2 * (down + right) / (m * channels)


def step_by_autograd(images: Tensor, grad: Tensor, lr: float) -> Tensor:
    return images - lr * (grad + with_gradients(prior_value, 1)(images)[1])


def step_by_func(images: Tensor, grad: Tensor, lr: float) -> Tensor:
    return images - lr * (grad + torch.func.grad(prior_value)(images))


def step_by_hand(images: Tensor, grad: Tensor, lr: float) -> Tensor:
    """The prior's gradient term by term."""
    of_down, of_right, of_norm = _slopes(images)
    down = of_down * (images[:, :, 1:] - images[:, :, :-1])
    right = of_right * (images[:, :, :, 1:] - images[:, :, :, :-1])
    slope = images * of_norm
    slope[:, :, 1:] += down
    slope[:, :, :-1] -= down
    slope[:, :, :, 1:] += right
    slope[:, :, :, :-1] -= right
    return images - lr * (grad + slope)


def step_by_padding(images: Tensor, grad: Tensor, lr: float) -> Tensor:
    """The prior's gradient in one expression, which torch.compile fuses into one loop."""
    of_down, of_right, of_norm = _slopes(images)
    around = F.pad(images, (1, 1, 1, 1), mode="replicate")
    middle = around[:, :, 1:-1, 1:-1]
    down, right = around[:, :, 2:, 1:-1] - middle, around[:, :, 1:-1, 2:] - middle
    up, left = middle - around[:, :, :-2, 1:-1], middle - around[:, :, 1:-1, :-2]
    slope = of_down * (up - down) + of_right * (left - right) + images * of_norm
    return images - lr * (grad + slope)


def _slopes(images: Tensor) -> tuple[float, float, Tensor]:
    """What the differences down and to the right, and the images, are multiplied by in the
    gradient of the prior."""
    m, channels, height, width = images.shape
    norms = images.flatten(1).norm(dim=1)[:, None, None, None]
    of_norm = 1 / (m * channels * height * width * norms)
    return (
        4 / (m * channels * (height - 1) * width),
        4 / (m * channels * height * (width - 1)),
        of_norm,
    )
