"""Output networks of more than one layer against a loop over queries with torch's optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from method_helpers import same
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from clfast.memory import KeyValueMemory
from clfast.methods import Hebb, MbPA, Mixture, MixtureTerm

F64 = torch.float64
DIM, CLASSES = 6, 5


class TensorFlowRMSprop(torch.optim.Optimizer):
    """tf.train.RMSPropOptimizer of TensorFlow 1: a mean of squares that starts at one."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert closure is None
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("square_average", torch.ones_like(p))
                mean.mul_(0.9).add_(p.grad.square(), alpha=0.1)
                p.sub_(group["lr"] * p.grad / (mean + 1e-10).sqrt())


OPTIMIZERS: dict[str, Any] = {
    "rmsprop": torch.optim.RMSprop,
    "rmsprop_tf": TensorFlowRMSprop,
    "sgd": torch.optim.SGD,
}


def network(bias: bool = True, norm: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(
            nn.Linear(DIM, 9),
            nn.Identity() if norm is None else norm(9),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(9, 7),
            nn.Tanh(),
            nn.Linear(7, CLASSES, bias=bias),
        ).double()
        if norm is not None:  # batch norm takes statistics that are not the initial ones
            made(batch(50, seed=8)[0])
        return made


def batch(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, DIM, generator=generator, dtype=F64)
    return x, torch.randint(CLASSES, (count,), generator=generator)


def filled(rows: int = 40) -> KeyValueMemory:
    memory = KeyValueMemory(DIM, dtype=F64)
    memory.add(*batch(rows, seed=1))
    return memory


def loop(
    head: nn.Sequential,
    memory: KeyValueMemory,
    x: Tensor,
    *,
    k: int,
    steps: int,
    lr: float,
    optimizer: str,
    interpolation: Tensor,
    eta: float,
    new: Tensor,
) -> Tensor:
    """One query after another: a copy of the network, an optimizer, the Hebbian update by hand."""
    rows = []
    for query in x:
        distances, near = (memory.keys - query).square().sum(1).topk(k, largest=False)
        keys, labels, closeness = memory.keys[near], memory.values[near], 1 / (0.1 + distances)
        own = copy.deepcopy(head).eval()
        adapt = OPTIMIZERS[optimizer](own.parameters(), lr=lr)
        for _ in range(steps):
            adapt.zero_grad()
            (closeness * F.cross_entropy(own(keys), labels, reduction="none")).mean().backward()
            adapt.step()
        last, moved = head[-1], own[-1]
        delta_w, delta_b = torch.zeros_like(last.weight), torch.zeros(CLASSES, dtype=F64)
        with torch.no_grad():
            hidden = copy.deepcopy(head).eval()[:-1](keys)
            for label in labels.unique().tolist():
                if new[label]:
                    mine = labels == label
                    delta_w[label] = (closeness[mine, None] * hidden[mine]).mean(0)
                    delta_b[label] = closeness[mine].mean()
            keep = 1 - interpolation
            weight = last.weight + keep[:, None] * (moved.weight - last.weight)
            weight = weight + (interpolation * eta)[:, None] * delta_w
            bias = None
            if last.bias is not None:
                bias = last.bias + keep * (moved.bias - last.bias) + interpolation * eta * delta_b
            rows.append(F.linear(own[:-1](query[None])[0], weight, bias))
    return torch.stack(rows)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("old", [(), (0, 2)])
def test_against_the_loop(optimizer: str, bias: bool, old: tuple[int, ...]) -> None:
    assert_as_the_loop(network(bias), optimizer, old)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_normalisation_in_the_network(norm: Callable[[int], nn.Module]) -> None:
    """By the running statistics, which no query changes."""
    assert_as_the_loop(network(norm=norm), "rmsprop", (0, 2))


def assert_as_the_loop(head: nn.Sequential, optimizer: str, old: tuple[int, ...]) -> None:
    memory, x = filled(), batch(9, seed=2)[0]
    adapt: dict[str, Any] = {"k": 11, "steps": 3, "lr": 0.01, "optimizer": optimizer}
    given = (nn.Identity(), head, memory)
    mbpa = MbPA(*given, eps=0.1, **adapt)
    hebb = Hebb(*given, eps=0.1, beta=0.8, eta=0.7, base_classes=old, **adapt)
    new = torch.tensor([label not in old for label in range(CLASSES)])
    counts = memory.seen(CLASSES)
    weights = (1 - 0.8) / (1 - 0.8 ** counts.double())
    none = torch.zeros(CLASSES, dtype=F64)
    expected = {
        mbpa: loop(head, memory, x, interpolation=none, eta=0, new=new, **adapt),
        hebb: loop(head, memory, x, interpolation=weights, eta=0.7, new=new, **adapt),
    }
    before = copy.deepcopy(head.state_dict())
    for method, scores in expected.items():
        found = method.predict_log_proba(x)
        torch.testing.assert_close(found, scores.log_softmax(1), rtol=1e-8, atol=1e-8)
    assert same(dict(before), dict(head.state_dict()))
    assert head.training
    assert all(p.grad is None for p in head.parameters())


def test_a_query_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from clfast.methods import output_network

    hebb = Hebb(nn.Identity(), network(), filled(), k=11, steps=2, lr=0.01)
    x = batch(9, seed=2)[0]
    whole = hebb.predict_log_proba(x)
    monkeypatch.setattr(output_network, "_BUDGET", 1)  # one query after another
    torch.testing.assert_close(hebb.predict_log_proba(x), whole, rtol=1e-12, atol=1e-12)


def test_the_rest_of_a_learner() -> None:
    head, memory = network(), KeyValueMemory(DIM, dtype=F64)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    hebb = Hebb(nn.Identity(), head, memory, k=5, base_optimizer=optimizer, base_classes=[0])
    x, y = batch(12, seed=3)
    assert hebb.num_classes == CLASSES
    before = copy.deepcopy(head.state_dict())
    assert hebb.observe(x, y)["loss"] > 0
    assert not same(dict(before), dict(head.state_dict()))
    assert len(memory) == 12
    with torch.inference_mode():
        labels = hebb.predict(x)
    assert torch.equal(labels, hebb.predict(x))
    assert hebb.predict(x[:0]).shape == (0,)
    mixed = Hebb(nn.Identity(), head, memory, k=5, mixture=MixtureTerm(0.3))
    assert bool(torch.isfinite(mixed.predict_log_proba(x)).all())
    torch.testing.assert_close(
        Mixture(nn.Identity(), head, memory, k=5).predict_log_proba(x).exp().sum(1),
        torch.ones(12, dtype=F64),
    )


class CosineHead(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.normalize(input) @ F.normalize(self.weight).T


def tied() -> nn.Sequential:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer)


@pytest.mark.parametrize(
    ("head", "error", "message"),
    [
        (nn.Sequential(), TypeError, "head must be an nn.Linear, or an nn.Sequential"),
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU()), TypeError, "that ends in ReLU"),
        (nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 5)), ValueError, "head takes 7 features"),
        (
            nn.Sequential(nn.Linear(6, 9), weight_norm(nn.Linear(9, 5))),
            TypeError,
            "whose weight is a parameter, got bias, parametrizations.weight.original0",
        ),
        (tied(), TypeError, "head has layers that share parameters"),
        (CosineHead(6, 5), TypeError, "CosineHead has a forward of its own"),
        (nn.Sequential(nn.Linear(6, 6), CosineHead(6, 5)), TypeError, "CosineHead has a forward"),
    ],
)
def test_heads_that_are_none(head: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MbPA(nn.Identity(), head, filled())


@pytest.mark.parametrize("memory_dtype", [torch.float32, F64, torch.bfloat16])
@pytest.mark.parametrize("head_dtype", [torch.float32, F64, torch.bfloat16])
def test_dtypes_of_network_and_memory_may_differ(
    memory_dtype: torch.dtype, head_dtype: torch.dtype
) -> None:
    memory = KeyValueMemory(DIM, dtype=memory_dtype)
    memory.add(*batch(40, seed=1))
    x = batch(5, seed=2)[0]
    exact = Hebb(nn.Identity(), network(), filled(), k=9, steps=1, optimizer="sgd")
    hebb = Hebb(nn.Identity(), network().to(head_dtype), memory, k=9, steps=1, optimizer="sgd")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=head_dtype == torch.float32):
        found = hebb.predict_log_proba(x.to(head_dtype))
    torch.testing.assert_close(found.double(), exact.predict_log_proba(x), rtol=0.1, atol=0.1)


def test_an_adaptation_that_explodes_is_no_answer() -> None:
    hebb = Hebb(
        nn.Identity(),
        network().float(),
        KeyValueMemory(DIM),
        k=9,
        steps=3,
        lr=1e38,
        optimizer="sgd",
    )
    hebb.memory.add(*batch(40, seed=1))
    with pytest.raises(RuntimeError, match=r"the output network adapted at a query .* gives NaN"):
        hebb.predict(batch(5, seed=2)[0].float())
