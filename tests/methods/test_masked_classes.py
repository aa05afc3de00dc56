"""A bias of -inf masks a class of the head: it keeps probability 0, and the others adapt."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clfast
from clfast.experiments.naive import naive_mbpa
from clfast.memory import KeyValueMemory
from clfast.methods import Hebb, MbPA, MixtureTerm

F64 = torch.float64
DIM, CLASSES, MASKED = 6, 5, 3
OTHERS = [label for label in range(CLASSES) if label != MASKED]
ADAPT: dict[str, Any] = {"k": 11, "steps": 3, "lr": 0.02, "eps": 0.1}


def rows(count: int, seed: int, dtype: torch.dtype = F64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, DIM, generator=generator, dtype=F64).to(dtype)


def stored(dtype: torch.dtype = F64, *, masked: bool = True) -> KeyValueMemory:
    """With or without samples of the masked class."""
    memory = KeyValueMemory(DIM, dtype=dtype)
    labels = torch.arange(40) % CLASSES
    memory.add(rows(40, 1), labels if masked else labels.masked_fill(labels == MASKED, 0))
    return memory


def head(bias: float, dtype: torch.dtype = F64, *, layers: int = 1) -> nn.Linear | nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, last = nn.Linear(DIM, DIM, dtype=F64), nn.Linear(DIM, CLASSES, dtype=F64)
    with torch.no_grad():
        last.bias[MASKED] = bias
    return last.to(dtype) if layers == 1 else nn.Sequential(first, nn.Tanh(), last).to(dtype)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("optimizer", "torch_optimizer"), [("rmsprop", torch.optim.RMSprop), ("sgd", torch.optim.SGD)]
)
def test_mbpa_is_autograd_with_the_same_bias(
    optimizer: Any, torch_optimizer: Any, masked: bool
) -> None:
    layer, memory, x = head(-math.inf), stored(masked=masked), rows(9, 2)
    assert isinstance(layer, nn.Linear)
    mbpa = MbPA(nn.Identity(), layer, memory, optimizer=optimizer, **ADAPT)
    loop = naive_mbpa(
        *(x, layer.weight.detach(), layer.bias.detach(), memory.keys, memory.values),
        optimizer=torch_optimizer,
        **ADAPT,
    )
    assert bool((loop[:, MASKED] == -math.inf).all())
    found = mbpa.predict_log_proba(x)
    torch.testing.assert_close(found, loop.log_softmax(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("optimizer", ["rmsprop", "rmsprop_tf", "sgd"])
@pytest.mark.parametrize("kind", [MbPA, Hebb])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_others_adapt_as_beside_a_class_out_of_reach(
    dtype: torch.dtype, kind: type[MbPA], optimizer: Any, layers: int, backend: Any
) -> None:
    memory, x = stored(dtype), rows(9, 2, dtype)
    masked, out_of_reach = (
        kind(nn.Identity(), head(bias, dtype, layers=layers), memory, optimizer=optimizer, **ADAPT)
        for bias in (-math.inf, -1e4)
    )
    with clfast.backend(backend):
        found = masked.predict_log_proba(x)
        assert bool((found[:, MASKED] == -math.inf).all())
        torch.testing.assert_close(found[:, OTHERS], out_of_reach.predict_log_proba(x)[:, OTHERS])
        assert MASKED not in masked.predict(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layers", [1, 2])
def test_heads_in_half_precision(dtype: torch.dtype, layers: int) -> None:
    hebb = Hebb(nn.Identity(), head(-math.inf, dtype, layers=layers), stored(dtype), **ADAPT)
    found = hebb.predict_log_proba(rows(9, 2, dtype))
    assert bool((found[:, MASKED] == -math.inf).all())
    assert bool(found[:, OTHERS].isfinite().all())


def test_mixture_alone_may_know_the_class_from_the_memory() -> None:
    hebb = Hebb(nn.Identity(), head(-math.inf), stored(), k=40, mixture=MixtureTerm(0.2))
    assert bool(hebb.predict_log_proba(rows(9, 2))[:, MASKED].isfinite().all())
    hebb.memory = stored(masked=False)
    assert bool((hebb.predict_log_proba(rows(9, 2))[:, MASKED] == -math.inf).all())


@pytest.mark.parametrize("kind", [MbPA, Hebb])
def test_the_head_is_not_touched(kind: type[MbPA]) -> None:
    layer = head(-math.inf)
    before = [p.clone() for p in layer.parameters()]
    kind(nn.Identity(), layer, stored(), **ADAPT).predict(rows(9, 2))
    assert all(map(torch.equal, before, layer.parameters()))
