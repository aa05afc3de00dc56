"""What the tests of the optimisers share: parameters, masks, and torch's optimisers beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clfast import reference
from clfast.optim import MaskedAdam, MaskedSGD

SHAPES = [(37, 5), (9,), (), (3, 4, 2, 2), (0, 3), (1,)]
Optimizer = torch.optim.Optimizer

SGD_OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.05, "maximize": True},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
]
ADAM_OPTIONS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.05, "amsgrad": True},
    {"lr": 0.1, "betas": (0.5, 0.9), "eps": 0.01, "maximize": True},
    {"lr": 0.1, "weight_decay": 0.05, "decoupled_weight_decay": True},
]
Pair = tuple[Callable[..., Any], Callable[..., Optimizer], dict[str, Any]]
PAIRS: list[Pair] = [
    *((MaskedSGD, torch.optim.SGD, options) for options in SGD_OPTIONS),
    *((MaskedAdam, torch.optim.Adam, options) for options in ADAM_OPTIONS),
]


def _name(pair: Pair) -> str:
    return "-".join([pair[0].__name__, *(name for name in pair[2] if name != "lr")])


every_pair = pytest.mark.parametrize(
    ("ours", "theirs", "options"), PAIRS, ids=[_name(pair) for pair in PAIRS]
)


def parameters(rng: torch.Generator, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape, generator=rng, dtype=dtype)) for shape in SHAPES]


def copies(params: Iterable[Tensor]) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach().clone()) for p in params]


def masks(rng: torch.Generator) -> list[Tensor]:
    return [torch.rand(shape, generator=rng) < 0.5 for shape in SHAPES]


def packed(mask: Tensor) -> Tensor:
    return reference.masks.pack_mask(mask)


def set_gradients(rng: torch.Generator, *lists: list[nn.Parameter]) -> None:
    """The same ones to all lists."""
    for same in zip(*lists, strict=True):
        grad = torch.randn(same[0].shape, generator=rng, dtype=same[0].dtype)
        for p in same:
            p.grad = grad.clone()


def assert_same_bits(params: Iterable[Tensor], others: Iterable[Tensor]) -> None:
    for a, b in zip(params, others, strict=True):
        assert a.detach().numpy().tobytes() == b.detach().numpy().tobytes()


def assert_close(params: Iterable[Tensor], others: Iterable[Tensor], error: float) -> None:
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=error, atol=error)
