"""Learners on a GPU; named after its ops' family, so that `make gpu-check` finds it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from method_helpers import METHODS, OLD, batch, model
from torch import nn

import clfast
from clfast.memory import KeyValueMemory
from clfast.methods import Hebb

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
F64 = torch.float64


def learner(name: str, device: str) -> Any:
    features, head = model(F64)
    features, head = features.to(device), head.to(device)
    options = {} if name == "Parametric" else {"k": 9}
    if name == "Hebb":
        options["base_classes"] = OLD
    optimizer = torch.optim.SGD([*features.parameters(), *head.parameters()], lr=0.01)
    memory = KeyValueMemory(6, dtype=F64, device=device)
    return METHODS[name](features.eval(), head, memory, base_optimizer=optimizer, **options)


@pytest.mark.parametrize("name", METHODS)
def test_a_learner_on_a_gpu_is_the_one_on_the_cpu(name: str) -> None:
    x, y = batch(40, seed=1, dtype=F64)
    queries, _ = batch(7, seed=2, dtype=F64)
    found = []
    for device in ("cpu", "cuda"):
        method = learner(name, device)
        method.fit_memory([(x, y)])
        method.observe(x[:5].to(device), y[:5].to(device))
        log_proba = method.predict_log_proba(queries.to(device))
        assert log_proba.device.type == device
        found.append(log_proba.cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-8)


def test_an_output_network_and_an_attachment_on_a_gpu() -> None:
    x, y = batch(40, seed=1)
    queries, _ = batch(7, seed=2)
    found = []
    for device in ("cpu", "cuda"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5)).to(device)
        hebb = Hebb(nn.Flatten(), head, KeyValueMemory(16, device=device), k=9, optimizer="sgd")
        hebb.fit_memory([(x, y)])
        scores = hebb.predict_log_proba(queries.to(device)).cpu()
        net = nn.Sequential(nn.Flatten(), head[0], nn.ReLU(), head[2])
        made = clfast.attach(net, "3", k=9, optimizer="sgd")
        made.fit_memory([(x, y)])
        with torch.no_grad():
            logits = net.eval()(queries.to(device))
        found.append((scores, logits.cpu()))
    for on_gpu, on_cpu in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_nan_is_named_where_it_enters(name: str) -> None:
    method = learner(name, "cuda")
    x, y = batch(12, seed=1, dtype=F64)
    method.observe(x.to("cuda"), y.to("cuda"))
    x[3] = float("nan")
    with pytest.raises(ValueError, match="predict"):
        method.predict(x.to("cuda"))
