"""What users do wrong with the losses and heads of learners with exemplars; see
:mod:`test_wrong_use`."""

from __future__ import annotations

import math
from typing import Any

import torch
from changes import Change, first, put, set_at
from torch import Tensor


def _scaled(temperature: float) -> Change:
    def apply(args: list[Any], kwargs: dict[str, Any]) -> None:
        args[2], kwargs["scale_t2"] = temperature, True

    return apply


WRONG: list[tuple[str, str, Change]] = [
    ("distillation_loss", "student must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    ("distillation_loss", "student must be float16", set_at(0, Tensor.int)),
    ("distillation_loss", "teacher must be 2-D, got 1-D", set_at(1, lambda t: t[0])),
    (
        "distillation_loss",
        "teacher must have 5 rows, as student has, got 4",
        set_at(1, lambda t: t[1:]),
    ),
    (
        "distillation_loss",
        "teacher must have between 1 and 7 classes, which student has, got 8",
        put(1, torch.ones(5, 8)),
    ),
    ("distillation_loss", "student has, got 0", put(1, torch.ones(5, 0))),
    ("distillation_loss", "float64 does not mix", set_at(1, Tensor.double)),
    *(
        ("distillation_loss", "temperature must be positive and finite, got ", put(2, value))
        for value in (0.0, -1.0, math.nan, math.inf, 1e39, 1e-45)
    ),
    *(
        (
            "distillation_loss",
            "temperature must be positive and finite, and so its square for scale_t2, got ",
            _scaled(value),
        )
        for value in (1e25, 1e-25)
    ),
    (
        "distillation_loss",
        "reduction must be batchmean, mean or sum, got none",
        put("reduction", "none"),
    ),
    ("margin_ranking_loss", "cosines must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    ("margin_ranking_loss", "cosines must be float16", set_at(0, Tensor.int)),
    (
        "margin_ranking_loss",
        "cosines must have at least one class",
        set_at(0, lambda t: t[:, :0]),
    ),
    ("margin_ranking_loss", "labels must be of dtype torch.int64", set_at(1, Tensor.int)),
    (
        "margin_ranking_loss",
        "labels must have shape [5], got [4]",
        set_at(1, lambda t: t[1:]),
    ),
    ("margin_ranking_loss", "new_classes must be 1-D, got 2-D", set_at(2, lambda t: t[None])),
    ("margin_ranking_loss", "new_classes must be of dtype torch.int64", set_at(2, Tensor.int)),
    *(
        ("margin_ranking_loss", "margin must be finite, got ", put("margin", value))
        for value in (math.nan, math.inf, 1e39)
    ),
    *(
        ("margin_ranking_loss", f"k must be at least 1, got {value}", put("k", value))
        for value in (0, -3)
    ),
    ("cosine_logits", "features must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    ("cosine_logits", "features must be float16", set_at(0, Tensor.int)),
    ("cosine_logits", "weight must be 2-D, got 1-D", set_at(1, lambda t: t[0])),
    (
        "cosine_logits",
        "features have 17 columns but weight has 16",
        set_at(1, lambda t: t[:, 1:]),
    ),
    ("cosine_logits", "weight is torch.float64", set_at(1, Tensor.double)),
    ("cosine_logits", "scale must be 0-D, got 1-D", set_at(2, lambda t: t[None])),
    ("cosine_logits", "scale is torch.float64", set_at(2, Tensor.double)),
    ("cosine_logits", "scale must be float16", set_at(2, Tensor.int)),
    *(("cosine_logits", "scale must be finite, got ", put(2, x)) for x in (math.nan, 1e39)),
    ("bias_correct", "logits must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    ("bias_correct", "logits must be float16", set_at(0, Tensor.int)),
    ("bias_correct", "logits must have at least one class", set_at(0, lambda t: t[:, :0])),
    ("bias_correct", "new_classes must be 1-D, got 2-D", set_at(1, lambda t: t[None])),
    ("bias_correct", "new_classes must be of dtype torch.int64", set_at(1, Tensor.int)),
    ("bias_correct", "scale must be 0-D, got 1-D", set_at(2, lambda t: t[None])),
    ("bias_correct", "shift must be 0-D, got 1-D", set_at(3, lambda t: t[None])),
    ("bias_correct", "scale is torch.float64", set_at(2, Tensor.double)),
    ("bias_correct", "shift is torch.float64", set_at(3, Tensor.double)),
    ("bias_correct", "scale must be finite, got inf", put(2, math.inf)),
    ("bias_correct", "shift must be finite, got nan", put(3, math.nan)),
]
WRONG_VALUES: list[tuple[str, str, Change]] = [
    ("distillation_loss", "student holds NaN", set_at(0, first(math.nan))),
    ("distillation_loss", "teacher holds NaN", set_at(1, first(math.nan))),
    ("margin_ranking_loss", "cosines holds NaN", set_at(0, first(math.nan))),
    ("margin_ranking_loss", "labels", set_at(1, first(7))),
    ("margin_ranking_loss", "labels", set_at(1, first(-1))),
    ("margin_ranking_loss", "new_classes", set_at(2, first(7))),
    ("margin_ranking_loss", "new_classes", set_at(2, first(-1))),
    ("cosine_logits", "features holds NaN", set_at(0, first(math.nan))),
    ("cosine_logits", "weight holds NaN", set_at(1, first(math.nan))),
    ("cosine_logits", "scale must be finite", put(2, torch.tensor(math.nan))),
    ("bias_correct", "logits holds NaN", set_at(0, first(math.nan))),
    ("bias_correct", "new_classes", set_at(1, first(7))),
    ("bias_correct", "new_classes", set_at(1, first(-1))),
    ("bias_correct", "scale must be finite", put(2, torch.tensor(math.inf))),
    ("bias_correct", "shift must be finite", put(3, torch.tensor(math.nan))),
]
WRONG_KINDS: list[tuple[str, str, str, Change]] = [
    ("distillation_loss", "student", "a tensor", put(0, None)),
    ("distillation_loss", "teacher", "a tensor", put(1, [[1.0]])),
    ("distillation_loss", "temperature", "a number", put(2, "hot")),
    ("distillation_loss", "reduction", "a string", put("reduction", None)),
    ("distillation_loss", "scale_t2", "True or False", put("scale_t2", "yes")),
    ("margin_ranking_loss", "cosines", "a tensor", put(0, None)),
    ("margin_ranking_loss", "labels", "a tensor", put(1, [1] * 5)),
    ("margin_ranking_loss", "new_classes", "a tensor", put(2, [0, 3])),
    ("margin_ranking_loss", "margin", "a number", put("margin", None)),
    ("margin_ranking_loss", "k", "an integer", put("k", 1.5)),
    ("cosine_logits", "features", "a tensor", put(0, None)),
    ("cosine_logits", "weight", "a tensor", put(1, [1.0])),
    ("cosine_logits", "scale", "a number", put(2, "large")),
    ("bias_correct", "logits", "a tensor", put(0, None)),
    ("bias_correct", "new_classes", "a tensor", put(1, [0, 3])),
    ("bias_correct", "scale", "a number", put(2, None)),
    ("bias_correct", "shift", "a number", put(3, [1.0])),
]
