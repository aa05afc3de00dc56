"""LwF as a plugin: against the paper's loop, in loops as people have them."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lwf_cases import taught, train
from rehearsal_cases import LR, Batch, assert_same, equal, network, tasks
from torch import Tensor, nn

from clfast.memory import ReplayBuffer
from clfast.plugins import AGEM, ER, ERMIR, GEM, LwF


def kl(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    p, q = (teacher / t).softmax(1), (student / t).softmax(1)
    return (p * (p.log() - q.log())).sum(1).mean()


def by_the_paper(seen: bool, given: list[list[Batch]]) -> nn.Module:
    """strength 0.7, temperature 2."""
    model = network()
    teacher: nn.Module | None = None
    for task, batches in enumerate(given):
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        for x, y in batches:
            optimizer.zero_grad()
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            if teacher is not None:
                with torch.no_grad():
                    target = teacher(x)
                old = 2 * task if seen else 6
                loss = loss + 0.7 * kl(logits[:, :old], target[:, :old], 2.0)
            loss.backward()
            optimizer.step()
        teacher = copy.deepcopy(model).eval()
    return model


@pytest.mark.parametrize("classes", ["seen", None])
def test_trains_as_the_paper_says(classes: Any) -> None:
    model = network()
    plugin = LwF(model, strength=0.7, temperature=2.0, classes=classes)
    for batches in tasks():
        train(plugin, model, batches)
        plugin.on_task_end(batches if classes else None)
    assert_same(model, by_the_paper(bool(classes), tasks()))
    assert plugin.seen == (set(range(6)) if classes else set())


def test_nothing_teaches_in_the_first_task() -> None:
    plugin = LwF(network())
    loss = torch.ones(())
    assert plugin.before_backward(loss) is loss
    plugin.after_backward()
    assert plugin.teacher is None


def test_the_teacher_stays_as_it_was() -> None:
    model, plugin = taught()
    assert plugin.teacher is not None
    kept = {name: t.clone() for name, t in plugin.teacher.state_dict().items()}
    assert equal(kept, dict(model.state_dict()))
    train(plugin, model, tasks(2)[1])
    assert equal(kept, dict(plugin.teacher.state_dict()))
    assert not equal(kept, dict(model.state_dict()))
    assert not any(module.training for module in plugin.teacher.modules())
    assert not any(p.requires_grad for p in plugin.teacher.parameters())


def test_accumulated_losses_are_each_distilled() -> None:
    """Without batch normalisation: halves of a batch are as the whole."""
    finished = []
    for halves in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6)).double()
        plugin = LwF(model)
        for batches in tasks():
            optimizer = torch.optim.SGD(model.parameters(), lr=LR)
            for x, y in batches:
                optimizer.zero_grad()
                parts = x.chunk(2), y.chunk(2)
                for a, b in zip(*parts, strict=True) if halves else ((x, y),):
                    loss = plugin.before_backward(F.cross_entropy(model(a), b))
                    (loss * len(a) / len(x)).backward()
                plugin.after_backward()
                optimizer.step()
            plugin.on_task_end(batches)
        finished.append(model)
    assert_same(*finished)


def test_a_scaled_loss() -> None:
    grads = []
    for scale in (1.0, 2.0**10):
        model, plugin = taught()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        x, y = tasks(2)[1][0]
        scaler.scale(plugin.before_backward(F.cross_entropy(model(x), y))).backward()
        plugin.after_backward(scale=scale)
        grads.append([p.grad / scale for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("inside", [True, False])
def test_autocast(inside: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 6))
    plugin = LwF(model)
    plugin.on_task_end([(x.float(), y) for x, y in tasks(1)[0]])
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    x, y = tasks(2)[1][0]
    x = x.float()
    wanted = plugin.before_backward(F.cross_entropy(model(x), y))
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
        if inside:
            loss = plugin.before_backward(loss)
    if not inside:
        loss = plugin.before_backward(loss)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wanted, rtol=0.03, atol=0.01)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_parameter_groups_and_frozen_parameters() -> None:
    model, plugin = taught()
    model.zero_grad()
    model[0].requires_grad_(False)
    kept = model[0].weight.clone()
    groups = [{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(model[1:].parameters())]
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1)
    for x, y in tasks(2)[1]:
        optimizer.zero_grad()
        plugin.before_backward(F.cross_entropy(model(x), y)).backward()
        optimizer.step()
    assert torch.equal(model[0].weight, kept)
    assert model[0].weight.grad is None


def grow(model: nn.Sequential, outputs: int) -> None:
    old = model[3]
    model[3] = nn.Linear(6, outputs).double()
    with torch.no_grad():
        model[3].weight[: len(old.weight)], model[3].bias[: len(old.bias)] = old.weight, old.bias


@pytest.mark.parametrize("classes", ["seen", None])
def test_heads_that_grow(classes: Any, tmp_path: Any) -> None:
    """The teacher has fewer outputs; a state that is loaded into the grown model has, too."""
    first, second = tasks(2)
    model = network(outputs=2)
    plugin = LwF(model, strength=1.0, temperature=2.0, classes=classes)
    train(plugin, model, first)
    plugin.on_task_end(first)
    teacher = copy.deepcopy(model).eval()
    grow(model, 4)
    x, y = second[0]
    twin = copy.deepcopy(model)
    wanted = F.cross_entropy(twin(x), y) + kl(twin(x)[:, :2], teacher(x).detach(), 2.0)
    loss = plugin.before_backward(F.cross_entropy(model(x), y))
    torch.testing.assert_close(loss, wanted)
    torch.save(plugin.state_dict(), tmp_path / "state")
    again = network(outputs=4, seed=7)
    again.load_state_dict(model.state_dict())
    other = LwF(again, strength=1.0, temperature=2.0, classes=classes)
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for one, net in ((plugin, model), (other, again)):
        train(one, net, second)
        one.on_task_end(second)
        assert one.teacher is not None
        assert one.teacher(x).shape[1] == 4
    assert_same(model, again, rtol=0, atol=0)
    assert equal(plugin.state_dict(), other.state_dict())


def test_a_state_continues_bit_for_bit(tmp_path: Any) -> None:
    """In the middle of a task, tied weights and buffers that a state dict leaves out included."""

    class Tied(nn.Module):
        shift: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 6, bias=False), nn.Linear(5, 6, bias=False)
            self.last.weight = self.first.weight
            self.register_buffer("shift", torch.randn(6), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.first(x).tanh() + self.last(x) + self.shift
            return out

    torch.manual_seed(0)
    model = Tied().double()
    plugin = LwF(model)
    first, second = tasks(2)
    train(plugin, model, first)
    plugin.on_task_end(first)
    train(plugin, model, second[:1])
    torch.save(plugin.state_dict(), tmp_path / "state")
    again = copy.deepcopy(model)
    with torch.no_grad():
        again.shift += 1.0
    other = LwF(again)
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    with torch.no_grad():
        again.shift -= 1.0
    again.shift.copy_(model.shift)
    train(plugin, model, second[1:])
    train(other, again, second[1:])
    assert_same(model, again, rtol=0, atol=0)
    assert equal(plugin.state_dict(), other.state_dict())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("given", ["compiled", "inside", "fullgraph", "in place"])
def test_compiled_models(given: str) -> None:
    model, plain = network(), network()
    full = given == "fullgraph"
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=full)
    if given == "in place":
        model.compile(backend="aot_eager")
        compiled = model
    plugin = LwF(compiled if given in ("compiled", "fullgraph") else model)
    other = LwF(plain)
    for batches in tasks():
        train(plugin, compiled, batches)
        train(other, plain, batches)
        plugin.on_task_end(batches)
        other.on_task_end(batches)
    assert_same(model, plain)
    torch.testing.assert_close(plugin.state_dict(), other.state_dict())
    torch.compiler.reset()


# --- the hook -------------------------------------------------------------------------------------


def test_copies_of_the_model_have_no_hook_and_no_teacher() -> None:
    """Trial steps, teachers, checkpoints: they disturb nothing, and cost what the model costs."""
    model, plugin = taught()
    x, y = tasks(2)[1][0]
    plain = len(pickle.dumps(network()))
    loss = F.cross_entropy(model(x), y)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy([model])[0],
    ):
        assert len(pickle.dumps(twin)) < plain + 300  # a hook that belongs to nobody
        twin.train()
        twin(torch.randn(3, 5).double())  # is not distilled
    wanted = float(plugin.before_backward(loss).detach())
    assert plugin.teacher is not None
    student = copy.deepcopy(model)
    # The pass above has moved the statistics, which a pass in training mode does not look at.
    found = F.cross_entropy(student(x), y) + kl(
        student(x)[:, :2], plugin.teacher(x).detach()[:, :2], 2.0
    )
    assert wanted == pytest.approx(float(found.detach()))


@pytest.mark.parametrize("way", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
@pytest.mark.parametrize("model_first", [True, False])
def test_copies_of_the_plugin_are_of_the_model_too(
    way: Callable[[Any], Any], model_first: bool
) -> None:
    model, plugin = taught()
    net, other = way((model, plugin)) if model_first else way((plugin, model))[::-1]
    batches = tasks(2)[1]
    kept = {name: t.clone() for name, t in model.state_dict().items()}
    train(other, net, batches)
    assert equal(kept, dict(model.state_dict()))
    train(plugin, model, batches)
    assert_same(model, net, rtol=0, atol=0)
    assert other.teacher is not plugin.teacher


def test_passes_that_do_not_count() -> None:
    """In eval mode, without gradients, of parts of the model, of other plugins."""
    model, plugin = taught()
    other = torch.randn(4, 5).double()
    x, y = tasks(2)[1][0]
    wanted = float(plugin.before_backward(F.cross_entropy(model(x), y)).detach())
    memory = ReplayBuffer(50)
    first = tasks(1)[0]
    rehearsals: list[Any] = [ER(model, memory)]
    rehearsals[0].on_task_end(first)
    rehearsals += [ERMIR(model, memory, lr=0.1), AGEM(model, memory), GEM(model, per_task=5)]
    rehearsals[3].on_task_end(first)
    loss = F.cross_entropy(model(x), y)
    with torch.no_grad():
        model(other)
    model.eval()
    model(other)
    model.train()
    model[0](other)
    gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    for p, grad in zip(model.parameters(), gradients, strict=True):
        p.grad = grad
    for rehearsal in rehearsals:
        rehearsal.after_backward()
        assert rehearsal.loss is not None
    rehearsals[0].before_backward(loss)
    assert float(plugin.before_backward(loss).detach()) == pytest.approx(wanted)


def test_loops_may_write_into_the_logits() -> None:
    """As -inf for classes that are masked."""
    model, plugin = taught()
    x, y = tasks(2)[1][0]
    logits = model(x)
    wanted = kl(logits.detach()[:, :2], plugin.teacher(x)[:, :2], 2.0)
    logits[:, :2] = -math.inf
    loss = F.cross_entropy(logits, y)
    torch.testing.assert_close(plugin.before_backward(loss) - loss, wanted)


def test_models_that_take_keywords() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, *, pixels: Tensor, factor: float = 1.0) -> Tensor:
            out: Tensor = factor * self.inner(pixels)
            return out

    model = Named()
    plugin = LwF(model)
    plugin.on_task_end(tasks(1)[0])
    x, y = tasks(2)[1][0]
    loss = F.cross_entropy(model(pixels=x, factor=2.0), y)
    assert float(plugin.before_backward(loss).detach()) > float(loss.detach())


def test_a_plugin_that_is_closed() -> None:
    model, plugin = taught()
    x, y = tasks(2)[1][0]
    with plugin as same:
        assert same is plugin
        plugin.before_backward(F.cross_entropy(model(x), y))
    assert not model._forward_hooks
    plugin.close()
    model(x)
    plugin.after_backward()
    with pytest.raises(RuntimeError, match=r"^LwF.before_backward: this plugin was closed; make"):
        plugin.before_backward(torch.ones((), requires_grad=True))
    twin = copy.deepcopy(plugin)
    assert not twin._model._forward_hooks


def test_a_plugin_that_is_let_go() -> None:
    """Its model goes on, and holds neither it nor the teacher."""
    model, plugin = taught()
    gone = weakref.ref(plugin)
    del plugin
    gc.collect()
    assert gone() is None
    model(tasks(1)[0][0][0])
