"""Checks of what callers pass to a learner. `where` opens every message: `Hebb.observe`."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..memory import KeyValueMemory


def integer(value: object, name: str, where: str, *, least: int) -> int:
    """`value` as an int of at least `least`; TypeError or ValueError otherwise."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{where}: {name} must be an integer, got {kind}") from None
    if number < least:
        raise ValueError(f"{where}: {name} must be at least {least}, got {number}")
    return number


def real(
    value: object, name: str, where: str, *, least: float = -math.inf, most: float = math.inf
) -> float:
    """`value` as a finite float in [least, most]; TypeError or ValueError otherwise."""
    try:
        finite = math.isfinite(value)  # type: ignore[arg-type]
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{where}: {name} must be a number, got {kind}") from None
    number = float(value)  # type: ignore[arg-type]
    if not (finite and least <= number <= most):
        bounds = "" if least == -math.inf else f" and in [{least:g}, {most:g}]"
        raise ValueError(f"{where}: {name} must be finite{bounds}, got {number:g}")
    return number


def one_of(choice: object, choices: Iterable[str], name: str, where: str) -> None:
    """`choice` is among `choices`; ValueError otherwise."""
    known = list(choices)
    if choice not in known:
        raise ValueError(f"{where}: {name} must be one of {', '.join(known)}, got {choice!r}")


def check_head(head: object, memory: KeyValueMemory | None, where: str) -> None:
    """`head` is an `nn.Linear` that takes what `memory` stores."""
    if not isinstance(head, nn.Linear):
        raise TypeError(
            f"{where}: head must be an nn.Linear, got {type(head).__name__}; "
            "pass the last linear layer as head and all before it as features"
        )
    if memory is not None and head.in_features != memory.dim:
        raise ValueError(
            f"{where}: memory has keys of dim {memory.dim}, but head takes {head.in_features} "
            f"features; make it with KeyValueMemory({head.in_features})"
        )


def check_samples(x: object, where: str) -> None:
    """`x` is a tensor of samples [B, ...]."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{where}: x must be a torch.Tensor, got {type(x).__name__}")
    if x.ndim == 0:
        raise ValueError(f"{where}: x must have shape [B, ...], got a scalar")


def check_labels(y: object, count: int, num_classes: int, device: torch.device, where: str) -> None:
    """`y` is an int64 tensor [count] of labels in [0, num_classes) on `device`."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{where}: y must be a torch.Tensor, got {type(y).__name__}")
    if y.dtype != torch.int64:
        raise TypeError(f"{where}: y must be int64, got {y.dtype}; convert it with y.long()")
    if y.shape != (count,):
        raise ValueError(
            f"{where}: y must have shape [{count}], one label a sample of x, got {list(y.shape)}"
        )
    if y.device != device:
        raise ValueError(f"{where}: y must be on {device} as x is, got {y.device}")
    outside = y[(y < 0) | (y >= num_classes)]
    if outside.numel():
        raise ValueError(
            f"{where}: y holds label {int(outside[0])}, but head has outputs for "
            f"[0, {num_classes}); a new class needs a larger head"
        )


def check_features(
    features: object, count: int, dim: int, memory: KeyValueMemory | None, where: str
) -> None:
    """What the features module returned is floating point [count, dim] on the memory's device."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{where}: features must return a floating-point tensor, got {kind}")
    if features.shape[:1] != (count,) or features.numel() != count * dim or features.ndim < 2:
        raise ValueError(
            f"{where}: features must return [{count}, {dim}], a row a sample as head takes it, "
            f"got {list(features.shape)} for x"
        )
    if memory is not None and features.device != memory.device:
        raise ValueError(
            f"{where}: features are on {features.device}, but memory is on {memory.device}; "
            f"move it with memory.to('{features.device}')"
        )


def check_finite(features: Tensor, where: str) -> None:
    """No NaN and no Inf in features [B, d]."""
    # A finite sum has finite terms; the exact look is needed only when the sum overflows.
    if math.isfinite(features.sum(dtype=torch.float32)):
        return
    bad = ~features.isfinite().all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{where}: features of x hold NaN or Inf in row {row}; look for it in x, and in the "
            "parameters of features"
        )
