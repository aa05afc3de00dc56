"""What users do wrong with the exemplar ops; see :mod:`test_wrong_use`."""

from __future__ import annotations

import math

import torch
from changes import Change, first, put, set_at
from torch import Tensor

_op = "herding"
WRONG: list[tuple[str, str, Change]] = [
    (_op, "features must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    (_op, "features must be float16, bfloat16, float32 or float64", set_at(0, Tensor.long)),
    (_op, "labels must be of dtype torch.int64, got torch.int32", set_at(1, Tensor.int)),
    (_op, "labels must have shape [37], got [36]", set_at(1, lambda t: t[1:])),
    (_op, "labels must have shape [37], got [1, 37]", set_at(1, lambda t: t[None])),
    (_op, "m must be >= 1, got 0", put(2, 0)),
    (_op, "m must be >= 1, got -3", put(2, -3)),
]
WRONG_VALUES: list[tuple[str, str, Change]] = [
    (_op, "features[0] holds NaN, Inf", set_at(0, first(value)))
    for value in (math.nan, math.inf, -math.inf)
]
WRONG_KINDS: list[tuple[str, str, str, Change]] = [
    (_op, "features", "a tensor", put(0, None)),
    (_op, "features", "dense", set_at(0, Tensor.to_sparse)),
    (_op, "labels", "a tensor", set_at(1, Tensor.tolist)),
    *((_op, "m", "an integer", put(2, value)) for value in (2.5, "3", True, None)),
]

_op = "softmax_descent"
WRONG += [
    (_op, "features must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    (_op, "features must be float16, bfloat16, float32 or float64", set_at(0, Tensor.long)),
    (_op, "labels must be of dtype torch.int64, got torch.int32", set_at(1, Tensor.int)),
    (_op, "labels must have shape [5], got [4]", set_at(1, lambda t: t[1:])),
    (_op, "weight must be 2-D, got 1-D", set_at(2, lambda t: t[0])),
    (_op, "weight must have at least one class", set_at(2, lambda t: t[:0])),
    (_op, "weight must have shape [7, 17], got [7, 16]", set_at(2, lambda t: t[:, 1:])),
    (_op, "float64 does not mix", set_at(2, Tensor.double)),
    (_op, "bias must have shape [7], got [6]", set_at(3, lambda t: t[1:])),
    (_op, "bias is torch.float64 but features is torch.float32", set_at(3, Tensor.double)),
    (_op, "steps must be >= 0, got -1", put("steps", -1)),
    *(
        (_op, "lr must be finite and >= 0, got", put("lr", value))
        for value in (-0.5, math.nan, math.inf, 1e39)
    ),
]
WRONG_VALUES += [
    (_op, "labels", set_at(1, first(7))),
    (_op, "labels", set_at(1, first(-1))),
    (_op, "features holds NaN", set_at(0, first(math.nan))),
    (_op, "weight holds NaN", set_at(2, first(math.nan))),
    (_op, "bias holds NaN", set_at(3, first(math.nan))),
]
WRONG_KINDS += [
    (_op, "features", "a tensor", put(0, None)),
    (_op, "labels", "a tensor", set_at(1, Tensor.tolist)),
    (_op, "weight", "a tensor", put(2, None)),
    (_op, "bias", "a tensor", put(3, [0.0] * 7)),
    (_op, "steps", "an integer", put("steps", 1.5)),
    (_op, "lr", "a number", put("lr", None)),
    (_op, "lr", "a number", put("lr", torch.ones(2))),
]
