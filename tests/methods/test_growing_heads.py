"""Heads that are replaced or enlarged between calls."""

from __future__ import annotations

import pytest
import torch
from method_helpers import CLASSES, DIM, METHODS, OLD, WITH_MEMORY, batch, learner, unchanged
from torch import nn

from clfast.methods import Hebb, Parametric


def grow(method: Parametric, classes: int, *, in_place: bool = False) -> None:
    """Old rows as they were, new rows zero."""
    head = method.head
    larger = nn.Linear(DIM, classes)
    with torch.no_grad():
        larger.weight.zero_()[: len(head.weight)] = head.weight
        larger.bias.zero_()[: len(head.bias)] = head.bias
    if in_place:
        # out_features stays, as with people who forget it: the weight is what counts.
        head.weight, head.bias = larger.weight, larger.bias
    else:
        method.head = larger


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("in_place", [False, True])
def test_all_follows_the_head(name: str, in_place: bool) -> None:
    method = learner(name)
    memory = method.memory
    assert memory is not None
    x, y = batch(9)
    before = method.predict_log_proba(x)
    grow(method, CLASSES + 2, in_place=in_place)
    assert method.num_classes == CLASSES + 2
    after = method.predict_log_proba(x)
    assert after.shape == (9, CLASSES + 2)
    if name == "Parametric":
        torch.testing.assert_close(after[:, :CLASSES].log_softmax(1), before)
    method.observe(x, torch.full_like(y, CLASSES + 1))
    assert memory.seen(CLASSES + 2).tolist()[CLASSES:] == [0, 9]
    probability = method.predict_log_proba(x).exp()[:, -1].mean()
    if name in WITH_MEMORY:
        assert probability > after.exp()[:, -1].mean()


def test_a_grown_class_is_new() -> None:
    hebb = learner("Hebb", base_classes=range(CLASSES), rows=0, dtype=torch.float64)
    assert isinstance(hebb, Hebb)
    x, _ = batch(9, dtype=torch.float64)
    grow(hebb, CLASSES + 1)
    hebb.head.double()
    hebb.observe(x, torch.arange(9) % (CLASSES + 1))
    twin = Hebb(
        *(hebb.features, hebb.head, hebb.memory),
        base_classes=range(CLASSES),
    )
    assert torch.equal(hebb.predict_log_proba(x), twin.predict_log_proba(x))
    everywhere = Hebb(*(hebb.features, hebb.head, hebb.memory), hebb_on="all")
    assert not torch.equal(hebb.predict_log_proba(x), everywhere.predict_log_proba(x))


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_head_smaller_than_a_stored_label(name: str) -> None:
    method = learner(name)
    method.head = nn.Linear(DIM, 2)
    message = rf"{name}\.predict: head has outputs for 2 classes, fewer than the memory .*label 4"
    with unchanged(method), pytest.raises(ValueError, match=message):
        method.predict(batch(3)[0])


@pytest.mark.parametrize("name", METHODS)
def test_an_optimizer_of_the_old_head(name: str) -> None:
    method = learner(name, lr=0.1)
    grow(method, CLASSES + 1)
    message = rf"{name}\.observe: base_optimizer holds parameters of neither"
    with unchanged(method), pytest.raises(ValueError, match=message):
        method.observe(*batch(3))
    parameters = [*method.features.parameters(), *method.head.parameters()]
    method.base_optimizer = torch.optim.SGD(parameters, lr=0.1)
    before = method.head.weight.detach().clone()
    method.observe(*batch(3))
    assert not torch.equal(method.head.weight, before)


def test_states_of_heads_of_another_size() -> None:
    small, large = learner("Hebb"), learner("Hebb")
    grow(large, CLASSES + 1)
    message = r"Hebb\.load_state_dict: head: .*size mismatch.*nothing was loaded"
    with unchanged(small), pytest.raises(ValueError, match=r"(?s)" + message):
        small.load_state_dict(large.state_dict())
    grow(small, CLASSES + 1)
    small.load_state_dict(large.state_dict())
    assert small.num_classes == CLASSES + 1
    assert isinstance(small, Hebb)
    assert small.base_classes == OLD
