"""One compiled function, numbers and sizes that change from call to call: from the second call on
torch.compile traces them as symbols, as in a loop in which a scale or a learning rate goes its
way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clfast import ops

MODEL = nn.Linear(3, 2)


def _rwalk(x: Tensor, number: float) -> Tensor:
    scores = x.abs()
    ops.rwalk_importance_([scores], [x], [x.square()], [x], damping=number)
    return scores


def _mir(x: Tensor, number: float) -> Tensor:
    labels = torch.zeros(len(x), dtype=torch.int64)
    return ops.mir_scores(MODEL, x, labels, [torch.ones(2, 3), torch.ones(2)], number)


def _descent(x: Tensor, number: float) -> Tensor:
    labels = torch.zeros(len(x), dtype=torch.int64)
    return ops.softmax_descent(x, labels, torch.ones(2, 3), steps=2, lr=number)[0]


CASES: dict[str, Callable[[Tensor, float], Any]] = {
    "anneal_scale": lambda x, number: x * ops.anneal_scale(1, 3, len(x), 9, number),
    "bias_correct": lambda x, number: ops.bias_correct(x, torch.tensor([1]), number, -number),
    "cosine_logits": lambda x, number: ops.cosine_logits(x, x, number),
    "distillation_loss": lambda x, number: ops.distillation_loss(x, 2 * x[:, :2], number),
    "knn": lambda x, number: ops.knn(x, number * x, len(x) - 1),
    "masked_weight": lambda x, number: ops.masked_weight(x, x[:1], number),
    "mask_sparsity": lambda x, number: ops.mask_sparsity([x], [x > 0], number),
    "mir_scores": _mir,
    "rwalk_importance_": _rwalk,
    "soft_cross_entropy": lambda x, number: ops.soft_cross_entropy(x, 2 * x, temperature=number),
    "softmax_descent": _descent,
    "weight_mask": lambda x, number: ops.weight_mask(x[:, 0] > number, shape=(len(x), 2)),
}


# Dynamo's own, of torch 2.13.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_without_a_graph_break(name: str, rng: torch.Generator) -> None:
    compiled = torch.compile(CASES[name], fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for rows, number in ((4, 0.5), (5, 1.5), (6, 2.5)):
            x = torch.randn(rows, 3, generator=rng)
            torch.testing.assert_close(compiled(x, number), CASES[name](x, number))
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_schedule_inside_of_a_compiled_step() -> None:
    def step(x: Tensor, epoch: int, batch: int) -> Tensor:
        return ops.masked_weight(x, x, ops.anneal_scale(epoch, 3, batch, 4, 400.0))

    compiled, x = torch.compile(step, fullgraph=True, backend="aot_eager"), torch.randn(3, 4)
    for epoch, batch in ((0, 0), (1, 2), (2, 3), (1, 1)):
        torch.testing.assert_close(compiled(x, epoch, batch), step(x, epoch, batch))
    torch.compiler.reset()
