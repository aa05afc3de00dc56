"""Importances of networks that vmap or a pass over all samples cannot do; and wrong use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from importance_oracle import assert_near, fisher, made
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clfast import ops


def _nan_model() -> nn.Module:
    model = nn.Linear(6, 3)
    nn.init.constant_(model.bias, float("nan"))
    return model


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": len}, TypeError, "model must be a nn.Module, got builtin_function_or_method"),
        ({"inputs": [1.0]}, TypeError, "inputs must be a tensor, got list"),
        ({"inputs": torch.ones(())}, RuntimeError, r"inputs must have shape \[N, ...\]"),
        ({"inputs": torch.ones(2, 6, requires_grad=True)}, RuntimeError, "inputs requires grad"),
        ({"targets": None}, TypeError, "targets must be a tensor, got NoneType"),
        ({"targets": "true"}, ValueError, "targets must be one of sample, exact, got 'true'"),
        ({"targets": torch.ones(2)}, RuntimeError, "targets must be of dtype torch.int64"),
        ({"targets": torch.ones(3).long()}, RuntimeError, r"targets must have shape \[2\]"),
        ({"targets": torch.tensor([0, 3])}, RuntimeError, r"targets holds \[3\], outside \[0, 3\)"),
        ({"model": nn.Flatten(0)}, RuntimeError, "the model must return 2 rows"),
        ({"model": nn.LSTM(6, 3)}, TypeError, "what the model returns must be a tensor, got tuple"),
        ({"model": nn.Unflatten(1, (2, 3))}, RuntimeError, "logits of the model must be 2-D"),
        ({"model": _nan_model()}, RuntimeError, "what the model returns holds NaN"),
        (
            *({"inputs": torch.ones(2, 5)}, RuntimeError),
            r"model cannot take inputs, torch.float32 \[2, 5\]: mat1 and mat2",
        ),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator"),
    ],
)
def test_wrong_use_of_the_fisher_information(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"model": nn.Linear(6, 3), "inputs": torch.ones(2, 6), "targets": torch.tensor([0, 2])}
    with pytest.raises(error, match=f"clfast::per_sample_fisher: {message}"):
        ops.per_sample_fisher(**{**given, **changes})


class _Branching(nn.Module):
    """By a value."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head((self.scale * x if float(x.sum()) > 0 else x).sin())
        return out


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x.view(-1, 3, 2))[0][:, -1])
        return out


@pytest.mark.parametrize("kind", [_Branching, _Recurrent])
def test_what_vmap_cannot_run_is_run_for_every_sample(
    kind: type[nn.Module], rng: torch.Generator
) -> None:
    model, x = made(kind), torch.randn(5, 6, generator=rng).double()
    x = x[x.sum(1) > 0] if kind is _Branching else x  # one branch for all, so that none is alone
    x, y = x.repeat(2, 1), torch.arange(2 * len(x)) % 3
    assert_near(ops.per_sample_fisher(model, x, y), fisher(model, x, y), 1e-12)


class _Reentrant(nn.Module):
    """With checkpoints that autograd.grad cannot go through."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(checkpoint(self.body, x.requires_grad_(), use_reentrant=True))
        return out


def test_what_fails_on_single_samples_is_told_of() -> None:
    x, y = torch.ones(2, 6), torch.tensor([0, 2])
    with pytest.raises(RuntimeError, match=r"per_sample_fisher: the model fails .* by body.weight"):
        ops.per_sample_fisher(_Reentrant(), x, y)


class _Causal(nn.Module):
    """The first sample is influenced by no other one, or the last is not."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.reverse = False

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        h = h.flip(0).cumsum(0).flip(0) if self.reverse else h.cumsum(0)
        out: Tensor = self.head(h.tanh())
        return out


@pytest.mark.parametrize("reverse", [True, False])
def test_samples_that_others_influence_in_one_direction(
    reverse: bool, rng: torch.Generator
) -> None:
    model, x = made(_Causal), torch.randn(5, 6, generator=rng).double()
    assert isinstance(model, _Causal)
    model.reverse = reverse
    y = torch.arange(5) % 3
    assert_near(ops.per_sample_fisher(model, x, y), fisher(model, x, y), 1e-12)


class _Checkpointed(nn.Module):
    """What it counts is counted again in the backward pass."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("count", torch.zeros(()))

    def _part(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        out: Tensor = self.body(x).tanh()
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(checkpoint(self._part, x, use_reentrant=False))
        return out


def test_what_a_backward_pass_counts_is_undone(rng: torch.Generator) -> None:
    model, x = made(_Checkpointed), torch.randn(5, 6, generator=rng).double()
    assert isinstance(model, _Checkpointed)
    y = torch.arange(5) % 3
    found = ops.per_sample_fisher(model, x, y)
    assert float(model.count) == 0
    assert_near(found, fisher(model, x, y), 1e-12)


def test_transforms_are_refused() -> None:
    model = nn.Linear(6, 3)

    def value(x: Tensor) -> Tensor:
        return ops.mas_importance(model, x)["weight"].sum()

    with pytest.raises(RuntimeError, match=r"mas_importance: .* transforms of torch.func"):
        torch.vmap(value)(torch.ones(3, 2, 6))
