"""Argument checks in Python: for fake tensors and for the reference backend.

The compiled ops check in C++ (``csrc/ops/check.h``, same rules, same messages).
"""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from .. import _arguments

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise RuntimeError(f"clfast::{message}")


def tensors(op: str, **given: object) -> None:
    """Raises TypeError for what is no dense tensor; the dispatcher's message names no argument."""
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"clfast::{op}: {name} must be a tensor, got {type(tensor).__name__}")
        if tensor.layout is not torch.strided:
            raise TypeError(
                f"clfast::{op}: {name} must be dense, got {tensor.layout}; "
                f"convert it with {name}.to_dense()"
            )


def optional_tensors(op: str, **given: object) -> None:
    for name, tensor in given.items():
        if tensor is not None:
            tensors(op, **{name: tensor})


def lists(op: str, **given: object) -> None:
    """Raises TypeError for what is no list or tuple; what is in it is not looked at."""
    for name, value in given.items():
        if not isinstance(value, list | tuple):
            kind = type(value).__name__
            hint = f"; pass list({name})" if isinstance(value, Iterator) else ""
            raise TypeError(f"clfast::{op}: {name} must be a list of tensors, got {kind}{hint}")


def lists_of_tensors(op: str, **given: Any) -> None:
    lists(op, **given)
    for name, value in given.items():
        tensors(op, **{f"{name}[{i}]": tensor for i, tensor in enumerate(value)})


def lists_of_optional_tensors(op: str, **given: Any) -> None:
    lists(op, **given)
    for name, value in given.items():
        optional_tensors(op, **{f"{name}[{i}]": tensor for i, tensor in enumerate(value)})


def optional_lists_of_tensors(op: str, **given: Any) -> None:
    lists_of_tensors(op, **{name: value for name, value in given.items() if value is not None})


def integer(op: str, name: str, value: Any) -> Any:
    """`value` as an int, or the SymInt that it is.

    Raises TypeError for what does not count: numbers with a fraction, and True and False.
    """
    if type(value) is int or isinstance(value, torch.SymInt):
        number = value
    else:
        try:
            if isinstance(value, bool):
                raise TypeError
            number = operator.index(value)
        except (TypeError, RuntimeError, ValueError):
            kind = type(value).__name__
            raise TypeError(f"clfast::{op}: {name} must be an integer, got {kind}") from None
    if type(number) is int and not -(2**63) <= number < 2**63:
        raise ValueError(f"clfast::{op}: {name} must fit into 64 bits, got {number}")
    return number


def integers(op: str, name: str, values: Sequence[Any]) -> list[Any]:
    """:func:`integer` of each."""
    if all(type(value) is int and -(2**63) <= value < 2**63 for value in values):
        return list(values)  # without a name for each
    return [integer(op, f"{name}[{i}]", value) for i, value in enumerate(values)]


def sizes(op: str, value: Any) -> list[Any]:
    """The argument `shape` as integers."""
    if not isinstance(value, Iterable):
        kind = type(value).__name__
        raise TypeError(f"clfast::{op}: shape must be a sequence of integers, got {kind}")
    return [integer(op, "shape", size) for size in value]


def number(op: str, name: str, value: Any) -> Any:
    """`value` as a float, or the SymFloat that it is; tensors and arrays of one element are one.

    Raises TypeError for what is no real number.
    """
    if type(value) is float or isinstance(value, torch.SymFloat):
        return value
    kind = type(value).__name__
    if isinstance(value, Tensor | np.ndarray) and np.prod(value.shape) == 1:
        value = value.item()
    if not isinstance(value, Real):
        raise TypeError(f"clfast::{op}: {name} must be a number, got {kind}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            f"clfast::{op}: {name} must be finite, got an int beyond float64"
        ) from None


def boolean(op: str, name: str, value: Any) -> bool:
    """As `_arguments.boolean`."""
    return _arguments.boolean(value, name, f"clfast::{op}")


def strings(op: str, **given: object) -> None:
    for name, value in given.items():
        if not isinstance(value, str):
            kind = type(value).__name__
            raise TypeError(f"clfast::{op}: {name} must be a string, got {kind}")


def dtypes(op: str, **given: object) -> None:
    for name, value in given.items():
        if not isinstance(value, torch.dtype):
            kind = type(value).__name__
            raise TypeError(f"clfast::{op}: {name} must be a torch.dtype, got {kind}")


def pair(op: str, name: str, value: object, wanted: str) -> tuple[Tensor, Tensor]:
    """The two halves of a pair of tensors with names, or of a plain one."""
    if not (isinstance(value, tuple) and len(value) == 2):
        kind = type(value).__name__
        raise TypeError(f"clfast::{op}: {name} must be {wanted} returns, got {kind}")
    return value


def neighbours(op: str, neighbors: object) -> tuple[Tensor, Tensor]:
    return pair(op, "neighbors", neighbors, "Neighbors(sq_distances, indices), as knn")


def refused_by_model(op: str, name: str, tensor: Tensor, error: Exception) -> NoReturn:
    """What a model has raised, with the argument that it was given."""
    # Subclasses of RuntimeError tell of the machine: out of memory, a device's fault.
    if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
        raise error
    raise RuntimeError(
        f"clfast::{op}: model cannot take {name}, {tensor.dtype} {list(tensor.shape)}: {error}"
    ) from error


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64, else float32: what the arithmetic is done in."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def dim(op: str, name: str, tensor: Tensor, wanted: int) -> None:
    require(tensor.dim() == wanted, f"{op}: {name} must be {wanted}-D, got {tensor.dim()}-D")


def shape(op: str, name: str, tensor: Tensor, wanted: tuple[int, ...]) -> None:
    require(
        tuple(tensor.shape) == wanted,
        f"{op}: {name} must have shape {list(wanted)}, got {list(tensor.shape)}",
    )


def dtype(op: str, name: str, tensor: Tensor, wanted: torch.dtype) -> None:
    require(tensor.dtype == wanted, f"{op}: {name} must be of dtype {wanted}, got {tensor.dtype}")


def floating(op: str, name: str, tensor: Tensor) -> None:
    require(
        tensor.dtype in FLOATING,
        f"{op}: {name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}",
    )


def same_precision(op: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    floating(op, name, tensor)
    require(
        (tensor.dtype == torch.float64) == (other.dtype == torch.float64),
        f"{op}: {name} is {tensor.dtype} but {other_name} is {other.dtype}; "
        "float64 does not mix with other dtypes",
    )


def same_device(op: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    require(
        tensor.device == other.device,
        f"{op}: {name} and {other_name} are on different devices",
    )


def not_expanded(op: str, name: str, tensor: Tensor) -> None:
    expanded = any(
        size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    require(
        not expanded,
        f"{op}: {name} must not be expanded: an element would be changed more than once",
    )


def held(value: float, dtype: torch.dtype) -> float:
    """A number as the arithmetic sees it: what float32 cannot hold becomes 0 or infinite there."""
    return float(value) if dtype == torch.float64 else ctypes.c_float(float(value)).value


def finite(
    op: str,
    name: str,
    value: float,
    ok: bool,
    wanted: str,
    dtype: torch.dtype = torch.float64,
) -> None:
    """`value` is ok, and finite in the arithmetic of `dtype`."""
    require(
        math.isfinite(held(value, dtype)) and ok, f"{op}: {name} must be {wanted}, got {value:g}"
    )


def num_classes(op: str, value: int) -> None:
    require(1 <= value < 2**31, f"{op}: num_classes must be in [1, 2**31), got {value}")


def values_known(tensor: Tensor) -> bool:
    """Whether values may be looked at: real CPU tensors only (CUDA would synchronise)."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def in_range(op: str, name: str, tensor: Tensor, limit: int, what: str) -> None:
    if values_known(tensor):
        outside = tensor[(tensor < 0) | (tensor >= limit)]
        require(
            outside.numel() == 0,
            f"{op}: {name} holds {outside[:1].tolist()}, outside [0, {limit}), {what}",
        )


def not_negative(op: str, name: str, tensor: Tensor, problem: str) -> None:
    if values_known(tensor):
        require(bool((tensor >= 0).all()), f"{op}: {name} is {problem}")


def no_nan(op: str, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and values_known(tensor):
            require(not bool(tensor.isnan().any()), f"{op}: {name} holds NaN")


def no_nan_result(op: str, culprit: str, *results: Tensor) -> None:
    for result in results:
        if values_known(result):
            message = f"{op}: {culprit} NaN, or infinities that cancel"
            require(not bool(result.isnan().any()), message)
