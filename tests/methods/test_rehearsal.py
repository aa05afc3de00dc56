"""ER, ER-MIR, A-GEM and GEM: as their papers' loops, and unharmed by bad input."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Residual, batches, mlp, same
from torch import Tensor, nn

from clfast.memory import ReplayBuffer
from clfast.methods import AGEM, ER, ERMIR, GEM

Stream = list[tuple[Tensor, Tensor]]
CAPACITY = 12


def _model() -> nn.Module:
    torch.manual_seed(1)
    return Residual().double()


def _learner(kind: Any, model: nn.Module | None = None, **options: Any) -> Any:
    model = _model() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if kind is GEM:
        return GEM(model, optimizer, **{"per_task": 6, **options})
    given = {"replay": 4, "generator": torch.Generator().manual_seed(3), **options}
    return kind(model, optimizer, ReplayBuffer(CAPACITY), **given)


def _taught(learner: Any, stream: Stream, tasks: int = 2) -> list[dict[str, float]]:
    found = []
    for i, (x, y) in enumerate(stream):
        if i and i % (len(stream) // tasks) == 0:
            learner.on_task_end()
        found.append(learner.observe(x, y))
    return found


def _plain(
    stream: Stream,
    rehearse: Callable[[nn.Module, ReplayBuffer, int, torch.Generator], None],
    tasks: int = 2,
) -> nn.Module:
    """The loop as people write it; `rehearse` changes the gradients of the batch."""
    model = _model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    memory, generator = ReplayBuffer(CAPACITY), torch.Generator().manual_seed(3)
    for i, (x, y) in enumerate(stream):
        task = i // (len(stream) // tasks)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if task:
            rehearse(model, memory, task, generator)
        optimizer.step()
        memory.add(x=x, y=y, task=torch.full_like(y, task))
    return model


def _same_model(first: nn.Module, second: nn.Module) -> None:
    for ours, theirs in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_er_trains_on_the_batch_and_on_past_samples() -> None:
    def rehearse(model: nn.Module, memory: ReplayBuffer, task: int, g: torch.Generator) -> None:
        batch = memory.sample(4, g, where=memory.rows["task"] != task)
        F.cross_entropy(model(batch["x"]), batch["y"]).backward()

    stream = batches(6, 2, 4, 6)
    learner = _learner(ER)
    losses = _taught(learner, stream)
    assert [set(found) for found in losses] == [{"loss"}] * 3 + [{"loss", "replay"}] * 3
    _same_model(learner.model, _plain(stream, rehearse))
    assert learner.memory.rows["task"].unique().tolist() == [0, 1]


def test_er_mir_takes_the_samples_that_the_step_would_harm_most() -> None:
    def rehearse(model: nn.Module, memory: ReplayBuffer, task: int, g: torch.Generator) -> None:
        batch = memory.sample(8, g, where=memory.rows["task"] != task)
        now, virtual = copy.deepcopy(model), copy.deepcopy(model)
        with torch.no_grad():
            for p, q in zip(virtual.parameters(), model.parameters(), strict=True):
                p -= 0.1 * q.grad
            before, after = (
                F.cross_entropy(m(batch["x"]), batch["y"], reduction="none") for m in (now, virtual)
            )
        worst = (after - before).argsort(descending=True)[:4]
        F.cross_entropy(model(batch["x"][worst]), batch["y"][worst]).backward()

    stream = batches(6, 2, 4, 6)
    learner = _learner(ERMIR, candidates=8)
    _taught(learner, stream)
    _same_model(learner.model, _plain(stream, rehearse))


def test_agem_takes_no_step_against_the_past() -> None:
    turned = []

    def rehearse(model: nn.Module, memory: ReplayBuffer, task: int, g: torch.Generator) -> None:
        batch = memory.sample(4, g, where=memory.rows["task"] != task)
        loss = F.cross_entropy(model(batch["x"]), batch["y"])
        weights = list(model.parameters())
        reference = torch.cat([r.flatten() for r in torch.autograd.grad(loss, weights)])
        own = torch.cat([p.grad.flatten() for p in weights])
        inner = own @ reference
        turned.append(bool(inner < 0))
        if inner < 0:
            own = own - inner / (reference @ reference) * reference
        for p, part in zip(weights, own.split([p.numel() for p in weights]), strict=True):
            p.grad = part.view_as(p)

    stream = batches(8, 2, 4, 6)
    learner = _learner(AGEM)
    losses = _taught(learner, stream)
    assert set(losses[-1]) == {"loss", "memory"}
    _same_model(learner.model, _plain(stream, rehearse))
    assert any(turned)


def test_gem_agrees_with_every_past_task() -> None:
    """What is left of the gradients is checked by what they must do, not by another solver."""
    learner = _learner(GEM, margin=0.0)
    stream = batches(9, 2, 4, 6)
    for task in range(3):
        for x, y in stream[3 * task : 3 * task + 3]:
            learner.observe(x, (y + task) % 4)
        learner.on_task_end()
    assert [len(memory) for memory in learner.memories.values()] == [6, 6, 6]
    learner.task = 2
    learner.model.train()
    model = learner.model
    x, y = stream[-1]
    model.zero_grad(set_to_none=True)
    F.cross_entropy(model(x), y).backward()
    before = torch.cat([p.grad.flatten() for p in model.parameters()])
    past = [
        torch.cat([g.flatten() for g in learner._gradients_on(learner.memories[t].rows)[1]])
        for t in (0, 1)
    ]
    learner._rehearse()
    after = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert min(float(before @ g) for g in past) < 0
    # The ridge of 0.001 leaves a violation that is small beside the one before.
    assert min(float(after @ g) for g in past) > -0.01 * abs(min(float(before @ g) for g in past))


def test_gem_rings_hold_the_last_samples_of_their_task() -> None:
    learner = _learner(GEM, per_task=7)
    stream = batches(6, 2, 4, 6)
    _taught(learner, stream)
    first = torch.cat([x for x, _ in stream[:3]])
    assert sorted(learner.memories) == [0, 1]
    stored = learner.memories[0].rows["x"]
    assert len(stored) == 7
    assert all(any(torch.equal(row, other) for other in stored) for row in first[-7:])


@pytest.mark.parametrize("kind", [ER, ERMIR, AGEM, GEM])
def test_without_a_past_it_is_plain_training(kind: Any) -> None:
    stream = batches(4, 2, 4, 6)
    learner = _learner(kind)
    for x, y in stream:
        assert set(learner.observe(x, y)) == {"loss"}
    _same_model(learner.model, _plain(stream, lambda *_: None))


@pytest.mark.parametrize("kind", [ER, ERMIR, AGEM, GEM])
def test_states_and_failures(kind: Any) -> None:
    stream = batches(8, 2, 4, 6)
    learner = _learner(kind)
    _taught(learner, stream[:6])
    state, copied = learner.state_dict(), pickle.loads(pickle.dumps(learner))
    fresh = _learner(kind)
    fresh.load_state_dict(state)
    x, y = stream[6]
    for bad in ((x * float("nan"), y), (x, y + 4), (x, y[1:]), (x[:, :, :2, :2], y)):
        with pytest.raises(ValueError, match=rf"{kind.__name__}\.observe|ReplayBuffer\.add: x"):
            learner.observe(*bad)
        assert same(state, learner.state_dict())
    wanted = learner.observe(x, y)
    assert set(wanted) == {"loss", "memory" if kind in (AGEM, GEM) else "replay"}
    assert fresh.observe(x, y) == wanted
    assert copied.observe(x, y) == wanted
    before = learner.state_dict()
    with pytest.raises(ValueError, match=r"(?s)load_state_dict.*nothing was loaded"):
        learner.load_state_dict({**state, "model": {}})
    assert same(before, learner.state_dict())


def test_frozen_parameters_and_unused_ones_are_left_alone() -> None:
    for kind in (ER, ERMIR, AGEM, GEM):
        model = _model()
        model.stem.weight.requires_grad_(False)
        model.unused = nn.Linear(2, 2).double()
        frozen = model.stem.weight.clone()
        learner = _learner(kind, model)
        _taught(learner, batches(6, 2, 4, 6))
        assert torch.equal(model.stem.weight, frozen)
        assert model.unused.weight.grad is None


def test_vectors_and_another_buffer() -> None:
    model = mlp().double()
    optimizer = torch.optim.Adam(model.parameters())
    memory = ReplayBuffer(10, policy="class_balanced")
    learner = ER(model, optimizer, memory, replay=100)
    for i, (x, y) in enumerate(batches(6, 48)):
        if i == 3:
            learner.on_task_end()
        learner.observe(x, y)
    assert learner.memory.counts(4).min() >= 1
    again = AGEM(model, optimizer, memory)
    assert again.memory is memory


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: _learner(ER, replay=0), ValueError, "ER: replay must be at least 1"),
        (lambda: _learner(ERMIR, candidates=0), ValueError, "ERMIR: candidates must be at least 1"),
        (lambda: _learner(ERMIR, lr=float("nan")), ValueError, "ERMIR: lr must be finite"),
        (lambda: _learner(GEM, per_task=0), ValueError, "GEM: per_task must be at least 1"),
        (lambda: _learner(GEM, margin=-1.0), ValueError, "GEM: margin must be finite and in"),
        (lambda: _learner(AGEM, generator=5), TypeError, "AGEM: generator must be"),
    ],
)
def test_bad_options(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_memories_of_another_kind() -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="ER: memory must be a ReplayBuffer, got int"):
        ER(model, optimizer, 50)  # type: ignore[arg-type]
    memory = ReplayBuffer(3)
    memory.add(x=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="ER: memory must be empty or hold x, y and task, got x"):
        ER(model, optimizer, memory)
