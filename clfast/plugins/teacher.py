"""A network as it was, and what it teaches."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..ops import distillation_loss


@torch.inference_mode(False)
def teacher_of(network: nn.Module) -> nn.Module:
    """A frozen copy in eval mode."""
    return copy.deepcopy(network).requires_grad_(False).eval()


def distilled(
    student: Tensor, teacher: Tensor, classes: Sequence[int], temperature: float
) -> Tensor:
    """:func:`clfast.ops.distillation_loss` between logits of these classes alone."""
    among = torch.tensor(classes, device=student.device)
    return distillation_loss(student[:, among], teacher[:, among], temperature)
