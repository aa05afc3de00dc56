"""What users do wrong with the exemplar ops; see :mod:`test_wrong_use`."""

from __future__ import annotations

import math

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
