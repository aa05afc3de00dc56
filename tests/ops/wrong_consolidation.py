"""What users do wrong with the consolidation ops; see :mod:`test_wrong_use`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from changes import Change, first, put, set_at
from torch import Tensor


def entry(position: int, index: int, change: Callable[[Tensor], Any]) -> Change:
    """A change of one tensor of a list."""
    return set_at(
        position, lambda tensors: [change(t) if i == index else t for i, t in enumerate(tensors)]
    )


_op = "project_gradients_"
WRONG: list[tuple[str, str, Change]] = [
    (_op, "reference must hold 7 tensors, as grads does, got 6", set_at(1, lambda t: t[1:])),
    (_op, "reference must hold 6 tensors, as grads does, got 7", set_at(0, lambda t: t[1:])),
    (_op, "reference must hold 0 tensors, as grads does, got 7", put(0, [])),
    (_op, "reference must hold 7 tensors, as grads does, got 0", put(1, [])),
    (
        _op,
        "reference[5] must have shape [7, 37], as grads[5] has, got [37, 7]",
        entry(1, 5, Tensor.t),
    ),
    (_op, "grads[3] must be float16, bfloat16, float32 or float64", entry(0, 3, Tensor.long)),
    (_op, "reference[4] must be float16", entry(1, 4, Tensor.bool)),
    (
        _op,
        "grads[2] is torch.float64 but grads[0] is torch.float32; float64 does not mix",
        entry(0, 2, Tensor.double),
    ),
    (_op, "reference[1] is torch.float64 but grads[0]", entry(1, 1, Tensor.double)),
    (
        _op,
        "grads[0] must not be expanded: an element would be changed more than once",
        entry(0, 0, lambda t: t[:1].expand_as(t)),
    ),
]
WRONG_VALUES: list[tuple[str, str, Change]] = [
    (_op, "grads[0] holds NaN", entry(0, 0, first(math.nan))),
    (_op, "grads[6] holds NaN", entry(0, 6, first(math.nan))),
    (_op, "reference[1] holds NaN", entry(1, 1, first(math.nan))),
    (_op, "grads or reference hold infinities", entry(0, 1, first(math.inf))),
    (_op, "grads or reference hold infinities", entry(1, 1, first(-math.inf))),
]
WRONG_KINDS: list[tuple[str, str, str, Change]] = [
    *(
        (_op, name, "a list of tensors", put(at, None))
        for at, name in enumerate(["grads", "reference"])
    ),
    (_op, "grads", "a list of tensors", set_at(0, lambda t: t[0])),
    (_op, "grads[2]", "a tensor", entry(0, 2, lambda _: None)),
    (_op, "reference[6]", "a tensor", entry(1, 6, Tensor.tolist)),
    (_op, "reference[0]", "dense", entry(1, 0, Tensor.to_sparse)),
]

WRONG += [
    ("gem_project", "grad must be 1-D, got 2-D", set_at(0, lambda t: t[None])),
    ("gem_project", "grad must be float16, bfloat16, float32 or float64", set_at(0, Tensor.long)),
    ("gem_project", "memory_grads must be 2-D, got 1-D", set_at(1, lambda t: t[0])),
    ("gem_project", "memory_grads must have shape [5, 17]", set_at(1, lambda t: t[:, 1:])),
    ("gem_project", "float64 does not mix", set_at(1, Tensor.double)),
    *(
        ("gem_project", "margin must be finite and >= 0, got", put("margin", value))
        for value in (-0.5, math.nan, math.inf)
    ),
]
WRONG_VALUES += [
    ("gem_project", "grad holds NaN", set_at(0, first(math.nan))),
    ("gem_project", "memory_grads holds NaN", set_at(1, first(math.nan))),
    ("gem_project", "grad or memory_grads hold infinities", set_at(0, first(math.inf))),
    ("gem_project", "grad or memory_grads hold infinities", set_at(1, first(-math.inf))),
]
WRONG_KINDS += [
    ("gem_project", "grad", "a tensor", put(0, None)),
    ("gem_project", "memory_grads", "a tensor", set_at(1, lambda t: [t])),
    ("gem_project", "margin", "a number", put("margin", torch.ones(2))),
]

_LISTS = {
    "quadratic_penalty": ["params", "anchors", "importances"],
    "add_penalty_gradients_": ["grads", "params", "anchors", "importances"],
    "path_integral_": ["omegas", "grads", "deltas"],
}
for _op, (_first, *_others) in _LISTS.items():
    WRONG += [
        (_op, f"{_first}[3] must be float16, bfloat16", entry(0, 3, Tensor.long)),
        (
            _op,
            f"{_first}[2] is torch.float64 but {_first}[0] is torch.float32; float64 does not mix",
            entry(0, 2, Tensor.double),
        ),
    ]
    for _at, _name in enumerate(_others, 1):
        WRONG += [
            (
                _op,
                f"{_name} must hold 7 tensors, as {_first} does, got 6",
                set_at(_at, lambda t: t[1:]),
            ),
            (
                _op,
                f"{_name}[5] must have shape [7, 37], as {_first}[5] has, got [37, 7]",
                entry(_at, 5, Tensor.t),
            ),
            (_op, f"{_name}[4] must have shape [1], as", entry(_at, 4, lambda t: t[0])),
            (_op, f"{_name}[4] must be float16, bfloat16", entry(_at, 4, Tensor.bool)),
            (_op, f"{_name}[1] is torch.float64 but {_first}[0]", entry(_at, 1, Tensor.double)),
        ]
    WRONG.append((_op, f"{_others[0]} must hold 0 tensors, as {_first} does, got 7", put(0, [])))
    for _at, _name in enumerate([_first, *_others]):
        WRONG_KINDS += [
            (_op, _name, "a list of tensors", put(_at, None)),
            (_op, _name, "a list of tensors", set_at(_at, lambda t: t[0])),
            (_op, f"{_name}[2]", "a tensor", entry(_at, 2, lambda _: None)),
            (_op, f"{_name}[0]", "dense", entry(_at, 0, Tensor.to_sparse)),
        ]


def _before(index: int, change: Callable[[Tensor], Any]) -> Change:
    """A change of one tensor of such a list as the op may have."""

    def apply(args: list[Any], kwargs: dict[str, Any]) -> None:
        kwargs["before"] = [change(t) if i == index else t for i, t in enumerate(args[2])]

    return apply


_op = "path_integral_"
WRONG += [
    (_op, "before must hold 7 tensors, as omegas does, got 0", put("before", [])),
    (_op, "before[5] must have shape [7, 37], as omegas[5] has, got", _before(5, Tensor.t)),
    (_op, "before[1] is torch.float64 but omegas[0]", _before(1, Tensor.double)),
    (_op, "before[4] must be float16, bfloat16", _before(4, Tensor.bool)),
]
WRONG_KINDS += [
    (_op, "before", "a list of tensors", put("before", 3)),
    (_op, "before[2]", "a tensor", _before(2, lambda _: None)),
    (_op, "before[0]", "dense", _before(0, Tensor.to_sparse)),
]

_op = "add_penalty_gradients_"
WRONG += [
    (_op, "grads[0] must not be expanded", entry(0, 0, lambda t: t[:1].expand_as(t))),
    ("path_integral_", "omegas[0] must not be expanded", entry(0, 0, lambda t: t[:1].expand_as(t))),
    *(
        (_op, "strength must be finite and >= 0, got", put(4, value))
        for value in (-0.5, math.nan, math.inf, 1e39)
    ),
]
WRONG_KINDS += [(_op, "strength", "a number", put(4, value)) for value in (None, torch.ones(2))]


def _infinite_from_infinite(args: list[Any], kwargs: dict[str, Any]) -> None:
    for position in (0, 1):
        entry(position, 0, first(math.inf))(args, kwargs)


_op = "quadratic_penalty"
WRONG_VALUES += [
    (_op, "params[0] holds NaN", entry(0, 0, first(math.nan))),
    (_op, "anchors[6] holds NaN", entry(1, 6, first(math.nan))),
    (_op, "importances[1] holds NaN", entry(2, 1, first(math.nan))),
    (
        _op,
        "params, anchors or importances hold NaN, or infinities that cancel",
        _infinite_from_infinite,
    ),
]
