"""ER, ER-MIR, A-GEM and GEM as plugins, against the loops of their papers in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rehearsal_cases import (
    CAPACITY,
    LR,
    PLUGINS,
    Batch,
    assert_same,
    equal,
    every_buffer,
    every_plugin,
    gradients,
    network,
    tasks,
    train,
    with_gradients,
)
from torch import Tensor, nn

from clfast.memory import ReplayBuffer
from clfast.plugins import ER, GEM


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def put(model: nn.Module, gradient: Tensor) -> None:
    parameters = list(model.parameters())
    for p, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p).clone()


def er(model: nn.Module, x: Tensor, y: Tensor) -> None:
    F.cross_entropy(model(x), y).backward()


def ermir(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """The authors' way: two copies of the model, one of them after a step."""
    now, virtual = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        for p, q in zip(virtual.parameters(), model.parameters(), strict=True):
            assert q.grad is not None
            p -= LR * q.grad
        before, after = (F.cross_entropy(m(x), y, reduction="none") for m in (now, virtual))
    worst = (after - before).argsort(descending=True)[:5]
    er(model, x[worst], y[worst])


def agem(model: nn.Module, x: Tensor, y: Tensor) -> None:
    reference = flat(torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())))
    own = flat(gradients(model))
    if own @ reference < 0:
        put(model, own - (own @ reference) / (reference @ reference) * reference)


LOOPS: dict[str, Any] = {"ER": (er, 5), "ERMIR": (ermir, 9), "AGEM": (agem, 5)}


def by_the_paper(name: str, given: list[list[Batch]], past_only: bool = True) -> nn.Module:
    """After all tasks; of each, samples are stored when it ends, or else after each step."""
    rehearse, count = LOOPS[name]
    model = network()
    memory, draws = ReplayBuffer(CAPACITY), torch.Generator().manual_seed(3)
    for task, batches in enumerate(given):
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if len(memory):
                drawn = memory.sample(count, draws)
                rehearse(model, drawn["x"], drawn["y"])
            optimizer.step()
            if not past_only:
                memory.add(x=x, y=y)
        if past_only:
            for x, y in batches:
                memory.add(x=x, y=y, task=torch.full_like(y, task))
    return model


@every_buffer
@pytest.mark.parametrize("how", ["after", "both"])
def test_trains_as_the_papers_say(name: str, how: str) -> None:
    """On three tasks, by loaders; running statistics of batch normalisation included."""
    model = network()
    plugin = PLUGINS[name](model)
    for batches in tasks():
        train(plugin, model, batches, how)
        plugin.on_task_end(batches)
    assert_same(model, by_the_paper(name, tasks()))
    assert plugin.task == 3
    assert plugin.loss is not None
    assert not plugin.loss.requires_grad


@every_buffer
def test_a_stream_without_tasks(name: str) -> None:
    model = network()
    plugin = PLUGINS[name](model, past_only=False)
    for batches in tasks():
        train(plugin, model, batches, store=True)
    assert_same(model, by_the_paper(name, tasks(), past_only=False))
    assert plugin.task == 0


def test_gem_agrees_with_every_past_task() -> None:
    """What is left of the gradients is checked by what they must do, and by what they need not."""
    model = network()
    plugin = GEM(model, per_task=8, margin=0.0)
    for batches in tasks(2):
        train(plugin, model, batches)
        plugin.on_task_end(batches)
    before = flat(with_gradients(model))
    twin = copy.deepcopy(model)
    past = [
        flat(torch.autograd.grad(F.cross_entropy(twin(x), y), list(twin.parameters())))
        for x, y in ((m.rows["x"], m.rows["y"]) for m in plugin.memories.values())
    ]
    plugin.after_backward()
    after = flat(gradients(model))
    worst = min(float(before @ g) for g in past)
    assert worst < 0
    # The ridge of 0.001 leaves a violation that is small beside the one before.
    assert min(float(after @ g) for g in past) > -0.02 * abs(worst)
    # The nearest such gradient differs by a sum of theirs.
    stacked = torch.stack(past)
    rest = (after - before) - torch.linalg.lstsq(stacked.T, after - before).solution @ stacked
    assert float(rest.norm()) < 1e-9


def test_gem_is_the_projection_on_one_task() -> None:
    """With a margin of 0 and one memory it is A-GEM's projection, up to the ridge."""
    model = network()
    plugin = GEM(model, per_task=20, margin=0.0)
    (batches,) = tasks(1)
    plugin.on_task_end(batches)
    before = flat(with_gradients(model))
    twin = copy.deepcopy(model)
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    g = flat(torch.autograd.grad(F.cross_entropy(twin(x), y), list(twin.parameters())))
    plugin.after_backward()
    wanted = before - min(float(before @ g), 0.0) / (g @ g + 1e-3) * g
    torch.testing.assert_close(flat(gradients(model)), wanted)
    assert not torch.equal(wanted, before)


def test_gem_rings_hold_the_last_samples_of_their_task() -> None:
    plugin = GEM(network(), per_task=5)
    for batches in tasks(2):
        plugin.on_task_end(batches)
    for batches, ring in zip(tasks(2), plugin.memories.values(), strict=True):
        last = torch.cat([x for x, _ in batches])[-5:]
        assert len(ring) == 5
        assert all(any(torch.equal(row, other) for other in ring.rows["x"]) for row in last)


@every_plugin
def test_nothing_is_rehearsed_in_the_first_task(name: str) -> None:
    model, plain = network(), network()
    plugin = PLUGINS[name](model)
    (batches,) = tasks(1)
    train(plugin, model, batches, "both", store=True)
    optimizer = torch.optim.SGD(plain.parameters(), lr=LR)
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        optimizer.step()
    assert_same(model, plain, rtol=0, atol=0)
    assert plugin.loss is None
    loss = torch.ones(())
    assert plugin.before_backward(loss) is loss


@every_plugin
def test_samples_get_in_once(name: str) -> None:
    """By `store`, or else by the loader; bit for bit the same store, a batch at a time."""
    states = []
    for store in (True, False):
        plugin = PLUGINS[name](network())
        for batches in tasks(2):
            for x, y in batches if store else ():
                plugin.store(x, y)
            plugin.on_task_end(batches)
        states.append(plugin.state_dict())
    assert equal(*states)
    stored = plugin.memories[1] if name == "GEM" else plugin.memory
    assert stored.seen == (20 if name == "GEM" else 40)


@every_plugin
def test_an_empty_batch_is_no_sample_of_the_task(name: str) -> None:
    plugin = PLUGINS[name](network())
    (batches,) = tasks(1)
    x, y = batches[0]
    plugin.store(x[:0], y[:0])
    plugin.on_task_end([*batches, (x[:0], y[:0])])
    assert plugin.state_dict()["stored"] == 0
    twin = PLUGINS[name](network())
    twin.on_task_end(batches)
    assert equal(plugin.state_dict(), twin.state_dict())


@every_buffer
def test_samples_of_the_task_itself_are_not_rehearsed(name: str) -> None:
    model = network()
    plugin = PLUGINS[name](model, replay=100)
    first, second = tasks(2)
    plugin.on_task_end(first)
    for x, y in second:
        plugin.store(x, y)
    drawn = plugin._past(100)
    assert set(drawn["task"].tolist()) == {0}
    assert len(drawn["y"]) == int((plugin.memory.rows["task"] == 0).sum()) < 100


def test_tasks_of_a_filled_buffer_are_past() -> None:
    memory = ReplayBuffer(60)
    for task, batches in enumerate(tasks()):
        for x, y in batches:
            memory.add(x=x, y=y, task=torch.full_like(y, task))
    model = network()
    plugin = ER(model, memory)
    assert plugin.task == 3
    before = with_gradients(model)
    plugin.after_backward()
    assert not equal(before, gradients(model))


def test_batches_of_three_parts() -> None:
    found = []
    for more in ((), (torch.zeros(8), "more")):
        plugin = PLUGINS["ER"](network())
        plugin.on_task_end([(*batch, *more) for batch in tasks(1)[0]])
        found.append(plugin.state_dict())
    assert equal(*found)


def test_the_loss_of_past_samples_is_told() -> None:
    model = network()
    plugin = ER(model, ReplayBuffer(20), replay=20)
    (batches,) = tasks(1)
    plugin.on_task_end(batches)
    with_gradients(model)
    model.eval()
    plugin.after_backward()
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    torch.testing.assert_close(plugin.loss, F.cross_entropy(model(x), y).detach())
