"""What users do wrong with the masked optimiser steps; see :mod:`test_wrong_use`."""

from __future__ import annotations

import math

import torch
from changes import Change, put, set_at
from torch import Tensor
from wrong_consolidation import entry

_SGD, _ADAM, _NORM = "masked_sgd_step_", "masked_adam_step_", "masked_grad_norm"
_LISTS = {
    _SGD: ["params", "grads", "momentum_buffers", "reserved"],
    _ADAM: ["params", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "reserved"],
    _NORM: ["grads", "reserved"],
}
_FIRST = {_SGD: "params", _ADAM: "params", _NORM: "grads"}

WRONG: list[tuple[str, str, Change]] = []
WRONG_VALUES: list[tuple[str, str, Change]] = []  # NaN travels on, as through torch's optimisers
WRONG_KINDS: list[tuple[str, str, str, Change]] = []
for _op, _names in _LISTS.items():
    _of, _last = _FIRST[_op], len(_names) - 1
    WRONG += [
        (
            _op,
            f"reserved must hold 7 tensors, as {_of} does, got 6",
            set_at(_last, lambda t: t[1:]),
        ),
        (_op, f"{_of}[0] must be float32 or float64, got torch.float16", entry(0, 0, Tensor.half)),
        (_op, f"{_of}[3] must be float32 or float64, got torch.int64", entry(0, 3, Tensor.long)),
        (
            _op,
            f"{_of}[5] is torch.float64 but {_of}[0] is torch.float32; float64 does not mix",
            entry(0, 5, Tensor.double),
        ),
        (
            _op,
            f"reserved[6] must have shape [7, 3, 2, 2], as {_of}[6] has, got [3, 7, 2, 2]",
            entry(_last, 6, lambda t: t.transpose(0, 1)),
        ),
        (
            _op,
            f"reserved[1] is packed and must have shape [2] for the 9 elements of {_of}[1], "
            "got [1]",
            entry(_last, 1, lambda t: t[1:]),
        ),
        (
            _op,
            "reserved[0] must be bool, or uint8 from pack_mask, got torch.float32",
            entry(_last, 0, Tensor.float),
        ),
    ]
    WRONG_KINDS += [
        *(
            (_op, name, "a list of tensors", put(at, torch.ones(3)))
            for at, name in enumerate(_names)
        ),
        (_op, f"{_of}[2]", "a tensor", entry(0, 2, lambda _: None)),
        (_op, f"{_of}[0]", "dense", entry(0, 0, Tensor.to_sparse)),
        (_op, "reserved[0]", "a tensor", entry(_last, 0, Tensor.tolist)),
    ]
for _op in (_SGD, _ADAM):
    _names = _LISTS[_op][1:-1] if _op == _SGD else _LISTS[_op][1:-2]
    for _at, _name in enumerate(_names, start=1):
        WRONG += [
            (
                _op,
                f"{_name} must hold 7 tensors, as params does, got 6",
                set_at(_at, lambda t: t[1:]),
            ),
            (
                _op,
                f"{_name}[5] must have shape [7, 37], as params[5] has, got [37, 7]",
                entry(_at, 5, Tensor.t),
            ),
            (
                _op,
                f"{_name}[1] must be of dtype torch.float32, as params[1] is, got torch.bfloat16",
                entry(_at, 1, Tensor.bfloat16),
            ),
        ]
        WRONG_KINDS.append((_op, f"{_name}[6]", "a tensor", entry(_at, 6, Tensor.tolist)))
    for _at, _name in ((0, "params"), (2, _names[1])):
        WRONG.append(
            (
                _op,
                f"{_name}[0] must not be expanded: an element would be changed more than once",
                entry(_at, 0, lambda t: t[:1].expand_as(t)),
            )
        )
    WRONG += [
        (_op, "clip must be 0-D, got 1-D", put("clip", torch.ones(1))),
        (_op, "clip must be float16", put("clip", torch.tensor(1))),
        *(
            (_op, f"{name} must be finite and >= 0, got", put(name, value))
            for name in ("lr", "weight_decay")
            for value in (-0.1, math.nan, math.inf)
        ),
    ]
    WRONG_KINDS += [
        (_op, "lr", "a number", put("lr", "0.1")),
        (_op, "weight_decay", "a number", put("weight_decay", None)),
        (_op, "maximize", "True or False", put("maximize", "no")),
        (_op, "clip", "a tensor", put("clip", 0.5)),
    ]
WRONG += [
    (_SGD, "momentum must be finite and >= 0, got", put("momentum", -0.9)),
    (_SGD, "dampening must be finite, got", put("dampening", math.nan)),
    (
        _SGD,
        "nesterov must come with momentum > 0 and dampening = 0, got momentum 0.9 and dampening "
        "0.2",
        put("nesterov", True),
    ),
    (
        _SGD,
        "momentum_buffers must be empty where momentum is 0, got 7 tensors",
        put("momentum", 0.0),
    ),
    (_SGD, "momentum_buffers must hold 7 tensors, as params does, got 0", put(2, [])),
    (
        _ADAM,
        "max_exp_avg_sqs must hold 7 tensors, as params does, got 1",
        put(4, [torch.ones(5, 17)]),
    ),
    (_ADAM, "betas must hold two numbers, got 3", put("betas", (0.9, 0.99, 0.999))),
    (_ADAM, "betas[0] must be in [0, 1), got 1", put("betas", (1.0, 0.999))),
    (_ADAM, "betas[1] must be in [0, 1), got -0.1", put("betas", (0.9, -0.1))),
    (_ADAM, "eps must be finite and >= 0, got", put("eps", -1e-8)),
    (_ADAM, "steps must hold 7 numbers, one a tensor of params, got 2", put("steps", [1, 2])),
    (_ADAM, "steps[3] must be >= 1, got 0", put("steps", [1, 1, 1, 0, 1, 1, 1])),
    (_NORM, "grads must hold at least one tensor", put(0, [])),
]
WRONG_KINDS += [
    (_SGD, "momentum", "a number", put("momentum", "0.9")),
    (_SGD, "dampening", "a number", put("dampening", None)),
    (_SGD, "nesterov", "True or False", put("nesterov", 0.5)),
    (_ADAM, "betas", "a pair of numbers", put("betas", 0.9)),
    (_ADAM, "betas[1]", "a number", put("betas", (0.9, "0.999"))),
    (_ADAM, "eps", "a number", put("eps", "small")),
    (_ADAM, "steps", "a list of integers", put("steps", 3)),
    (_ADAM, "steps[2]", "an integer", put("steps", [1, 1, 1.5, 1, 1, 1, 1])),
    (_ADAM, "decoupled_weight_decay", "True or False", put("decoupled_weight_decay", None)),
    (_ADAM, "max_exp_avg_sqs[0]", "a tensor", put(4, [None] * 7)),
]
