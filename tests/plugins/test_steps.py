"""Calls of different steps: what was added to one loss says nothing of the next, and gradients of
a step are taken once."""

from __future__ import annotations

import copy
from typing import Any

import penalty_cases
import pytest
import rehearsal_cases
import torch
import torch.nn.functional as F
from penalty_cases import parameters
from torch import Tensor, nn

from clfast.plugins import LwF

IN_LOSS = [*penalty_cases.PLUGINS, "ER"]
TAKES_GRADIENTS = [*penalty_cases.PLUGINS, *rehearsal_cases.PLUGINS]


def begun(name: str) -> tuple[nn.Module, Any, Tensor, Tensor]:
    """A task has ended, and parameters are a little away from where it did."""
    cases: Any = rehearsal_cases if name in rehearsal_cases.PLUGINS else penalty_cases
    model = cases.network()
    plugin = cases.PLUGINS[name](model)
    first, second = cases.tasks(2)
    cases.train(plugin, model, first, **({} if cases is rehearsal_cases else {"lr": 0.05}))
    plugin.on_task_end(first)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1
    return model, plugin, *second[0]


def added(plugin: Any, model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether `after_backward` changes gradients of a plain loss."""
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    before = rehearsal_cases.gradients(model)
    plugin.after_backward()
    return not rehearsal_cases.equal(before, rehearsal_cases.gradients(model))


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("name", IN_LOSS)
def test_a_step_without_after_backward_says_nothing_of_the_next(name: str, to_none: bool) -> None:
    model, plugin, x, y = begun(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    plugin.before_backward(F.cross_entropy(model(x), y)).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=to_none)
    assert added(plugin, model, x, y)


@pytest.mark.parametrize("name", IN_LOSS)
def test_gradients_that_a_loop_replaces_still_have_what_was_added(name: str) -> None:
    model, plugin, x, y = begun(name)
    plugin.before_backward(F.cross_entropy(model(x), y)).backward()
    for p in model.parameters():
        assert p.grad is not None
        p.grad = p.grad * 0.5
    before = rehearsal_cases.gradients(model)
    plugin.after_backward()
    assert rehearsal_cases.equal(before, rehearsal_cases.gradients(model))


@pytest.mark.parametrize("name", IN_LOSS)
def test_losses_that_are_dropped_say_nothing(name: str) -> None:
    model, plugin, x, y = begun(name)
    plugin.before_backward(F.cross_entropy(model(x), y))
    assert added(plugin, model, x, y)


@pytest.mark.parametrize("name", IN_LOSS)
def test_a_task_that_ended_says_nothing_of_the_next(name: str) -> None:
    model, plugin, x, y = begun(name)
    added(plugin, model, x, y)
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    plugin.after_step()
    plugin.before_backward(F.cross_entropy(model(x), y)).backward()
    plugin.on_task_end([(x, y)])
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1
    assert added(plugin, model, x, y)


def evaluated(name: str) -> tuple[nn.Module, Any, Tensor, Tensor, Any, Tensor]:
    """As `begun`, and LwF, too; the plugin's state, and a loss without a graph."""
    model, plugin, x, y = begun("ER" if name == "LwF" else name)
    if name == "LwF":
        plugin = LwF(model)
        plugin.on_task_end([(x, y)])
    kept = copy.deepcopy(plugin.state_dict())
    with torch.no_grad():
        loss = F.cross_entropy(model(x), y)
    return model, plugin, x, y, kept, loss


@pytest.mark.parametrize("name", [*IN_LOSS, "LwF"])
def test_losses_of_validation_are_as_they_are(name: str) -> None:
    """Nothing is drawn, and training goes on with what it adds."""
    model, plugin, x, y, kept, loss = evaluated(name)
    with torch.no_grad():
        assert plugin.before_backward(loss) is loss
    assert rehearsal_cases.equal(plugin.state_dict(), kept)
    assert name == "LwF" or added(plugin, model, x, y)


@pytest.mark.parametrize("name", [*IN_LOSS, "LwF"])
def test_losses_without_a_graph(name: str) -> None:
    """As of a forward pass that was made under `no_grad` by mistake."""
    _, plugin, _, _, kept, loss = evaluated(name)
    kind = type(plugin).__name__
    with pytest.raises(RuntimeError, match=f"^{kind}.before_backward: loss does not require grad"):
        plugin.before_backward(loss)
    assert rehearsal_cases.equal(plugin.state_dict(), kept)


@pytest.mark.parametrize("name", TAKES_GRADIENTS)
def test_a_copy_is_trained_instead(name: str) -> None:
    """The model of the plugin still has the gradients of its last step."""
    model, plugin, x, y = begun(name)
    added(plugin, model, x, y)
    other = copy.deepcopy(model)
    other.zero_grad()
    F.cross_entropy(other(x), y).backward()
    kind = type(plugin).__name__
    message = "after_backward: the gradients of model are those of the last call; call it once a"
    with pytest.raises(RuntimeError, match=f"^{kind}.{message} .*that this {kind} was made for"):
        plugin.after_backward()


@pytest.mark.parametrize("name", TAKES_GRADIENTS)
def test_a_second_call_in_a_step(name: str) -> None:
    model, plugin, x, y = begun(name)
    added(plugin, model, x, y)
    kept = rehearsal_cases.gradients(model)
    with pytest.raises(RuntimeError, match="call it once a step"):
        plugin.after_backward()
    assert rehearsal_cases.equal(kept, rehearsal_cases.gradients(model))


@pytest.mark.parametrize("name", TAKES_GRADIENTS)
def test_gradients_that_are_zeroed_in_place(name: str) -> None:
    """Are new ones after the next backward pass."""
    finished = []
    for to_none in (True, False):
        model, plugin, x, y = begun(name)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad(set_to_none=to_none)
            F.cross_entropy(model(x), y).backward()
            plugin.after_backward()
            optimizer.step()
            plugin.after_step()
        finished.append(parameters(model))
    torch.testing.assert_close(*finished, rtol=0, atol=0)


def _without_after_step(plugin: Any, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    plugin.after_backward()
    optimizer.step()


def _after_backward_too_late(plugin: Any, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    plugin.after_backward()
    plugin.after_step()


def _before_backward_alone(plugin: Any, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    plugin.before_backward(loss).backward()
    optimizer.step()


@pytest.mark.parametrize(
    "step", [_without_after_step, _after_backward_too_late, _before_backward_alone]
)
@pytest.mark.parametrize("name", ["SI", "total SI", "RWalk"])
def test_tasks_without_a_path(name: str, step: Any) -> None:
    """Importances would be zeros without a word."""
    model = penalty_cases.network()
    plugin: Any = penalty_cases.PLUGINS[name](model)
    (batches,) = penalty_cases.tasks(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x, y in batches:
        optimizer.zero_grad()
        step(plugin, F.cross_entropy(model(x), y), optimizer)
    with pytest.raises(RuntimeError, match="have moved in this task, but no step of it was seen"):
        plugin.on_task_end(batches)
    assert plugin.tasks == 0


def test_tasks_that_were_not_distilled() -> None:
    """Of a loop that makes no call but that of the end of a task."""
    model = rehearsal_cases.network()
    plugin = LwF(model)
    first, second = rehearsal_cases.tasks(2)
    plugin.on_task_end(first)
    kept = copy.deepcopy(plugin.state_dict())
    x, y = second[0]
    F.cross_entropy(model(x), y).backward()
    message = "on_task_end: no forward pass of this task was distilled; call"
    with pytest.raises(RuntimeError, match=f"^LwF.{message}"):
        plugin.on_task_end(second)
    assert rehearsal_cases.equal(kept, plugin.state_dict())
    plugin.before_backward(F.cross_entropy(model(x), y)).backward()
    plugin.on_task_end(second)


@pytest.mark.parametrize("name", ["SI", "RWalk"])
def test_a_step_that_could_not_begin_has_no_end(name: str) -> None:
    """Gradients that cannot be copied leave nothing behind that a path is made of."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 5, sparse=True), nn.Flatten(), nn.Linear(15, 4)).double()
    plugin: Any = penalty_cases.PLUGINS[name](model)
    model(torch.randint(9, (6, 3))).sum().backward()
    with pytest.raises((RuntimeError, TypeError)):
        plugin.after_backward()
    with torch.no_grad():
        for p in model.parameters():
            p += 1
    with pytest.raises(RuntimeError, match="after_step: there is no gradient of this step"):
        plugin.after_step()
    assert not any(omega.any() for omega in plugin.state_dict()["omegas"].values())
