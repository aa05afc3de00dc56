"""All samples of a phase."""

from __future__ import annotations

import torch
from torch import Tensor

from . import checks
from .protocol import Batches, pairs


def samples_of(
    loader: Batches, like: Tensor | None, device: torch.device, where: str
) -> tuple[Tensor, Tensor]:
    """All that a loader gives, on a device: x [N, ...] and y [N].

    Args:
        like: samples [n, ...] whose shape others have; None: the first decide.

    Raises:
        TypeError, ValueError: no samples; x that are neither floating point nor uint8, of several
            dtypes or shapes, or not finite; y that are no labels.
    """
    shape = None if like is None else like.shape[1:]
    xs, ys = [], []
    for x, y in pairs(loader, where):
        checks.check_samples(x, where)
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise TypeError(f"{where}: x must be floating point or uint8, got {x.dtype}")
        shape = x.shape[1:] if shape is None else shape
        if x.shape[1:] != shape:
            sizes = "".join(f", {size}" for size in shape)
            raise ValueError(
                f"{where}: x must have shape [B{sizes}] as the "
                f"{'samples before' if like is None else 'exemplars'}, got {list(x.shape)}"
            )
        # The range is looked at when it is known how many outputs there are.
        unbounded = torch.iinfo(torch.int64).max
        checks.check_labels(y, len(x), unbounded, getattr(y, "device", x.device), where)
        if x.is_floating_point() and not bool(x.isfinite().all()):
            raise ValueError(f"{where}: x holds NaN or Inf")
        xs.append(x.detach().to(device))
        ys.append(y.to(device))
    if not sum(map(len, ys)):
        raise ValueError(f"{where}: loader gives no samples; a phase has at least one")
    if len({x.dtype for x in xs}) > 1:
        raise TypeError(f"{where}: x must be of one dtype, got {xs[0].dtype} and others")
    with torch.inference_mode(False):  # autograd may not keep inference tensors
        return torch.cat(xs), torch.cat(ys)


def check_sizes(y: Tensor, count: int, where: str) -> None:
    """Every class in y has at least so many samples; ValueError for one that has not."""
    labels, sizes = y.unique(return_counts=True)
    if int(sizes.min()) < count:
        least = int(sizes.argmin())
        raise ValueError(
            f"{where}: class {int(labels[least])} has {int(sizes[least])} samples in loader, fewer "
            f"than the {count} exemplars of each class; make the learner with a smaller budget"
        )
