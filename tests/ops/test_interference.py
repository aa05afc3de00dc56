"""mir_scores against a copy of the model that takes the step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clfast import ops, reference


def _network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 5)
    ).to(dtype)


def _problem(model: nn.Module, rng: torch.Generator) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Candidates, and the gradients of another batch."""
    dtype = next(model.parameters()).dtype
    batch, x = (torch.randn(7, 2, 5, 5, generator=rng).to(dtype) for _ in range(2))
    model.eval()
    loss = F.cross_entropy(model(batch), torch.arange(7) % 5)
    return x, torch.arange(7) % 3, list(torch.autograd.grad(loss, list(model.parameters())))


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_losses_of_copies(training: bool, rng: torch.Generator) -> None:
    model = _network()
    x, y, grads = _problem(model, rng)
    grads[2] = None
    model.train(training)
    kept = _state(model)
    scores = ops.mir_scores(model, x, y, grads, 0.3)
    wanted = reference.consolidation.mir_scores(model, x, y, grads, 0.3)
    torch.testing.assert_close(scores, wanted, rtol=1e-12, atol=1e-12)
    assert scores.abs().min() > 1e-6
    assert not scores.requires_grad
    # Nothing has happened to the model, running statistics included.
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training is training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_without_a_step_nothing_interferes(rng: torch.Generator) -> None:
    model = _network()
    x, y, grads = _problem(model, rng)
    for given, lr in ((grads, 0.0), ([None] * len(grads), 1.0)):
        assert torch.equal(ops.mir_scores(model, x, y, given, lr), torch.zeros(7).double())


def test_a_step_on_the_sample_itself_interferes_least(rng: torch.Generator) -> None:
    model = _network()
    x, y, _ = _problem(model, rng)
    grads = torch.autograd.grad(F.cross_entropy(model(x[:1]), y[:1]), list(model.parameters()))
    assert float(ops.mir_scores(model, x, y, grads, 1e-3)[0]) < 0
    away = [-g for g in grads]
    assert float(ops.mir_scores(model, x, y, away, 1e-3)[0]) > 0


class _Tied(nn.Module):
    """A parameter under two names, and a buffer that every call counts up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.second(self.first(x).relu())
        return out


def test_parameters_that_are_shared_count_once(rng: torch.Generator) -> None:
    model = _Tied()
    x, y = torch.randn(3, 4, generator=rng), torch.tensor([0, 1, 3])
    grads = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    assert len(grads) == 3
    wanted = reference.consolidation.mir_scores(model, x, y, grads, 0.1)
    torch.testing.assert_close(ops.mir_scores(model, x, y, grads, 0.1), wanted)
    assert float(model.calls) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_losses_of_16_bit_logits_are_float32(dtype: torch.dtype, rng: torch.Generator) -> None:
    model = nn.Linear(4, 3).to(dtype)
    x, grads = torch.randn(5, 4, generator=rng).to(dtype), [p.detach() for p in model.parameters()]
    y = torch.zeros(5, dtype=torch.int64)
    scores = ops.mir_scores(model, x, y, grads, 0.5)
    assert scores.dtype == torch.float32
    wanted = reference.consolidation.mir_scores(model, x, y, grads, 0.5)
    torch.testing.assert_close(scores, wanted, rtol=0, atol=8 * torch.finfo(dtype).eps)


# Dynamo's own, of torch 2.13.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_without_graph_breaks(rng: torch.Generator) -> None:
    model = _network()
    x, y, grads = _problem(model, rng)
    model.train()
    kept = _state(model)
    compiled = torch.compile(
        lambda x, y, grads: ops.mir_scores(model, x, y, grads, 0.3),
        fullgraph=True,
        backend="aot_eager",
    )
    torch.testing.assert_close(compiled(x, y, grads), ops.mir_scores(model, x, y, grads, 0.3))
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    torch.compiler.reset()


def _wrong(**changes: Any) -> dict[str, Any]:
    model = nn.Linear(4, 3)
    given = {
        "model": model,
        "x": torch.ones(2, 4),
        "y": torch.tensor([0, 2]),
        "grads": [torch.ones(3, 4), None],
        "lr": 0.1,
    }
    return {**given, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(3, 4)}, r"x must have 2 rows, as y has, got \[3, 4\]"),
        ({"x": torch.ones(2, 4, requires_grad=True)}, "x requires grad, but mir_scores has no"),
        ({"y": torch.ones(2)}, "y must be of dtype torch.int64, got torch.float32"),
        ({"y": torch.ones(2, 1).long()}, "y must be 1-D, got 2-D"),
        ({"y": torch.tensor([0, 3])}, r"y holds \[3\], outside \[0, 3\), the classes"),
        ({"y": torch.tensor([-1, 0])}, r"y holds \[-1\], outside"),
        ({"grads": [None]}, "grads must have an entry for each of the 2 parameters, got 1"),
        ({"grads": [None, torch.ones(4)]}, r"grads\[1\] must have shape \[3\], got \[4\]"),
        ({"grads": [None, torch.ones(3).half()]}, r"grads\[1\] must be of dtype torch.float32"),
        ({"grads": [None, torch.ones(3, requires_grad=True)]}, r"grads\[1\] requires grad"),
        ({"lr": float("nan")}, "lr must be finite, got nan"),
        ({"model": nn.Sequential(nn.Linear(4, 3), nn.Flatten(0))}, "logits of the model must be 2"),
        ({"x": torch.ones(2, 5)}, r"model cannot take x, torch.float32 \[2, 5\]: mat1 and mat2"),
        ({"grads": [torch.full((3, 4), float("nan")), None]}, "after the step, hold NaN"),
    ],
)
def test_wrong_use(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=rf"clfast::mir_scores: .*{message}"):
        ops.mir_scores(**_wrong(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": torch.relu}, "model must be a nn.Module, got builtin"),
        ({"x": [1.0]}, "x must be a tensor, got list"),
        ({"y": 3}, "y must be a tensor, got int"),
        ({"grads": None}, "grads must be a list of tensors, got NoneType"),
        ({"grads": [3, None]}, r"grads\[0\] must be a tensor, got int"),
        ({"lr": "0.1"}, "lr must be a number, got str"),
    ],
)
def test_wrong_kinds(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=rf"clfast::mir_scores: {message}"):
        ops.mir_scores(**_wrong(**changes))
