"""Images of a task as generative methods take them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import checks
from .protocol import Batches, pairs

Shape = tuple[int, int, int]
"""Of an image: channels, and its side twice."""


class Samples(NamedTuple):
    """Of a task."""

    x: Tensor  # [N, channels, size, size] in [-1, 1]
    y: Tensor  # [N] int64
    classes: list[int]  # ascending

    @property
    def each(self) -> int:
        """Images of a class, on average."""
        return round(len(self.y) / len(self.classes))


class Generated(NamedTuple):
    """Images of a generator, and what they are of."""

    images: Tensor  # [M, channels, size, size] in [0, 1]
    labels: Tensor  # [M] int64


def samples_of(
    loader: Batches, shape: Shape, device: torch.device, dtype: torch.dtype, where: str
) -> Samples:
    """All that a loader gives.

    Raises TypeError or ValueError for no samples, and for what are no images or labels.
    """
    xs, ys = [], []
    for x, y in pairs(loader, where):
        xs.append(as_images(x, shape, device, dtype, where))
        if not isinstance(y, Tensor) or y.dtype != torch.int64:
            got = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise TypeError(f"{where}: y must be an int64 tensor, got {got}")
        if y.shape != (len(x),):
            raise ValueError(f"{where}: y must have shape [{len(x)}], got {list(y.shape)}")
        ys.append(y.to(device))
    if not sum(map(len, ys)):
        raise ValueError(f"{where}: loader gives no samples; a task has at least one")
    y = torch.cat(ys)
    classes: list[int] = y.unique().tolist()
    if classes[0] < 0:
        raise ValueError(f"{where}: y holds label {classes[0]}; labels are at least 0")
    return Samples(torch.cat(xs), y, classes)


def as_images(
    x: object, shape: Shape, device: torch.device, dtype: torch.dtype, where: str
) -> Tensor:
    """[B, *shape], uint8 or in [0, 1], as floating point in [-1, 1].

    Raises TypeError or ValueError for anything else.
    """
    checks.check_samples(x, where)
    assert isinstance(x, Tensor)
    if x.shape[1:] != shape:
        sizes, remedy = ", ".join(map(str, shape)), ""
        if x.dim() == 4 and x.shape[1] == shape[0]:
            remedy = (
                "; resize the images, as clfast.experiments.dgm.from_arrays does, or make the "
                "learner with their size= (16, 32, 64, ...)"
            )
        raise ValueError(f"{where}: x must have shape [B, {sizes}], got {list(x.shape)}{remedy}")
    if x.dtype == torch.uint8:
        return x.to(device, dtype) / 127.5 - 1
    if not x.is_floating_point():
        raise TypeError(f"{where}: x must be floating point or uint8, got {x.dtype}")
    if x.numel() and not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(f"{where}: x must be in [0, 1], and not NaN")
    return x.to(device, dtype) * 2 - 1
