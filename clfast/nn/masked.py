"""Masks that tasks learn: over whatever a layer multiplies by them, and over a layer's weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import integer, one_of, real
from ..ops.masks import masked_weight, pack_mask, reserve_, unpack_mask
from .tasks import TaskModule

Keep = Literal["binary", "soft"]


class TaskMask(TaskModule):
    """A mask for every task: sigmoid(scale e) of the one being learnt, and those of tasks that have
    ended as `end_task` kept them (HAT, Serrà et al. 2018; DGM, Eq. 2).

    ``embedding`` e is the only parameter. ``scale`` and ``max_scale``, see `masks_at`, are no part
    of the state. A state with another number of tasks can be loaded.

    Args:
        shape: of the mask.
        std: embeddings begin as normal noise of this deviation; 0: as zeros, masks of 1/2.
        keep: masks of past tasks, "binary": 1 where e >= 0, in bits; "soft": sigmoid(scale e) with
            the scale that `end_task` is given.
        generator: draws the first embedding; None: torch's.

    Raises:
        TypeError, ValueError: an argument that is none of these.
    """

    embedding: nn.Parameter
    """Of the task that is being learnt, of the mask's shape."""
    reserved: Tensor
    """Where a past task's e is >= 0, packed: uint8 [ceil(n / 8)] for n entries."""
    stored: Tensor
    """Of past tasks: uint8 [T, ceil(n / 8)] of bits, or soft masks [T, *shape]."""

    scale: float = 1.0
    max_scale: float | None = None

    def __init__(
        self,
        *shape: int,
        std: float = 0.0,
        keep: Keep = "binary",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        self.shape = torch.Size(integer(size, "shape", where, least=1) for size in shape)
        self.std = real(std, "std", where, least=0)
        one_of(keep, ("binary", "soft"), "keep", where)
        self.keep = keep
        self.embedding = nn.Parameter(torch.empty(self.shape))
        bits = math.ceil(self.shape.numel() / 8)
        self.register_buffer("reserved", torch.zeros(bits, dtype=torch.uint8))
        empty = torch.empty(0, bits, dtype=torch.uint8)
        self.register_buffer("stored", empty if keep == "binary" else torch.empty(0, *self.shape))
        self._reset(generator)

    @property
    def tasks(self) -> int:
        """Those that have ended, and the one that is being learnt."""
        return len(self.stored) + 1

    def forward(self, values: Tensor, dim: int | None = None) -> Tensor:
        """``values`` times the mask of the task; differentiable in values and embedding.

        What a binary mask leaves out is 0 whatever it was, also NaN.

        Args:
            values: of the mask's shape, or with ``dim`` any whose dimension ``dim`` is that of a
                mask [n].

        Raises:
            TypeError, ValueError: a task that is not there; values of another shape.
        """
        task = self._at()
        view = list(self.shape)
        if dim is not None:
            view = [1] * values.dim()
            view[dim] = -1
        if task == len(self.stored):
            live = self.embedding.view(view)
            masked = masked_weight(values, live, self.scale, max_scale=self.max_scale)
            return masked.to(values.dtype)
        mask = self.of(task).view(view)
        if mask.dtype == torch.bool:
            return torch.where(mask, values, 0)
        return values * mask

    def of(self, task: int) -> Tensor:
        """The mask of a past task: bool, or soft.

        Raises:
            TypeError, ValueError: a task that has not ended.
        """
        where = f"{type(self).__name__}.of"
        task = integer(task, "task", where, least=0)
        if task >= len(self.stored):
            raise ValueError(f"{where}: {len(self.stored)} tasks have ended, got task {task}")
        if self.keep == "soft":
            return self.stored[task]
        return unpack_mask(self.stored[task], self.shape)

    def reserved_mask(self) -> Tensor:
        """Where a past task's e is >= 0, bool of the mask's shape."""
        return unpack_mask(self.reserved, self.shape)

    @torch.no_grad()
    def end_task(self, scale: float, generator: torch.Generator | None = None) -> int:
        """Keep the mask that was learnt, reserve what it has, and begin another.

        Args:
            scale: s_max > 0, of soft masks.
            generator: draws the next embedding; None: torch's.

        Returns:
            How many entries are newly reserved.

        Raises:
            TypeError, ValueError: scale out of range.
        """
        scale = real(scale, "scale", f"{type(self).__name__}.end_task", least=0, open_ends="(")
        soft = (scale * self.embedding).sigmoid()
        row = soft if self.keep == "soft" else pack_mask(self.embedding >= 0)
        count = int(reserve_([self.reserved], [self.embedding], scale).sum())
        self.stored = torch.cat([self.stored, row[None]])
        self._reset(generator)
        return count

    @torch.no_grad()
    def _reset(self, generator: torch.Generator | None) -> None:
        self.embedding.grad = None
        self.embedding.zero_()
        if self.std:
            noise = torch.empty(self.shape, device="cpu").normal_(std=self.std, generator=generator)
            self.embedding.copy_(noise)

    def extra_repr(self) -> str:
        return f"{', '.join(map(str, self.shape))}, keep={self.keep!r}"

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """With room for as many tasks as the state has."""
        stored = state_dict.get(f"{prefix}stored")
        if stored is not None and stored.shape[1:] == self.stored.shape[1:]:
            self.stored = self.stored.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@contextmanager
def masks_at(model: nn.Module, scale: float, max_scale: float | None = None) -> Iterator[None]:
    """Inside, masks of ``model`` that are being learnt are sigmoid(scale e).

    Args:
        scale: s, finite and > 0.
        max_scale: s_max > 0; then gradients of embeddings come out compensated as in HAT, see
            :func:`clfast.ops.masks.masked_weight`.

    Raises:
        TypeError, ValueError: scales out of range.
    """
    where = "clfast.nn.masks_at"
    scale = real(scale, "scale", where, least=0, open_ends="(")
    if max_scale is not None:
        max_scale = real(max_scale, "max_scale", where, least=0, open_ends="(")
    before = [(m, m.scale, m.max_scale) for m in model.modules() if isinstance(m, TaskMask)]
    for mask, *_ in before:
        mask.scale, mask.max_scale = scale, max_scale
    try:
        yield
    finally:
        for mask, was, max_was in before:
            mask.scale, mask.max_scale = was, max_was


class MaskedLinear(nn.Linear):
    """x (W · mask)^T with a mask of the weight's shape for every task (DGM, Eq. 1; DGMw).

    There is no bias, which no mask could keep. What ``mask.reserved`` has is to be kept by the
    optimizer, see :func:`clfast.ops.masks.block_gradients_`.

    Args:
        in_features, out_features: as in ``nn.Linear``.
        keep: masks of past tasks, see `TaskMask`.

    Raises:
        TypeError, ValueError: sizes below 1, another ``keep``.
    """

    def __init__(self, in_features: int, out_features: int, *, keep: Keep = "binary") -> None:
        where = type(self).__name__
        super().__init__(
            integer(in_features, "in_features", where, least=1),
            integer(out_features, "out_features", where, least=1),
            bias=False,
        )
        self.mask = TaskMask(*self.weight.shape, keep=keep)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return F.linear(x, self.mask(self.weight))


class MaskedConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution whose weight has a mask for every task (DGM, Eq. 1; DGMw).

    Weight and masks are [C_in, C_out, k, k]. There is no bias, which no mask could keep; what
    ``mask.reserved`` has is to be kept by the optimizer.

    Args:
        in_channels, out_channels, kernel_size, stride, padding: as in ``nn.ConvTranspose2d``.
        keep: masks of past tasks, see `TaskMask`.

    Raises:
        TypeError, ValueError: numbers of channels below 1, another ``keep``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        keep: Keep = "binary",
    ) -> None:
        where = type(self).__name__
        super().__init__(
            integer(in_channels, "in_channels", where, least=1),
            integer(out_channels, "out_channels", where, least=1),
            integer(kernel_size, "kernel_size", where, least=1),
            integer(stride, "stride", where, least=1),
            integer(padding, "padding", where, least=0),
            bias=False,
        )
        self.mask = TaskMask(*self.weight.shape, keep=keep)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, (H - 1) stride - 2 padding + kernel_size, ...]."""
        if output_size is not None:
            raise TypeError(f"{type(self).__name__}: output_size is not supported")
        padding = self.padding
        assert not isinstance(padding, str)
        return F.conv_transpose2d(x, self.mask(self.weight), None, self.stride, padding)
