"""What clfast's losses and heads of learners with exemplars are measured against: as published, the
best PyTorch, and gradients derived by hand.

`as_published` is what the code of LUCIR computes (and of Mnemonics, which took it over: KLDivLoss()
times T^2, beta and the number of old classes; CosineLinear; the margin ranking with its selections
by mask), and FACIL's BiC.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 2.0
BETA = 0.25  # which times T^2 is 1
MARGIN = 0.5
K = 2
Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensor]


def pulled_back(function: Function, count: int) -> Callable[..., Tensors]:
    """`function` of all but the last of what is given, with the gradients by its first `count`
    arguments of its product with the last."""

    @torch.enable_grad()
    def differentiated(*given: Tensor) -> Tensors:
        *arguments, upstream = given
        inputs = [t.detach().requires_grad_() for t in arguments[:count]]
        value = function(*inputs, *arguments[count:])
        return value.detach(), *torch.autograd.grad(value, inputs, upstream)

    return differentiated


def pulled_back_by_func(function: Function, count: int) -> Callable[..., Tensors]:
    """The same by torch.func, which compiles."""

    def differentiated(*given: Tensor) -> Tensors:
        *arguments, upstream = given
        rest = arguments[count:]
        value, back = torch.func.vjp(lambda *inputs: function(*inputs, *rest), *arguments[:count])
        return value, *back(upstream)

    return differentiated


# --- distillation_loss: (loss, gradient) ----------------------------------------------------------


def distillation_as_published(student: Tensor, teacher: Tensor) -> Tensor:
    old = teacher.shape[1]
    log_q = F.log_softmax(student[:, :old] / TEMPERATURE, dim=1)
    p = F.softmax(teacher.detach() / TEMPERATURE, dim=1)
    # KLDivLoss() warns of its mean over all entries.
    mean = F.kl_div(log_q, p, reduction="none").mean()
    return mean * TEMPERATURE * TEMPERATURE * BETA * old


def distillation_value(student: Tensor, teacher: Tensor) -> Tensor:
    log_q = (student[:, : teacher.shape[1]] / TEMPERATURE).log_softmax(1)
    return F.kl_div(log_q, (teacher / TEMPERATURE).softmax(1), reduction="batchmean")


def distillation_by_hand(student: Tensor, teacher: Tensor) -> Tensors:
    rows, old = teacher.shape
    log_q = (student[:, :old] / TEMPERATURE).log_softmax(1)
    log_p = (teacher / TEMPERATURE).log_softmax(1)
    p = log_p.exp()
    slope = (log_q.exp() - p) / (rows * TEMPERATURE)
    return (p * (log_p - log_q)).sum() / rows, F.pad(slope, (0, student.shape[1] - old))


# --- margin_ranking_loss: (loss, gradient); new classes come last ---------------------------------


def ranking_as_published(cosines: Tensor, labels: Tensor, new_classes: Tensor) -> Tensor:
    old = cosines.shape[1] - len(new_classes)
    is_own = torch.zeros_like(cosines)
    is_own = is_own.scatter(1, labels.view(-1, 1), 1).ge(0.5)
    own = cosines.masked_select(is_own)
    hardest = cosines[:, old:].topk(K, dim=1)[0]
    hard = labels.lt(old)
    count = int(torch.nonzero(hard).size(0))
    if count == 0:
        return cosines.new_zeros(())
    own = own[hard].view(-1, 1).repeat(1, K)
    hardest = hardest[hard]
    ones = torch.ones(count * K, 1, device=cosines.device)
    loss = torch.nn.MarginRankingLoss(margin=MARGIN)
    value: Tensor = loss(own.view(-1, 1), hardest.view(-1, 1), ones)
    return value


def ranking_value(cosines: Tensor, labels: Tensor, new_classes: Tensor) -> Tensor:
    old = cosines.shape[1] - len(new_classes)
    hardest = cosines[:, old:].topk(K, dim=1).values
    counts = (labels < old)[:, None]
    terms = (MARGIN - cosines.gather(1, labels[:, None]) + hardest).relu() * counts
    return terms.sum() / (K * counts.sum())


def ranking_by_hand(cosines: Tensor, labels: Tensor, new_classes: Tensor) -> Tensors:
    old = cosines.shape[1] - len(new_classes)
    hardest = cosines[:, old:].topk(K, dim=1)
    counts = (labels < old)[:, None]
    terms = (MARGIN - cosines.gather(1, labels[:, None]) + hardest.values).relu() * counts
    share = 1 / (K * counts.sum())
    active = (terms > 0) * share
    # Samples of new classes have no terms, and so nothing to add in either place.
    slope = torch.zeros_like(cosines).scatter(1, hardest.indices + old, active)
    slope = slope.scatter_add(1, labels[:, None], -active.sum(1, keepdim=True))
    return terms.sum() * share, slope


# --- cosine_logits: [N, C] and gradients ----------------------------------------------------------


def cosines_as_published(features: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    out = F.linear(F.normalize(features, p=2, dim=1), F.normalize(weight, p=2, dim=1))
    return scale * out


def cosines_scaled_behind(features: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The product's rows and columns scaled, not those of its factors."""
    lengths = [t.norm(dim=1).clamp_min(1e-12) for t in (features, weight)]
    return features @ weight.t() * (scale / lengths[0])[:, None] / lengths[1]


# --- bias_correct: [N, C] and gradients; new classes come last ------------------------------------


def correction_as_published(logits: Tensor, scale: Tensor, shift: Tensor, new: Tensor) -> Tensor:
    """A layer a task."""
    old = logits.shape[1] - len(new)
    return torch.cat([logits[:, :old], scale * logits[:, old:] + shift], dim=1)


def correction_by_mask(logits: Tensor, scale: Tensor, shift: Tensor, new: Tensor) -> Tensor:
    is_new = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    return torch.where(is_new.index_fill(0, new, True), scale * logits + shift, logits)
