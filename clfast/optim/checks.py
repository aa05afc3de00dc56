"""Checks of masks and parameters. `where` opens every message: `MaskedAdam`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def check_optimizer(optimizer: object, where: str) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        kind = type(optimizer).__name__
        raise TypeError(f"{where}: optimizer must be a torch.optim.Optimizer, got {kind}")


def check_reserved(
    reserved: object, groups: Iterable[dict[str, Any]], where: str
) -> dict[Tensor, Tensor]:
    """Every mask is of a parameter of the groups, and fits it. A copy of the mapping."""
    if not isinstance(reserved, Mapping):
        kind = type(reserved).__name__
        raise TypeError(f"{where}: reserved must be a mapping of parameters to masks, got {kind}")
    places = {
        id(p): (group_index, index, p)
        for group_index, group in enumerate(groups)
        for index, p in enumerate(group["params"])
    }
    for at, (parameter, mask) in enumerate(reserved.items()):
        if not isinstance(parameter, Tensor):
            kind = type(parameter).__name__
            raise TypeError(f"{where}: keys of reserved must be parameters, key {at} is {kind}")
        if id(parameter) not in places:
            raise ValueError(
                f"{where}: key {at} of reserved, a tensor of shape {list(parameter.shape)}, is in "
                "no parameter group"
            )
        check_mask(mask, places[id(parameter)][2], *places[id(parameter)][:2], where)
    return dict(reserved)


def check_mask(mask: object, parameter: Tensor, group: int, index: int, where: str) -> None:
    """Bool of the parameter's shape, or uint8 [ceil(numel / 8)], on its device."""
    problem = _problem(mask, parameter)
    if problem is not None:
        error, text = problem
        raise error(f"{where}: the mask of parameter {index} in group {group} {text}")


def _problem(mask: object, parameter: Tensor) -> tuple[type[Exception], str] | None:
    if not isinstance(mask, Tensor):
        return TypeError, f"must be a tensor, got {type(mask).__name__}"
    if mask.dtype == torch.uint8:
        count = (parameter.numel() + 7) // 8
        if mask.shape != (count,):
            return ValueError, (
                f"is packed and must have shape [{count}] for {parameter.numel()} elements, "
                f"got {list(mask.shape)}"
            )
    elif mask.dtype != torch.bool:
        return TypeError, f"must be bool, or uint8 from pack_mask, got {mask.dtype}"
    elif mask.shape != parameter.shape:
        return ValueError, f"must have shape {list(parameter.shape)}, got {list(mask.shape)}"
    if mask.device != parameter.device:
        return ValueError, f"must be on {parameter.device} as the parameter is, got {mask.device}"
    return None


def check_state(
    state: Mapping[str, object],
    names: Iterable[str],
    parameter: Tensor,
    group: int,
    index: int,
    where: str,
) -> None:
    """What there is of a parameter's state is like the parameter; "step" is a count on the CPU."""
    like = (parameter.shape, parameter.dtype, parameter.device)
    for name in names:
        kept = state.get(name)
        if kept is None:
            continue
        problem: tuple[type[Exception], str] | None
        if name == "step":
            found = count_or_problem(kept)
            if isinstance(found, int):
                continue
            problem = found
        elif isinstance(kept, Tensor) and (kept.shape, kept.dtype, kept.device) == like:
            if not _is_expanded(kept):
                continue
            problem = ValueError, "must not be expanded: an element would be changed more than once"
        else:
            problem = _unlike(kept, parameter)
        if problem is not None:
            error, text = problem
            raise error(
                f"{where}: the state {name} of parameter {index} in group {group} {text}; load the "
                "state of an optimizer of the same parameters"
            )


def _unlike(kept: object, parameter: Tensor) -> tuple[type[Exception], str] | None:
    if not isinstance(kept, Tensor):
        return TypeError, f"must be a tensor, got {type(kept).__name__}"
    if kept.shape != parameter.shape:
        return ValueError, f"must have shape {list(parameter.shape)}, got {list(kept.shape)}"
    if kept.dtype != parameter.dtype:
        return TypeError, f"must be {parameter.dtype} as the parameter is, got {kept.dtype}"
    if kept.device != parameter.device:
        return ValueError, f"must be on {parameter.device} as the parameter is, got {kept.device}"
    return None


def count_or_problem(step: object) -> int | tuple[type[Exception], str]:
    """The number of steps so far, or why there is none."""
    if not (isinstance(step, Tensor) and step.is_floating_point() and step.dim() == 0):
        return TypeError, "must be a 0-D floating point tensor"
    if not step.is_cpu:
        return ValueError, f"must be on cpu, got {step.device}"
    count = step.item()
    if not 0 <= count < math.inf:
        return ValueError, f"must be finite and >= 0, got {count:g}"
    return int(count)


def counts(steps: Iterable[object]) -> list[int]:
    """The numbers of steps so far; what is none is named by :func:`check_state`."""
    found = [count_or_problem(step) for step in steps]
    numbers = [count for count in found if isinstance(count, int)]
    if len(numbers) < len(found):
        raise ValueError("a state step is no count")
    return numbers


def check_group(group: dict[str, Any], index: int, where: str) -> None:
    """float32 or float64 parameters, and none of torch's options for another kind of pass."""
    check_options(group, index, where)
    for at, parameter in enumerate(group["params"]):
        check_parameter(parameter, index, at, where)


def check_options(group: dict[str, Any], index: int, where: str) -> None:
    for option in ("foreach", "fused", "capturable", "differentiable"):
        if group.get(option):
            raise ValueError(
                f"{where}: {option} of group {index} is not offered: the step is one pass in any "
                "case, with a number of steps on the host and without a graph of its own"
            )


def check_gradient(gradient: Tensor, parameter: Tensor, group: int, index: int, where: str) -> None:
    """Dense, and like the parameter: `.data` of a gradient may be set to anything."""
    what = f"{where}: the gradient of parameter {index} in group {group}"
    if gradient.layout is not torch.strided:
        raise RuntimeError(f"{what} must be dense, got {gradient.layout}")
    problem = _unlike(gradient, parameter)
    if problem is not None:
        error, text = problem
        raise error(f"{what} {text}")


def _is_expanded(tensor: Tensor) -> bool:
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return any(size > 1 and stride == 0 for size, stride in sizes)


def check_parameter(parameter: Tensor, group: int, index: int, where: str) -> None:
    if parameter.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{where}: parameter {index} in group {group} must be float32 or float64, got "
            f"{parameter.dtype}"
        )
    if _is_expanded(parameter):
        raise ValueError(
            f"{where}: parameter {index} in group {group} must not be expanded: an element would "
            "be changed more than once"
        )
