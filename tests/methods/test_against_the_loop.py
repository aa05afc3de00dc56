"""Every method agrees with a plain loop over the queries, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from method_helpers import CLASSES, DIM, OLD, WITH_MEMORY, batch, learner, model
from torch import Tensor, nn

from clfast.experiments.naive import naive_hebb, naive_mbpa, naive_mixture, naive_scores
from clfast.memory import KeyValueMemory
from clfast.methods import Hebb, MbPA, Parametric

F64 = torch.float64


def encoded(of: Parametric, x: Tensor) -> tuple[Tensor, Tensor]:
    of.features.eval()
    with torch.no_grad():
        features = of.features(x)
        logits: Tensor = of.head(features)
    return features, logits


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("k", [1, 7, 200])
@pytest.mark.parametrize(
    ("optimizer", "torch_optimizer"), [("rmsprop", torch.optim.RMSprop), ("sgd", torch.optim.SGD)]
)
def test_mbpa_and_hebb(bias: bool, k: int, optimizer: Any, torch_optimizer: Any) -> None:
    features, head = model(F64, bias=bias)
    memory = KeyValueMemory(DIM, dtype=F64)
    adapt: dict[str, Any] = {"k": k, "steps": 3, "lr": 0.02, "eps": 0.1}
    mbpa = MbPA(features, head, memory, optimizer=optimizer, **adapt)
    hebb = Hebb(
        *(features, head, memory),
        optimizer=optimizer,
        beta=0.8,
        eta=0.7,
        base_classes=OLD,
        **adapt,
    )
    hebb.fit_memory([batch(30, seed=1, dtype=F64)])
    x, _ = batch(9, seed=2, dtype=F64)
    queries, _ = encoded(mbpa, x)
    new = torch.tensor([label not in OLD for label in range(CLASSES)])
    given = (queries, head.weight.detach(), None if not bias else head.bias.detach())
    stored = (memory.keys, memory.values)
    expected = {
        mbpa: naive_mbpa(*given, *stored, optimizer=torch_optimizer, **adapt),
        hebb: naive_hebb(
            *(*given, *stored),
            counts=memory.values.bincount(minlength=CLASSES),
            beta=0.8,
            eta=0.7,
            select=new,
            optimizer=torch_optimizer,
            **adapt,
        ),
    }
    for method, scores in expected.items():
        found = method.predict_log_proba(x)
        assert found.dtype == F64
        torch.testing.assert_close(found, scores.log_softmax(1), rtol=1e-9, atol=1e-9)
        assert torch.equal(method.predict(x), scores.argmax(1))
    assert not torch.allclose(mbpa.predict_log_proba(x), hebb.predict_log_proba(x), atol=1e-3)


@pytest.mark.parametrize("base_classes", [range(CLASSES), [0, CLASSES + 2], []])
def test_the_loop_of_a_learner(base_classes: Any) -> None:
    hebb = learner("Hebb", dtype=F64, base_classes=base_classes, beta=0.8, eta=0.7)
    x, _ = batch(9, seed=2, dtype=F64)
    hebb.features.eval()
    scores = naive_scores(hebb, x)
    assert scores is not None
    torch.testing.assert_close(
        hebb.predict_log_proba(x), scores.log_softmax(1), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Mixture", {"form": "joint"}),
        ("MbPA", {"kernel": "uniform"}),
        ("MbPA", {"optimizer": "sgd"}),
        ("Hebb", {"fixed_interpolation": 0.5}),
        ("Hebb", {"hebb_on": "all"}),
    ],
)
def test_no_loop_stands_in_for_options_that_it_lacks(name: str, options: dict[str, Any]) -> None:
    x, _ = batch(3, seed=2, dtype=F64)
    assert naive_scores(learner(name, dtype=F64, **options), x) is None


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("k", [1, 200])
def test_mixture(gamma: float, k: int) -> None:
    mixture = learner("Mixture", dtype=F64, k=k, theta=0.5, gamma=gamma)
    memory = mixture.memory
    assert memory is not None
    x, _ = batch(9, seed=2, dtype=F64)
    expected = naive_mixture(
        *(*encoded(mixture, x), memory.keys, memory.values), k=k, theta=0.5, gamma=gamma
    )
    torch.testing.assert_close(mixture.predict_log_proba(x), expected, rtol=1e-9, atol=1e-9)


def test_joint_mixture_is_equation_8() -> None:
    mixture = learner("Mixture", dtype=F64, theta=0.5, gamma=0.4, form="joint")
    memory = mixture.memory
    assert memory is not None
    x, _ = batch(5, seed=2, dtype=F64)
    queries, logits = encoded(mixture, x)
    cache = (0.5 * queries @ memory.keys.T).exp() @ torch.eye(CLASSES, dtype=F64)[memory.values]
    expected = 0.6 * logits.exp() + 0.4 * cache
    expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(mixture.predict_log_proba(x).exp(), expected)


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_the_naive_scores_of_a_learner(name: str) -> None:
    method = learner(name, dtype=F64)
    x, _ = batch(9, seed=2, dtype=F64)
    method.features.eval()
    scores = naive_scores(method, x)
    assert scores is not None
    expected = scores.log_softmax(1)
    torch.testing.assert_close(method.predict_log_proba(x), expected, rtol=1e-9, atol=1e-9)


def test_parametric_has_no_loop() -> None:
    assert naive_scores(learner("Parametric"), batch(3)[0]) is None


@pytest.mark.parametrize("name", WITH_MEMORY)
@pytest.mark.parametrize(
    ("of_model", "of_memory"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, F64)],
)
def test_dtypes_of_model_and_memory_may_differ(
    name: str, of_model: torch.dtype, of_memory: torch.dtype
) -> None:
    memory = KeyValueMemory(DIM, dtype=of_memory)
    method = learner(name, dtype=of_model, memory=memory)
    # The same rounded numbers in float64 throughout; the base logits are rounded too.
    exact = WITH_MEMORY[name](
        method.features, method.head, memory, **({"base_classes": OLD} if name == "Hebb" else {})
    )
    x, _ = batch(9, seed=2, dtype=of_model)
    found = method.predict_log_proba(x)
    assert found.dtype == torch.float32
    features, head = method.features.double(), method.head.double()
    wide = KeyValueMemory(DIM, dtype=F64)
    wide.add(memory.keys.double(), memory.values)
    exact.features, exact.head, exact.memory = features, head, wide
    tolerance = 0.1 if of_model == torch.bfloat16 else 2e-3
    torch.testing.assert_close(
        found.double(), exact.predict_log_proba(x.double()), rtol=tolerance, atol=tolerance
    )


def test_features_of_any_shape_are_flattened() -> None:
    head = nn.Linear(16, CLASSES)
    hebb = Hebb(nn.Identity(), head, KeyValueMemory(16))
    x, y = batch(20)
    hebb.observe(x, y)
    flat = Hebb(nn.Flatten(), head, hebb.memory)
    assert torch.equal(hebb.memory.keys, x.flatten(1))
    assert torch.equal(hebb.predict_log_proba(x), flat.predict_log_proba(x))


def test_a_query_does_not_depend_on_its_batch() -> None:
    hebb = learner("Hebb", dtype=F64)
    x, _ = batch(9, seed=2, dtype=F64)
    together = hebb.predict_log_proba(x)
    alone = torch.cat([hebb.predict_log_proba(row[None]) for row in x])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
