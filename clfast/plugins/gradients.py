"""Lists of gradients, one a parameter."""

from __future__ import annotations

import cmath
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm


def all_finite(gradients: Iterable[Tensor]) -> bool:
    """No NaN and no Inf in dense or sparse gradients."""
    dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    # A finite sum has finite terms, and so has a finite norm, of which a GPU forms all in one
    # kernel; the exact look is needed only when they overflow.
    if all(g.is_cpu for g in dense):
        finite = all(cmath.isfinite(g.sum().item()) for g in dense)
    else:
        finite = bool(get_total_norm(dense).isfinite())
    return finite or all(bool(g.isfinite().all()) for g in dense)


def check_dense(parameters: Iterable[nn.Parameter], where: str) -> None:
    """RuntimeError for a gradient that is sparse."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise RuntimeError(
                f"{where}: a parameter {list(parameter.shape)} of model has a sparse gradient, "
                "which this plugin cannot change; make the embedding with sparse=False"
            )


def averaged(
    gradients: Sequence[Tensor | None], like: Sequence[Tensor], ddp: DistributedDataParallel
) -> list[Tensor | None]:
    """The means over all processes, in each of them.

    None stands for zeros of what ``like`` has there, and remains where all processes have it.
    """
    group = ddp.process_group
    used = torch.tensor([float(g is not None) for g in gradients], device=like[0].device)
    dist.all_reduce(used, group=group)
    means: list[Tensor | None] = []
    for gradient, parameter, count in zip(gradients, like, used.tolist(), strict=True):
        if not count:
            means.append(None)
            continue
        mean = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        if gradient is not None:
            mean.copy_(gradient)
        dist.all_reduce(mean, group=group)
        means.append(mean.div_(dist.get_world_size(group)))
    return means


def vector(gradients: Sequence[Tensor], scale: float = 1.0) -> Tensor:
    """All entries [P], over ``scale``."""
    entries = torch.cat([gradient.flatten() for gradient in gradients])
    if scale == 1:
        return entries
    # What a scale has kept from vanishing in 16 bits would vanish without it.
    wide = torch.float64 if entries.dtype == torch.float64 else torch.float32
    return entries.to(wide) / scale
