"""What users do wrong with the recall ops; see :mod:`test_wrong_use`."""

from __future__ import annotations

import math

import torch
from changes import Change, first, put, set_at
from torch import Tensor

WRONG: list[tuple[str, str, Change]] = []
WRONG_VALUES: list[tuple[str, str, Change]] = []
WRONG_KINDS: list[tuple[str, str, str, Change]] = []

for _op in ("recall_loss", "recall_gradients"):
    WRONG += [
        (_op, "old_logits must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
        (_op, "old_logits must be float16", set_at(0, Tensor.int)),
        (_op, "old_logits must have at least one class", set_at(0, lambda t: t[:, :0])),
        (_op, "new_logits must have shape [5, 7], got [5, 6]", set_at(1, lambda t: t[:, 1:])),
        (_op, "float64 does not mix", set_at(1, Tensor.double)),
        (_op, "present_classes must be 1-D, got 2-D", set_at(2, lambda t: t[None])),
        (_op, "present_classes must be of dtype torch.int64", set_at(2, Tensor.int)),
        (_op, "present_classes must hold at least one class", set_at(2, lambda t: t[:0])),
        (_op, "divergence must be ag, js or ce, got kl", put("divergence", "kl")),
        *(
            (_op, f"{name} must be finite, got ", put(name, value))
            for name in (
                *("divergence_weight", "not_local_old", "not_local_new"),
                *("diversity", "sharpness"),
            )
            for value in (math.nan, math.inf, 1e39)
        ),
    ]
    WRONG_VALUES += [
        (_op, "present_classes", set_at(2, first(7))),
        (_op, "present_classes", set_at(2, first(-1))),
        (_op, "old_logits holds NaN", set_at(0, first(math.nan))),
        (_op, "new_logits holds NaN", set_at(1, first(math.nan))),
    ]
    WRONG_KINDS += [
        (_op, "old_logits", "a tensor", put(0, None)),
        (_op, "new_logits", "a tensor", put(1, [[1.0]])),
        (_op, "present_classes", "a tensor", put(2, [1, 2])),
        (_op, "diversity", "a number", put("diversity", None)),
        (_op, "divergence", "a string", put("divergence", 3)),
    ]

WRONG += [
    ("divergence", "p_logits must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    ("divergence", "q_logits must have shape [5, 7], got [4, 7]", set_at(1, lambda t: t[1:])),
    ("divergence", "kind must be ag or js, got ce", put("kind", "ce")),
    ("soft_cross_entropy", "logits must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    (
        "soft_cross_entropy",
        "target_logits must have shape [5, 7], got [5, 6]",
        set_at(1, lambda t: t[:, 1:]),
    ),
    *(
        ("soft_cross_entropy", "temperature must be positive and finite", put("temperature", value))
        for value in (0.0, -1.0, math.nan, math.inf, 1e-46)
    ),
    ("image_prior", "images must be 4-D, got 3-D", set_at(0, lambda t: t[0])),
    ("image_prior", "images must be float16", set_at(0, Tensor.int)),
    ("image_prior", "tv_weight must be finite, got nan", put("tv_weight", math.nan)),
    ("image_prior", "l2_weight must be finite, got inf", put("l2_weight", math.inf)),
    ("total_variation", "images must be 4-D, got 2-D", set_at(0, lambda t: t[0, 0])),
    ("total_variation", "norm must be squared or abs, got l1", put("norm", "l1")),
    ("recall_step_", "images must be 4-D, got 3-D", set_at(0, lambda t: t[0])),
    (
        "recall_step_",
        "images must be float32 or float64, got torch.float16",
        set_at(0, Tensor.half),
    ),
    ("recall_step_", "grad must have shape [5, 3, 17, 9]", set_at(1, lambda t: t[1:])),
    ("recall_step_", "float64 does not mix", set_at(1, Tensor.double)),
    ("recall_step_", "lr must be finite, got nan", put("lr", math.nan)),
]
WRONG_VALUES += [
    ("divergence", "p_logits holds NaN", set_at(0, first(math.nan))),
    ("divergence", "q_logits holds NaN", set_at(1, first(math.nan))),
    ("soft_cross_entropy", "logits holds NaN", set_at(0, first(math.nan))),
    ("soft_cross_entropy", "target_logits holds NaN", set_at(1, first(math.nan))),
    ("image_prior", "images holds NaN", set_at(0, first(math.nan))),
    ("total_variation", "images holds NaN", set_at(0, first(math.nan))),
]
WRONG_KINDS += [
    ("divergence", "p_logits", "a tensor", put(0, None)),
    ("divergence", "kind", "a string", put("kind", None)),
    ("soft_cross_entropy", "logits", "a tensor", put(0, None)),
    ("soft_cross_entropy", "target_logits", "a tensor", put(1, 3.0)),
    ("soft_cross_entropy", "temperature", "a number", put("temperature", "hot")),
    ("image_prior", "images", "a tensor", put(0, None)),
    ("image_prior", "tv_weight", "a number", put("tv_weight", None)),
    ("total_variation", "images", "a tensor", put(0, None)),
    ("total_variation", "norm", "a string", put("norm", None)),
    ("recall_step_", "images", "a tensor", put(0, [1.0])),
    ("recall_step_", "grad", "a tensor", put(1, None)),
    ("recall_step_", "lr", "a number", put("lr", None)),
    ("recall_step_", "per_copy", "True or False", put("per_copy", None)),
]
for _op in ("recall_loss", "recall_gradients", "soft_cross_entropy", "image_prior", "recall_step_"):
    WRONG += [
        (_op, "multiplicity must be of dtype torch.int64", put("multiplicity", torch.ones(5))),
        (
            _op,
            "multiplicity must have shape [5], got [4]",
            put("multiplicity", torch.ones(4, dtype=torch.int64)),
        ),
    ]
    WRONG_VALUES += [(_op, "multiplicity", put("multiplicity", torch.tensor([1, 2, 0, 1, 1])))]
    WRONG_KINDS += [(_op, "multiplicity", "a tensor", put("multiplicity", [1] * 5))]
