"""Rules of masks without a kernel: how steep they are at a batch, which weights units reserve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .. import reference as in_torch
from . import _check

Schedule = Literal["dgmw", "dgma", "dgmw_imnet", "hat"]


def anneal_scale(
    epoch: int,
    epochs: int,
    batch: int,
    batches: int,
    max_scale: float,
    *,
    schedule: Schedule = "dgmw",
    normalise: Literal["code", "paper"] = "code",
) -> float:
    """How steep masks are at a batch of an epoch (DGM, Eq. 3 and 4; HAT, Eq. 3).

    Epochs and batches are counted from 0. All schedules are made of a line from 1/top to top,
    line(i, n, top) = (top - 1/top) i/n + 1/top, which the code divides by n, so that it ends short
    of top, and the paper by n - 1. With s_e = line(epoch, epochs, max_scale):

    * ``"dgmw"``: line(batch, batches, s_e). In epoch 0, where s_e = 1/max_scale, it begins at
      max_scale and falls: Eq. 3 and 4 taken literally, as the authors' code takes them.
    * ``"dgmw_imnet"``: the same with epoch + 1 in the code's normalisation, which spares that.
    * ``"dgma"``: s_e, for the whole epoch; it is also what DGM compensates gradients for.
    * ``"hat"``: line(batch, batches, max_scale), in every epoch.

    Args:
        epoch, epochs: 0 <= epoch < epochs.
        batch, batches: 0 <= batch < batches.
        max_scale: finite and > 0.
        schedule, normalise: see above.

    Raises:
        RuntimeError: a value outside its range.
    """
    op = "anneal_scale"
    max_scale = _check.number(op, "max_scale", max_scale)
    epoch, epochs, batch, batches = (
        _check.integer(op, name, count)
        for name, count in (
            ("epoch", epoch),
            ("epochs", epochs),
            ("batch", batch),
            ("batches", batches),
        )
    )
    _check_anneal_scale(op, epoch, epochs, batch, batches, max_scale, schedule, normalise)
    return in_torch.masks.anneal_scale(
        epoch, epochs, batch, batches, max_scale, schedule=schedule, normalise=normalise
    )


def weight_mask(
    out_mask: Tensor,
    in_mask: Tensor | None = None,
    *,
    mode: Literal["both", "either"] = "both",
    transposed: bool = False,
    shape: Sequence[int] | None = None,
) -> Tensor:
    """Which weights are reserved where units are (DGMa; HAT, Eq. 2).

    Args:
        out_mask: bool with one entry an output unit, of any shape.
        in_mask: bool with one entry an input unit; None is an input that is always there, such as
            noise or pixels.
        mode: ``"both"`` reserves the weights between two reserved units, as DGMa and HAT do;
            ``"either"`` those at one.
        transposed: the layout of transposed convolutions, [C_in, C_out, ...], in place of [C_out,
            C_in, ...].
        shape: the weight's shape, over which the mask is spread.

    Returns:
        Bool of ``shape``; without it [C_out, C_in], or [C_in, C_out], with 1 for C_in without
        ``in_mask``. A new tensor.

    Raises:
        RuntimeError: wrong shape, dtype, device or value.
    """
    op = "weight_mask"
    _check.tensors(op, out_mask=out_mask)
    _check.optional_tensors(op, in_mask=in_mask)
    _check.strings(op, mode=mode)
    transposed = _check.boolean(op, "transposed", transposed)
    if shape is not None:
        shape = _check.sizes(op, shape)
    _check_weight_mask(op, out_mask, in_mask, mode, transposed, shape)
    return in_torch.masks.weight_mask(
        out_mask, in_mask, mode=mode, transposed=transposed, shape=shape
    )


def _check_weight_mask(
    op: str,
    out_mask: Tensor,
    in_mask: Tensor | None,
    mode: str,
    transposed: bool,
    shape: Sequence[int] | None,
) -> None:
    _check.dtype(op, "out_mask", out_mask, torch.bool)
    if in_mask is not None:
        _check.dtype(op, "in_mask", in_mask, torch.bool)
        _check.same_device(op, "in_mask", in_mask, "out_mask", out_mask)
    _check.require(
        mode in ("both", "either"), f'{op}: mode must be "both" or "either", got "{mode}"'
    )
    if shape is None:
        return
    units = {"in" if transposed else "out": 0, "out" if transposed else "in": 1}
    _check.require(len(shape) >= 2, f"{op}: shape must have 2 dimensions or more, got {shape}")
    for name, mask in (("out", out_mask), ("in", in_mask)):
        size = shape[units[name]]
        _check.require(
            mask is None or mask.numel() == size,
            f"{op}: {name}_mask must have {size} entries, as shape {list(shape)} has of these "
            f"units, got {mask.numel() if mask is not None else 0}",
        )


def _check_anneal_scale(
    op: str,
    epoch: int,
    epochs: int,
    batch: int,
    batches: int,
    max_scale: float,
    schedule: str,
    normalise: str,
) -> None:
    # torch.compile traces this: messages of numbers that change from batch to batch are made only
    # where they are raised.
    for name, at, names, count in (
        ("epoch", epoch, "epochs", epochs),
        ("batch", batch, "batches", batches),
    ):
        if count < 1:
            raise RuntimeError(f"clfast::{op}: {names} must be >= 1, got {count}")
        if not 0 <= at < count:
            raise RuntimeError(
                f"clfast::{op}: {name} must be in [0, {count}), counted from 0, got {at}"
            )
    if not 0 < max_scale < math.inf:
        raise RuntimeError(f"clfast::{op}: max_scale must be finite and > 0, got {max_scale:g}")
    _check.strings(op, schedule=schedule, normalise=normalise)
    schedules = ("dgmw", "dgma", "dgmw_imnet", "hat")
    _check.require(
        schedule in schedules, f'{op}: schedule must be one of {schedules}, got "{schedule}"'
    )
    _check.require(
        normalise in ("code", "paper"),
        f'{op}: normalise must be "code" or "paper", got "{normalise}"',
    )
