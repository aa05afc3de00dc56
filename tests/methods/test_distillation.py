"""Finetune and LwF."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from networks import Residual, batches
from torch import nn

from clfast.methods import Finetune, LwF


def _model() -> nn.Module:
    torch.manual_seed(1)
    return Residual().double()


def test_finetune_is_plain_training() -> None:
    plain, model = _model(), _model()
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    learner = Finetune(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    for x, y in batches(4, 2, 4, 6):
        loss = F.cross_entropy(plain(x), y)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        assert learner.observe(x, y)["loss"] == pytest.approx(loss.item())
    for ours, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_lwf_takes_a_second_step_towards_the_network_before(temperature: float) -> None:
    plain, model = _model(), _model()
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1)
    learner = LwF(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        snapshot=2,
        weight=0.5,
        temperature=temperature,
    )
    old = copy.deepcopy(plain)
    for t, (x, y) in enumerate(batches(6, 2, 4, 6)):
        if t % 2 == 0:
            old = copy.deepcopy(plain)
        sgd.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        sgd.step()
        found = learner.observe(x, y)
        assert ("distill" in found) == (t >= 2)
        if t < 2:
            continue
        with torch.no_grad():
            target = (old(x) / temperature).softmax(1)
        loss = F.cross_entropy(plain(x) / temperature, target)
        sgd.zero_grad()
        (0.5 * loss).backward()
        sgd.step()
        assert found["distill"] == pytest.approx(loss.item())
    for ours, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_lwf_in_one_step_holds_the_old_classes_alone() -> None:
    """Li & Hoiem: the old network in eval mode, and only on what it has learnt."""
    plain, model = _model(), _model()
    plain.train()
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learner = LwF(model, optimizer, weight=0.5, temperature=2.0, joint=True)
    stream = batches(6, 2, 4, 6)
    for t, (x, y) in enumerate(stream):
        if t == 3:
            learner.on_task_end()
            old = copy.deepcopy(plain).eval()
        logits = plain(x)
        loss = F.cross_entropy(logits, y)
        if t >= 3:
            target = (old(x)[:, :2] / 2).softmax(1).detach()
            loss = loss + 0.5 * F.cross_entropy(logits[:, :2] / 2, target)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        found = learner.observe(x, y)
        assert ("distill" in found) == (t >= 3)
    for ours, theirs in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    fresh = LwF(plain, sgd, joint=True)
    fresh.load_state_dict(learner.state_dict())
    assert fresh.old_classes == [0, 1]


def test_bad_options() -> None:
    model = _model()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="LwF: temperature must be finite and in"):
        LwF(model, sgd, temperature=0.0)
    with pytest.raises(ValueError, match="LwF: snapshot must be"):
        LwF(model, sgd, snapshot=-1)
    with pytest.raises(TypeError, match="LwF: joint must be True or False, got str"):
        LwF(model, sgd, joint="False")  # type: ignore[arg-type]
