"""What users do wrong with the masks ops; see :mod:`test_wrong_use`."""

from __future__ import annotations

import math
from typing import Any

import torch
from changes import Change, first, put, set_at
from torch import Tensor
from wrong_consolidation import entry

# Of the scales, in every op that has them, at the position of scale.
_SCALES = [("masked_weight", 2), ("mask_sparsity", 2), ("masked_weights", 3)]
_SCALES += [("masked_weights_gradients", 5), ("reserve_", 2)]
_WITH_MAX = ["masked_weight", "mask_sparsity", "masked_weights", "masked_weights_gradients"]
_BAD_SCALES = (0.0, -1.0, math.nan, math.inf, 1e39, 1e-60)


def _wrong_masks(op: str, masks: int, of: str) -> list[tuple[str, str, Change]]:
    """Masks in argument ``masks`` that do not suit the tensors that ``of`` lists."""
    shape = "[5, 17]"
    return [
        (op, "reserved must hold 5 tensors, as", set_at(masks, lambda r: r[1:])),
        (
            op,
            f"reserved[0] must have shape {shape}, as {of}[0] has, got [17, 5]",
            entry(masks, 0, lambda r: r.t()),
        ),
        (op, "reserved[2] must be bool, or uint8 from pack_mask, got", entry(masks, 2, Tensor.int)),
        (
            op,
            f"reserved[0] is packed and must have shape [11] for the 85 elements of {of}[0], got",
            entry(masks, 0, lambda r: torch.zeros(12, dtype=torch.uint8)),
        ),
        (
            op,
            "reserved[0] is packed and must have shape [11]",
            entry(masks, 0, lambda r: torch.zeros(1, 11, dtype=torch.uint8)),
        ),
    ]


WRONG: list[tuple[str, str, Change]] = [
    *(
        (op, "scale must be finite and > 0, got", put(at, value))
        for op, at in _SCALES
        for value in _BAD_SCALES
    ),
    *(
        (op, "max_scale must be finite and > 0, got", put("max_scale", value))
        for op in _WITH_MAX
        for value in _BAD_SCALES
    ),
    (
        "masked_weight",
        "embedding must have shape [5, 7, 17], as weight has",
        set_at(1, lambda e: e.mT),
    ),
    ("masked_weight", "embedding must have shape", set_at(1, lambda e: e[0])),
    ("masked_weight", "embedding must have shape", set_at(1, lambda e: e[:, :3])),
    ("masked_weight", "embedding must have shape", set_at(0, lambda w: w[:1])),
    ("masked_weight", "float64 does not mix", set_at(1, Tensor.double)),
    ("masked_weight", "weight must be float16, bfloat16", set_at(0, Tensor.long)),
    ("masked_weight", "embedding must be float16, bfloat16", set_at(1, Tensor.bool)),
    *_wrong_masks("mask_sparsity", 1, "embeddings"),
    *_wrong_masks("masked_weights", 2, "embeddings"),
    *_wrong_masks("masked_weights_gradients", 4, "embeddings"),
    *_wrong_masks("block_gradients_", 1, "grads"),
    *_wrong_masks("reserve_", 0, "embeddings"),
    (
        "mask_sparsity",
        "embeddings[2] is torch.float64 but embeddings[0]",
        entry(0, 2, Tensor.double),
    ),
    ("mask_sparsity", "embeddings must hold at least one tensor", put(0, [])),
    (
        "masked_weights",
        "embeddings must hold 5 tensors, as weights does",
        set_at(1, lambda e: e[1:]),
    ),
    ("masked_weights", "embeddings[0] must have shape", entry(0, 0, lambda w: w[1:])),
    ("masked_weights", "weights[3] is torch.float64 but", entry(0, 3, Tensor.double)),
    ("masked_weights", "weights must hold at least one tensor", put(0, [])),
    ("masked_weights_gradients", "grads must hold 5 tensors", set_at(0, lambda g: g[1:])),
    ("masked_weights_gradients", "grads[1] must have shape", entry(0, 1, lambda g: g[1:])),
    ("masked_weights_gradients", "grads[1] must be float16", entry(0, 1, Tensor.long)),
    ("masked_weights_gradients", "sparsity_grad must be one number", put(1, torch.ones(2))),
    ("block_gradients_", "grads[1] is torch.float64 but grads[0]", entry(0, 1, Tensor.double)),
    ("block_gradients_", "grads[0] must be float16, bfloat16", entry(0, 0, Tensor.int)),
    (
        "block_gradients_",
        "grads[0] must not be expanded",
        entry(0, 0, lambda g: g[:1].expand_as(g)),
    ),
    ("block_gradients_", "reserved must hold 0 tensors", put(0, [])),
    ("reserve_", "reserved[0] must not be expanded", entry(0, 0, lambda r: r[:1].expand_as(r))),
    ("reserve_", "embeddings must hold at least one tensor", put(1, [])),
    ("pack_mask", "mask must be of dtype torch.bool, got torch.uint8", set_at(0, Tensor.byte)),
    ("unpack_mask", "packed must be uint8, got torch.int32", set_at(0, Tensor.int)),
    ("unpack_mask", "packed must be 1-D, got 2-D", set_at(0, lambda p: p[None])),
    ("unpack_mask", "packed must have shape [13] for the 100 elements of shape", put(1, (10, 10))),
    ("unpack_mask", "shape must hold no negative size, got -1", put(1, (-1, -1))),
]

_op = "compensate_embedding_gradients_"
WRONG += [
    *((_op, "scale must be finite and > 0, got", put(2, value)) for value in _BAD_SCALES),
    *((_op, "max_scale must be finite and > 0, got", put(3, value)) for value in _BAD_SCALES),
    (_op, "max_scale must be such that max_scale / scale is finite", put(2, 1e-38)),
    *((_op, "clamp must be > 0, got", put("clamp", value)) for value in (0.0, -1.0, math.nan)),
    (_op, 'mode must be "analytic" or "reference", got "hat"', put("mode", "hat")),
    (_op, "embeddings must hold 5 tensors, as grads does, got 4", set_at(1, lambda e: e[1:])),
    (_op, "embeddings[0] must have shape [5, 17], as grads[0] has", entry(1, 0, Tensor.t)),
    (_op, "embeddings[1] is torch.float64 but grads[0]", entry(1, 1, Tensor.double)),
    (_op, "grads[1] is torch.float64 but grads[0]", entry(0, 1, Tensor.double)),
    (_op, "grads[0] must not be expanded", entry(0, 0, lambda g: g[:1].expand_as(g))),
]

WRONG_VALUES: list[tuple[str, str, Change]] = [
    ("masked_weight", "embedding holds NaN", set_at(1, first(math.nan))),
    ("mask_sparsity", "embeddings[2] holds NaN", entry(0, 2, first(math.nan))),
    ("masked_weights", "embeddings[1] holds NaN", entry(1, 1, first(math.nan))),
    ("reserve_", "embeddings[2] holds NaN", entry(1, 2, first(math.nan))),
    (_op, "embeddings[1] holds NaN", entry(1, 1, first(math.nan))),
]


def _kinds(op: str, **lists: int) -> list[tuple[str, str, str, Change]]:
    wrong: list[tuple[str, str, str, Change]] = []
    for name, at in lists.items():
        changes: list[tuple[str, str, Any]] = [
            (name, "a list of tensors", put(at, None)),
            (name, "a list of tensors", set_at(at, lambda t: t[0])),
            (f"{name}[2]", "a tensor", entry(at, 2, lambda _: None)),
            (f"{name}[1]", "dense", entry(at, 1, Tensor.to_sparse)),
        ]
        wrong += [(op, *change) for change in changes]
    return wrong


WRONG_KINDS: list[tuple[str, str, str, Change]] = [
    ("masked_weight", "weight", "a tensor", put(0, None)),
    ("masked_weight", "embedding", "a tensor", set_at(1, lambda t: [t])),
    ("masked_weight", "scale", "a number", put(2, "1")),
    ("masked_weight", "max_scale", "a number", put("max_scale", torch.ones(2))),
    *_kinds("mask_sparsity", embeddings=0, reserved=1),
    *_kinds("masked_weights", weights=0, embeddings=1, reserved=2),
    *_kinds("masked_weights_gradients", grads=0, weights=2, embeddings=3, reserved=4),
    ("masked_weights_gradients", "sparsity_grad", "a number", put(1, "1")),
    *_kinds("block_gradients_", grads=0, reserved=1),
    *_kinds("compensate_embedding_gradients_", grads=0, embeddings=1),
    (_op, "scale", "a number", put(2, None)),
    (_op, "max_scale", "a number", put(3, None)),
    (_op, "clamp", "a number", put("clamp", "50")),
    (_op, "mode", "a string", put("mode", None)),
    *_kinds("reserve_", reserved=0, embeddings=1),
    ("pack_mask", "mask", "a tensor", put(0, None)),
    ("unpack_mask", "packed", "a tensor", put(0, None)),
    ("unpack_mask", "shape", "an integer", put(1, (1.5, 2))),
]
