"""Hebb: which classes are new, how often each was seen, and what the options mean."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from method_helpers import CLASSES, DIM, OLD, WITH_MEMORY, batch, learner, model
from torch import nn

from clfast.memory import KeyValueMemory
from clfast.methods import Hebb, MbPA, MixtureTerm
from clfast.ops import Neighbors, hebb_logits

F64 = torch.float64


def made(**options: Any) -> Hebb:
    options = {"base_classes": OLD, "eta": 0.7, "steps": 2, "lr": 0.01, **options}
    return cast(Hebb, learner("Hebb", dtype=F64, **options))


def expected(of: Hebb, x: torch.Tensor, interpolation: torch.Tensor, select: Any) -> torch.Tensor:
    of.features.eval()
    with torch.no_grad():
        queries = of.features(x)
        logits = hebb_logits(
            *(queries, of.head.weight, of.head.bias, of.memory.keys, of.memory.values),
            of.memory.search(queries, of.k),
            interpolation=interpolation,
            eta=of.eta,
            steps=of.steps,
            lr=of.lr,
            select=select,
            base_logits=of.head(queries),
        )
        log_proba: torch.Tensor = logits.log_softmax(1)
    return log_proba


def weights(counts: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
    return torch.where(counts > 0, (1 - beta) / (1 - beta ** counts.clamp(min=1).double()), 1.0)


@pytest.mark.parametrize(
    ("options", "select"),
    [
        ({}, [False, True, False, True, True]),
        ({"base_classes": [3]}, [True, True, True, False, True]),
        ({"base_classes": [0, 2, 7]}, [False, True, False, True, True]),
        ({"base_classes": None}, None),
        ({"base_classes": []}, None),
        ({"base_classes": range(CLASSES)}, None),
        ({"hebb_on": "all"}, None),
    ],
)
def test_which_classes_get_a_hebbian_update(
    options: dict[str, Any], select: list[bool] | None
) -> None:
    hebb = made(**options)
    x, _ = batch(7, seed=2, dtype=F64)
    interpolation = weights(hebb.memory.seen(CLASSES))
    mask = None if select is None else torch.tensor(select)
    torch.testing.assert_close(
        hebb.predict_log_proba(x), expected(hebb, x, interpolation, mask), rtol=1e-9, atol=1e-9
    )


def test_ways_to_declare_base_classes() -> None:
    hebb = made(base_classes=None)
    assert not hebb.base_classes
    hebb.mark_base_classes([2])
    hebb.mark_base_classes(torch.tensor([0]))
    assert hebb.base_classes == (0, 2)

    features, head = model()
    x, _ = batch(6)
    first = Hebb(features, head, KeyValueMemory(DIM))
    first.fit_memory([(x, torch.tensor([3, 1, 1, 3, 3, 3]))])
    assert not first.base_classes
    first.mark_base_classes()
    assert first.base_classes == (1, 3)


def test_the_first_task_end_declares_base_classes() -> None:
    features, head = model()
    hebb = Hebb(features, head, KeyValueMemory(DIM))
    x, _ = batch(4)
    hebb.observe(x, torch.tensor([3, 1, 1, 3]))
    hebb.on_task_end([(x, torch.tensor([4, 1, 1, 1]))])
    assert hebb.base_classes == (1, 3, 4)
    assert len(hebb.memory) == 8
    hebb.observe(x, torch.tensor([0, 0, 2, 2]))
    hebb.on_task_end()
    assert hebb.base_classes == (1, 3, 4)

    declared = Hebb(features, head, hebb.memory, base_classes=[0])
    declared.on_task_end()
    assert declared.base_classes == (0,)


@pytest.mark.parametrize(("counts", "first"), [("seen", 0), ("stored", 40 - 12)])
def test_counts_are_of_all_that_was_written_or_is_stored(counts: str, first: int) -> None:
    memory = KeyValueMemory(DIM, dtype=F64, capacity=12)
    hebb = made(memory=memory, counts=counts)
    assert len(memory) == 12
    x, _ = batch(7, seed=2, dtype=F64)
    _, written = batch(40, seed=1)
    new = torch.tensor([label not in OLD for label in range(CLASSES)])
    counted = written[first:].bincount(minlength=CLASSES)
    torch.testing.assert_close(
        hebb.predict_log_proba(x),
        expected(hebb, x, weights(counted), new),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("unseen", [0.0, 0.25, 1.0])
def test_interpolation_of_a_class_without_samples(unseen: float) -> None:
    hebb = made(rows=0, unseen_interpolation=unseen)
    x, _ = batch(12, dtype=F64)
    hebb.observe(x, torch.arange(12) % (CLASSES - 1))
    counts = torch.tensor([3, 3, 3, 3, 0])
    interpolation = torch.where(counts > 0, weights(counts), unseen)
    new = torch.tensor([label not in OLD for label in range(CLASSES)])
    torch.testing.assert_close(
        hebb.predict_log_proba(x), expected(hebb, x, interpolation, new), rtol=1e-9, atol=1e-9
    )


def test_the_parts_alone() -> None:
    x, _ = batch(7, seed=2, dtype=F64)
    hebb = made(steps=0)
    new = torch.tensor([label not in OLD for label in range(CLASSES)])
    interpolation = weights(hebb.memory.seen(CLASSES))
    only_hebbian = expected(hebb, x, interpolation, new)
    torch.testing.assert_close(hebb.predict_log_proba(x), only_hebbian, rtol=1e-9, atol=1e-9)
    nothing = made(steps=0, eta=0)
    base = nothing.head(nothing.features.eval()(x)).log_softmax(1)
    assert torch.equal(nothing.predict_log_proba(x), base.detach())
    mbpa = MbPA(hebb.features, hebb.head, hebb.memory, steps=0)
    assert torch.equal(mbpa.predict_log_proba(x), base.detach())


@pytest.mark.parametrize("name", ["MbPA", "Hebb"])
@pytest.mark.parametrize("kernel", ["inverse", "normalized", "uniform"])
@pytest.mark.parametrize("layers", [1, 2])
def test_kernels(name: str, kernel: str, layers: int) -> None:
    options: dict[str, Any] = {"steps": 2, "optimizer": "sgd"}
    everyone = {"base_classes": []} if name == "Hebb" else {}
    method: Any = learner(name, dtype=F64, kernel=kernel, eps=0.1, **options, **everyone)
    x, _ = batch(7, seed=2, dtype=F64)
    method.features.eval()
    with torch.no_grad():
        queries, layer = method.features(x), method.head
    neighbors = method.memory.search(queries, method.k)
    closeness = 1 / (0.1 + neighbors.sq_distances)
    if kernel == "normalized":
        closeness /= closeness.sum(1, keepdim=True)
    if kernel == "uniform":
        closeness = torch.ones_like(closeness)
    seen = method.memory.seen(CLASSES)
    wanted = hebb_logits(
        *(queries, layer.weight.detach(), layer.bias.detach()),
        *(method.memory.keys, method.memory.values, neighbors),
        interpolation=weights(seen) if name == "Hebb" else torch.zeros(CLASSES, dtype=F64),
        eta=1.5,
        closeness=closeness,
        lr=method.lr,
        **options,
    ).log_softmax(1)
    if layers == 2:
        # The identity in front takes part in no step of the loss: lr is the last layer's alone.
        method.head = nn.Sequential(nn.Identity(), layer)
    torch.testing.assert_close(method.predict_log_proba(x), wanted, rtol=1e-9, atol=1e-9)


def test_a_normalised_kernel_of_neighbours_at_infinite_or_zero_distance() -> None:
    hebb = made(kernel="normalized", eps=1e-300, k=3)
    rows = torch.tensor([[0.0, 0.0, 1.0], [0.0, 5.0, math.inf]], dtype=F64)
    closeness = hebb._closeness(Neighbors(rows, torch.zeros(2, 3, dtype=torch.int64)))
    assert closeness is not None
    exact = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], dtype=F64)
    torch.testing.assert_close(closeness, exact)


@pytest.mark.parametrize("fixed", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_fixed_interpolation_stands_in_for_equation_7(fixed: float, steps: int) -> None:
    """Without steps and with all weight on it, the Hebbian update alone: Hebb-v1."""
    hebb = made(fixed_interpolation=fixed, steps=steps)
    x, _ = batch(7, seed=2, dtype=F64)
    mask = torch.tensor([label not in OLD for label in range(CLASSES)])
    wanted = expected(hebb, x, torch.full((CLASSES,), fixed, dtype=F64), mask)
    torch.testing.assert_close(hebb.predict_log_proba(x), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["MbPA", "Hebb"])
@pytest.mark.parametrize("weight", [0, 0.2, 1.0])
@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_mixture_with_another_method(name: str, weight: float, gamma: float) -> None:
    term = MixtureTerm(weight, theta=0.5, gamma=gamma)
    x, _ = batch(7, seed=2, dtype=F64)
    mixture = learner("Mixture", dtype=F64, theta=0.5, gamma=gamma).predict_log_proba(x).exp()
    alone = learner(name, dtype=F64).predict_log_proba(x).exp()
    both = learner(name, dtype=F64, mixture=term).predict_log_proba(x).exp()
    torch.testing.assert_close(both, weight * mixture + (1 - weight) * alone)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weight": 1.5}, ValueError, r"MixtureTerm: weight must be finite and in \[0, 1\]"),
        ({"weight": "1"}, TypeError, "MixtureTerm: weight must be a number"),
        ({"weight": 0.5, "gamma": 2}, ValueError, "MixtureTerm: gamma must be"),
        ({"weight": 0.5, "theta": float("nan")}, ValueError, "MixtureTerm: theta must be finite"),
        ({"weight": 0.5, "form": "sum"}, ValueError, "MixtureTerm: form must be one of"),
    ],
)
def test_bad_mixture_terms(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MixtureTerm(**arguments)


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_autocast_does_not_reach_the_adaptation(name: str) -> None:
    """Features come in 16 bits then; what follows is in float32, as with features of that kind."""
    mine = learner(name, k=7)
    x = batch(9, seed=2)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mine.predict_log_proba(x)
        features = mine.features.eval()(x)
    assert features.dtype == torch.bfloat16
    mine.features = nn.Identity()
    torch.testing.assert_close(found, mine.predict_log_proba(features.float()), rtol=0, atol=0.02)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(1), torch.ones(9))
