"""Checks of plain arguments. `where` opens every message: `KeyValueMemory.search`."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch


def integer(value: object, name: str, where: str, *, least: int) -> int:
    """`value` as a 64-bit int of at least `least`; TypeError or ValueError otherwise."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{where}: {name} must be an integer, got {kind}") from None
    if number < least:
        raise ValueError(f"{where}: {name} must be at least {least}, got {number}")
    if number >= 2**63:
        raise ValueError(f"{where}: {name} must fit into 64 bits, got {number}")
    return number


def real(
    value: object,
    name: str,
    where: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    open_ends: str = "",
) -> float:
    """`value` as a finite float from `least` to `most`; TypeError or ValueError otherwise.

    open_ends: "(" if `least` itself is out of range, ")" if `most` is.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise TypeError(f"{where}: {name} must be a number, got {kind}") from None
    if isinstance(value, str):
        raise TypeError(f"{where}: {name} must be a number, got str")
    outside = number < least or number > most
    at_an_end = ("(" in open_ends and number == least) or (")" in open_ends and number == most)
    if not math.isfinite(number) or outside or at_an_end:
        left = "(" if "(" in open_ends else "["
        right = ")" if ")" in open_ends or most == math.inf else "]"
        bounds = "" if least == -math.inf else f" and in {left}{least:g}, {most:g}{right}"
        raise ValueError(f"{where}: {name} must be finite{bounds}, got {number:g}")
    return number


def boolean(value: object, name: str, where: str) -> bool:
    """`value` as a bool; numpy's is one, and so are 0 and 1. TypeError for what is no switch."""
    if isinstance(value, bool | np.bool_) or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{where}: {name} must be True or False, got {type(value).__name__}")


def one_of(choice: object, choices: Iterable[object], name: str, where: str) -> None:
    """`choice` is among `choices`; ValueError otherwise."""
    known = list(choices)
    if choice not in known:
        raise ValueError(
            f"{where}: {name} must be one of {', '.join(map(str, known))}, got {choice!r}"
        )


def device(value: torch.device | str, where: str) -> torch.device:
    """`value` as the device of tensors made there; TypeError or ValueError if it holds none."""
    try:
        found = torch.empty(0, device=torch.device(value)).device
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{where}: device must be a torch.device or its name, got {kind}") from None
    except (RuntimeError, AssertionError, ImportError) as error:
        # torch without CUDA raises AssertionError, without the module of a backend ImportError.
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{where}: device {value} cannot be used: {reason}") from error
    if found.type == "meta":
        raise ValueError(f"{where}: device meta cannot be used: tensors there have no values")
    return found


def cpu_generator(value: object, where: str) -> torch.Generator:
    """`value` if it is a torch.Generator on the CPU; TypeError or ValueError otherwise."""
    if not isinstance(value, torch.Generator):
        kind = type(value).__name__
        raise TypeError(f"{where}: generator must be a torch.Generator, got {kind}")
    if value.device.type != "cpu":
        raise ValueError(f"{where}: generator must be on the CPU, got {value.device}")
    return value


def path(value: object, where: str) -> Path:
    """`value` as a path; TypeError for what is none."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{where}: path must be a str or a Path, got {type(value).__name__}")
    return Path(value)


def file(value: object, where: str) -> Path:
    """`value` as the path of a file that is there; TypeError or OSError otherwise."""
    found = path(value, where)
    try:
        there, folder = found.is_file(), found.is_dir()
    except OSError as error:  # a name too long, for one
        raise OSError(f"{where}: {found}: {error}") from error
    if folder:
        raise IsADirectoryError(f"{where}: {found}: this is a folder, not a file")
    if not there:
        raise FileNotFoundError(f"{where}: {found}: there is no such file")
    return found
