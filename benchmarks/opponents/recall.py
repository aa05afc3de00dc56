"""What clfast's recall ops are measured against: the losses as people write them, vectorised
PyTorch under autograd, and gradients derived by hand, which is as fast as plain PyTorch gets.

Each returns a loss and its gradients. `as_published` has the loops over classes of the ARM authors'
code, without its calls of `.item()`.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = sys.float_info.epsilon


class Logits(NamedTuple):
    old: Tensor  # [M, C]
    new: Tensor  # [M, C]
    present: Tensor  # [P]


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


@torch.enable_grad()
def recall_by_autograd(old: Tensor, new: Tensor, present: Tensor) -> tuple[Tensor, ...]:
    old, new = old.detach().requires_grad_(), new.detach().requires_grad_()
    loss = recall_value(old, new, present)
    return (loss.detach(), *torch.autograd.grad(loss, (old, new)))


def recall_by_func(old: Tensor, new: Tensor, present: Tensor) -> tuple[Tensor, ...]:
    slopes, loss = torch.func.grad_and_value(recall_value, (0, 1))(old, new, present)
    return loss, *slopes


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
        F.kl_div(p.log(), mean, reduction="batchmean")
        + F.kl_div(q.log(), mean, reduction="batchmean")
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


@torch.enable_grad()
def recall_as_published(old: Tensor, new: Tensor, present: Tensor) -> tuple[Tensor, ...]:
    old, new = old.detach().requires_grad_(), new.detach().requires_grad_()
    loss = torch.stack(recall_terms_as_published(old, new, present)).sum()
    return (loss.detach(), *torch.autograd.grad(loss, (old, new)))


# --- soft_cross_entropy: (loss, gradient) ---------------------------------------------------------


def cross_entropy_value_as_published(logits: Tensor, target_logits: Tensor) -> Tensor:
    target = target_logits.softmax(1)
    loss = logits.new_zeros(())
    for label in range(logits.shape[1]):
        targets = torch.full((len(logits),), label, device=logits.device)
        loss = loss + (target[:, label] * F.cross_entropy(logits, targets, reduction="none")).mean()
    return loss


@torch.enable_grad()
def cross_entropy_as_published(logits: Tensor, target_logits: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    loss = cross_entropy_value_as_published(logits, target_logits)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@torch.enable_grad()
def cross_entropy_by_autograd(logits: Tensor, target_logits: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().requires_grad_()
    loss = F.cross_entropy(logits, target_logits.softmax(1))
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def cross_entropy_value(logits: Tensor, target_logits: Tensor) -> Tensor:
    return -(target_logits.softmax(1) * logits.log_softmax(1)).sum() / len(logits)


def cross_entropy_by_func(logits: Tensor, target_logits: Tensor) -> tuple[Tensor, Tensor]:
    slope, loss = torch.func.grad_and_value(cross_entropy_value)(logits, target_logits)
    return loss, slope


# --- divergence: ([M], d_p, d_q) ------------------------------------------------------------------


def divergence_values(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    log_p, log_q = p_logits.log_softmax(1), q_logits.log_softmax(1)
    mean = (log_p.exp() + log_q.exp()) / 2
    return (mean * (mean.log() - (log_p + log_q) / 2)).sum(1)


def divergence_by_func(p_logits: Tensor, q_logits: Tensor) -> tuple[Tensor, ...]:
    def total(p_logits: Tensor, q_logits: Tensor) -> tuple[Tensor, Tensor]:
        values = divergence_values(p_logits, q_logits)
        return values.sum(), values

    slopes, values = torch.func.grad(total, (0, 1), has_aux=True)(p_logits, q_logits)
    return values, *slopes


@torch.enable_grad()
def divergence_by_autograd(p_logits: Tensor, q_logits: Tensor) -> tuple[Tensor, ...]:
    p_logits, q_logits = p_logits.detach().requires_grad_(), q_logits.detach().requires_grad_()
    values = divergence_values(p_logits, q_logits)
    return (values.detach(), *torch.autograd.grad(values.sum(), (p_logits, q_logits)))


@torch.enable_grad()
def divergence_as_published(p_logits: Tensor, q_logits: Tensor) -> tuple[Tensor, ...]:
    """By F.kl_div, one row after another: it averages over the batch that it is given."""
    p_logits, q_logits = p_logits.detach().requires_grad_(), q_logits.detach().requires_grad_()
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    mean = (p + q) / 2
    rows = [
        (
            F.kl_div(p[i].log(), mean[i], reduction="sum")
            + F.kl_div(q[i].log(), mean[i], reduction="sum")
        )
        / 2
        for i in range(len(p))
    ]
    values = torch.stack(rows)
    return (values.detach(), *torch.autograd.grad(values.sum(), (p_logits, q_logits)))


# --- image_prior: (value, gradient); total_variation: the same; recall_step: images ---------------


def prior_value(images: Tensor) -> Tensor:
    m, channels, height, width = images.shape
    down = (images[:, :, 1:] - images[:, :, :-1]).square().sum()
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).square().sum()
    variation = down / ((height - 1) * width) + right / (height * (width - 1))
    norm = images.flatten(1).norm(dim=1).sum() / (height * width)
    return (2 * variation + norm) / (m * channels)


@torch.enable_grad()
def prior_by_autograd(images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.detach().requires_grad_()
    value = prior_value(images)
    return value.detach(), torch.autograd.grad(value, images)[0]


def prior_by_func(images: Tensor) -> tuple[Tensor, Tensor]:
    slope, value = torch.func.grad_and_value(prior_value)(images)
    return value, slope


def prior_by_hand(images: Tensor) -> tuple[Tensor, Tensor]:
    m, channels, height, width = images.shape
    down = images[:, :, 1:] - images[:, :, :-1]
    right = images[:, :, :, 1:] - images[:, :, :, :-1]
    of_down = 2 / (m * channels * (height - 1) * width)
    of_right = 2 / (m * channels * height * (width - 1))
    of_norm = 1 / (m * channels * height * width)
    norms = images.flatten(1).norm(dim=1)
    value = of_down * down.square().sum() + of_right * right.square().sum() + of_norm * norms.sum()
    slope = images * (of_norm / norms)[:, None, None, None]
    slope[:, :, 1:] += 2 * of_down * down
    slope[:, :, :-1] -= 2 * of_down * down
    slope[:, :, :, 1:] += 2 * of_right * right
    slope[:, :, :, :-1] -= 2 * of_right * right
    return value, slope


def prior_by_padding(images: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient in one expression, which torch.compile fuses into one loop."""
    m, channels, height, width = images.shape
    of_down = 2 / (m * channels * (height - 1) * width)
    of_right = 2 / (m * channels * height * (width - 1))
    of_norm = 1 / (m * channels * height * width)
    norms = images.flatten(1).norm(dim=1)
    around = F.pad(images, (1, 1, 1, 1), mode="replicate")
    middle = around[:, :, 1:-1, 1:-1]
    down, right = around[:, :, 2:, 1:-1] - middle, around[:, :, 1:-1, 2:] - middle
    up, left = middle - around[:, :, :-2, 1:-1], middle - around[:, :, 1:-1, :-2]
    value = of_down * down.square().sum() + of_right * right.square().sum() + of_norm * norms.sum()
    slope = (
        2 * of_down * (up - down)
        + 2 * of_right * (left - right)
        + images * (of_norm / norms)[:, None, None, None]
    )
    return value, slope


def absolute_variation(images: Tensor) -> Tensor:
    m, channels, height, width = images.shape
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().sum() / ((height - 1) * width)
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().sum() / (height * (width - 1))
    return 2 * (down + right) / (m * channels)


@torch.enable_grad()
def variation_by_autograd(images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.detach().requires_grad_()
    value = absolute_variation(images)
    return value.detach(), torch.autograd.grad(value, images)[0]


def variation_by_func(images: Tensor) -> tuple[Tensor, Tensor]:
    slope, value = torch.func.grad_and_value(absolute_variation)(images)
    return value, slope


def step_by_autograd(images: Tensor, grad: Tensor, lr: float) -> Tensor:
    return images - lr * (grad + prior_by_autograd(images)[1])


def step_by_func(images: Tensor, grad: Tensor, lr: float) -> Tensor:
    return images - lr * (grad + torch.func.grad(prior_value)(images))


def step_by_hand(images: Tensor, grad: Tensor, lr: float) -> Tensor:
    return images - lr * (grad + prior_by_hand(images)[1])


def step_by_padding(images: Tensor, grad: Tensor, lr: float) -> Tensor:
    return images - lr * (grad + prior_by_padding(images)[1])
