"""Importances by a backward pass for each sample, and how near others must come to them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

float64 = torch.float64
Found = dict[str, Tensor]


def by_loop(
    model: nn.Module, x: Tensor, objective: Callable[[Tensor, int], Tensor], power: int
) -> Found:
    """By hand: a backward pass for each sample."""
    model = copy.deepcopy(model).eval()
    total: Found = {}
    for n in range(len(x)):
        model.zero_grad(set_to_none=True)
        objective(model(x[n : n + 1]), n).backward()
        for name, p in model.named_parameters():
            if p.requires_grad:
                grad = torch.zeros_like(p) if p.grad is None else p.grad
                total[name] = total.get(name, 0) + grad.abs() ** power / len(x)
    return total


def fisher(model: nn.Module, x: Tensor, y: Tensor) -> Found:
    return by_loop(model, x, lambda out, n: F.cross_entropy(out, y[n : n + 1]), 2)


def mas(model: nn.Module, x: Tensor) -> Found:
    return by_loop(model, x, lambda out, _: (out**2).sum(), 1)


def assert_near(found: Found, wanted: Found, tolerance: float) -> None:
    """Of the largest entry of a tensor."""
    assert list(found) == list(wanted)
    for name, w in wanted.items():
        assert found[name].shape == w.shape, name
        error = (found[name].double() - w.double()).abs().max()
        assert error <= tolerance * w.abs().max(), (name, float(error / w.abs().max()))
        assert not found[name].requires_grad


def made(make: Callable[[], nn.Module], dtype: torch.dtype = float64) -> nn.Module:
    torch.manual_seed(0)
    return make().to(dtype)
