"""Plugins with stored samples in loops as people have them: scaled losses, several backward passes,
16 bits, frozen and growing parameters, states, copies, compiled models."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rehearsal_cases import (
    LR,
    PLUGINS,
    assert_as_before,
    assert_same,
    equal,
    every_buffer,
    every_plugin,
    everything,
    gradients,
    network,
    tasks,
    taught,
    train,
    with_gradients,
)
from torch import Tensor, nn

from clfast.memory import ReplayBuffer
from clfast.plugins import AGEM, ER, ERMIR, GEM, RehearsalPlugin


def close(first: list[Tensor], second: list[Tensor]) -> None:
    torch.testing.assert_close(first, second, rtol=1e-8, atol=1e-11)


@every_plugin
def test_scaled_gradients(name: str) -> None:
    """As a GradScaler leaves them before it unscales them."""
    model, plugin = taught(name)
    other, twin = copy.deepcopy((model, plugin)) if name == "GEM" else taught(name)
    plain = with_gradients(model)
    plugin.after_backward()
    with_gradients(other, scale=1024)
    twin.after_backward(scale=1024)
    close([grad / 1024 for grad in gradients(other)], gradients(model))
    assert not equal(plain, gradients(model))


def test_er_in_a_scaled_loss() -> None:
    model, plugin = taught("ER")
    other, twin = taught("ER")
    with_gradients(model)
    plugin.after_backward()
    x, y = tasks(3)[2][0]
    other.zero_grad()
    (twin.before_backward(F.cross_entropy(other(x), y)) * 1024).backward()
    twin.after_backward(scale=1024)
    close([grad / 1024 for grad in gradients(other)], gradients(model))


@every_plugin
@pytest.mark.parametrize("unscaled", [True, False])
def test_a_step_that_grad_scaler_skips(name: str, unscaled: bool) -> None:
    """Gradients that have overflown are left alone, and nothing is drawn."""
    model = network().float()
    plugin = PLUGINS[name](model)
    for batches in tasks(2):
        plugin.on_task_end([(x.float(), y) for x, y in batches])
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x, y = tasks(3)[2][0]
    scaler.scale(F.cross_entropy(model(x.float()), y) * 1e38).backward()
    if unscaled:
        scaler.unscale_(optimizer)
    kept = everything(plugin, model)
    plugin.after_backward(scale=1.0 if unscaled else scaler.get_scale())
    assert_as_before(plugin, model, kept)
    values = [p.detach().clone() for p in model.parameters()]
    scaler.step(optimizer)
    plugin.after_step()
    assert equal(values, [p.detach() for p in model.parameters()])
    scaler.update()
    assert scaler.get_scale() == 2.0**9


@every_plugin
def test_gradients_of_past_samples_that_overflow(name: str) -> None:
    """The scaler must see it, skip the step, and go on with a smaller scale."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6))
    plugin = PLUGINS[name](model)
    (batches,) = tasks(1)
    plugin.on_task_end([(x.float() * 1e3, y) for x, y in batches])
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    x, y = tasks(2)[1][0]
    scaler.scale(F.cross_entropy(model(x.float() * 1e-3), y) * 1e-3).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
    plugin.after_backward(scale=scaler.get_scale())
    values = [p.detach().clone() for p in model.parameters()]
    scaler.step(optimizer)
    assert equal(values, [p.detach() for p in model.parameters()])
    scaler.update()
    assert scaler.get_scale() == 2.0**125


@every_plugin
def test_accumulated_gradients(name: str) -> None:
    """Two halves of a batch before one call and one step, without batch normalisation."""
    finished = []
    for halves in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6)).double()
        plugin = PLUGINS[name](model)
        for batches in tasks():
            optimizer = torch.optim.SGD(model.parameters(), lr=LR)
            for x, y in batches:
                optimizer.zero_grad()
                for part in (slice(0, 2), slice(2, None)) if halves else (slice(None),):
                    loss = F.cross_entropy(model(x[part]), y[part], reduction="sum") / len(x)
                    if halves and part.start == 0:
                        loss = plugin.before_backward(loss)
                    loss.backward()
                plugin.after_backward()
                optimizer.step()
            plugin.on_task_end(batches)
        finished.append(model)
    assert_same(*finished)


@every_plugin
@pytest.mark.parametrize("inside", [True, False])
def test_autocast(name: str, inside: bool) -> None:
    """Calls inside of it and outside, also after its cache of weights has gone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 6))
    # No more candidates than are taken: scores in 16 bits order samples otherwise.
    plugin = PLUGINS[name](model, **({"candidates": 5} if name == "ERMIR" else {}))
    for batches in tasks(2):
        plugin.on_task_end([(x.float(), y) for x, y in batches])
    x, y = tasks(3)[2][0]

    def autocast(on: bool) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if on else nullcontext()

    found = []
    for on in (True, False):
        twin = pickle.loads(pickle.dumps(plugin))
        with autocast(on):
            loss = F.cross_entropy(twin.model(x.float()), y)
        loss.backward()
        before = gradients(twin.model)
        with autocast(on and inside):
            twin.after_backward()
        found.append(gradients(twin.model))
        assert not equal(before, found[-1])
        assert all(grad.dtype == torch.float32 for grad in found[-1])
    for half, full in zip(*found, strict=True):
        assert float((half - full).norm()) < 0.1 * float(full.norm()) + 1e-3


@every_plugin
def test_parameter_groups_and_frozen_parameters(name: str) -> None:
    """What is frozen keeps its values and its stale gradient; so does what takes no part."""
    model = network()
    model[0].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    frozen = model[0].weight.clone()
    model.register_module("unused", None)
    model.unused = nn.Linear(2, 2).double()
    model.forward = lambda x: model[3](model[2](model[1](model[0](x))))
    plugin = PLUGINS[name](model)
    for batches in tasks():
        groups = [
            {"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(model[1:].parameters())
        ]
        optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1)
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            plugin.after_backward()
            optimizer.step()
        plugin.on_task_end(batches)
    assert plugin.loss is not None
    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(model[0].weight.grad, torch.ones_like(frozen))
    assert model.unused.weight.grad is None


@every_plugin
def test_a_frozen_body_is_as_if_it_were_not_there(name: str) -> None:
    """The projection is that of the head's gradients alone."""
    model, plugin = taught(name)
    body = model[:3]
    body.requires_grad_(False)
    body.eval()
    with_gradients(model)
    for p in body.parameters():
        p.grad = None
    head = nn.Sequential(copy.deepcopy(model[3]))
    of_head: RehearsalPlugin = PLUGINS[name](head)
    if isinstance(plugin, GEM):
        assert isinstance(of_head, GEM)
        for task, ring in plugin.memories.items():
            of_head.memories[task] = of_head._new_ring()
            of_head.memories[task].add(x=body(ring.rows["x"]), y=ring.rows["y"])
    else:
        rows = plugin.memory.rows
        of_head.memory.add(x=body(rows["x"]), y=rows["y"], task=rows["task"])
        of_head.generator.set_state(plugin.generator.get_state())
    of_head.task = plugin.task
    for p, q in zip(head.parameters(), model[3].parameters(), strict=True):
        p.grad = q.grad.clone()
    plugin.after_backward()
    of_head.after_backward()
    close(gradients(head), gradients(model))


@every_plugin
def test_parameters_that_past_samples_alone_go_through(name: str) -> None:
    """Replay gives them gradients, as one loss would; projections are of the step's."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = nn.Linear(5, 6), nn.Linear(5, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.low(x[x[:, 0] <= 0]), self.high(x[x[:, 0] > 0])])

    torch.manual_seed(0)
    model = Gated().double()
    plugin = PLUGINS[name](model)
    x, y = tasks(1)[0][0]
    plugin.on_task_end([(x.index_fill(1, torch.tensor([0]), 1.0), y)])
    # The branch of the batch has samples; the other has none of it, and so zeros.
    model.zero_grad()
    F.cross_entropy(model.low(x), y).backward()
    assert model.high.weight.grad is None
    plugin.after_backward()
    assert (model.high.weight.grad is not None) == (name in ("ER", "ERMIR"))


@every_plugin
def test_heads_that_grow(name: str) -> None:
    """Another layer of more outputs in place of the one there was."""
    model, plugin = taught(name)
    old = model[3]
    model[3] = nn.Linear(6, 9).double()
    with torch.no_grad():
        model[3].weight[:6], model[3].bias[:6] = old.weight, old.bias
    x, y = tasks(3)[2][0]
    F.cross_entropy(model(x), y + 3).backward()
    before = gradients(model)
    plugin.after_backward()
    assert not equal(before, gradients(model))
    train(plugin, model, [(x, y + 3)])
    plugin.on_task_end([(x, y + 3)])
    assert plugin.task == 3


@every_plugin
def test_a_model_may_take_the_place_of_another(name: str) -> None:
    """By the attribute: as when a loop builds its model anew."""
    model, plugin = taught(name)
    other = copy.deepcopy(model)
    plugin.model = other
    before = with_gradients(other)
    model.zero_grad()
    plugin.after_backward()
    assert not equal(before, gradients(other))
    assert not gradients(model)


@every_plugin
def test_running_statistics_are_those_of_the_passes(name: str) -> None:
    """In training mode past samples count, once; in eval mode nothing moves. ER-MIR's trial steps
    leave no trace."""
    model, plugin = taught(name)
    with_gradients(model)
    passes = int(model[1].num_batches_tracked)
    plugin.after_backward()
    assert int(model[1].num_batches_tracked) == passes + (2 if name == "GEM" else 1)
    model.eval()
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    with_gradients(model)
    plugin.after_backward()
    assert equal(kept, dict(model.state_dict()))
    assert not model.training


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@every_plugin
def test_calls_without_gradients(name: str, mode: Callable[[], Any]) -> None:
    """What evaluates a loop's model may call a plugin there."""
    model, plugin = taught(name)
    other, twin = taught(name)
    for net, one, context in ((model, plugin, mode), (other, twin, nullcontext)):
        with_gradients(net)
        with context():
            x, y = tasks(3)[2][1]
            one.after_backward()
            one.store(x.clone(), y.clone())
            one.on_task_end()
        with_gradients(net)
        one.store(x, y)
        one.after_backward()
    assert equal(gradients(model), gradients(other))
    assert equal(plugin.state_dict(), twin.state_dict())


@every_plugin
def test_a_state_continues_bit_for_bit(name: str, tmp_path: Any) -> None:
    """In the middle of a task, with samples of it stored or not."""
    for store in (False, True):
        model = network()
        plugin = PLUGINS[name](model)
        first, second = tasks(2)
        train(plugin, model, first, store=store)
        plugin.on_task_end(first)
        train(plugin, model, second[:1], store=store)
        torch.save((model.state_dict(), plugin.state_dict()), tmp_path / "state")
        states = torch.load(tmp_path / "state", weights_only=True)
        again = network(seed=5)
        again.load_state_dict(states[0])
        other = PLUGINS[name](again)
        other.load_state_dict(states[1])
        for one, net in ((plugin, model), (other, again)):
            train(one, net, second[1:], store=store)
            one.on_task_end(second)
            train(one, net, second)
        assert_same(model, again, rtol=0, atol=0)
        assert equal(plugin.state_dict(), other.state_dict())


@every_plugin
def test_copies_are_of_the_model_too(name: str) -> None:
    """A buffer is shared by copies; rings are nobody else's."""
    model, plugin = taught(name)
    net, other = copy.deepcopy((model, plugin))
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    rings = plugin.state_dict()
    train(other, net, tasks(3)[2], store=True)
    assert other.model is net
    assert equal(kept, dict(model.state_dict()))
    assert not equal(kept, dict(net.state_dict()))
    assert equal(rings, plugin.state_dict()) == (name == "GEM")
    assert name == "GEM" or other.memory is plugin.memory


@every_plugin
def test_pickled_plugins_go_on(name: str) -> None:
    model, plugin = taught(name)
    other = pickle.loads(pickle.dumps(plugin))
    train(plugin, model, tasks(3)[2])
    train(other, other.model, tasks(3)[2])
    assert_same(model, other.model, rtol=0, atol=0)


@every_plugin
def test_copies_of_the_model_do_not_copy_what_is_stored(name: str) -> None:
    """As loops make them all the time: as teachers, or for a trial step."""
    model, plugin = taught(name)
    size = len(pickle.dumps(network()))
    assert len(pickle.dumps(copy.deepcopy(model))) == size
    assert plugin.task == 2


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "given"), [*((name, "compiled") for name in PLUGINS), ("ERMIR", "inside")]
)
def test_compiled_models(name: str, given: str) -> None:
    model, plain = network(), network()
    compiled: Any = torch.compile(model, backend="aot_eager")
    plugin = PLUGINS[name](compiled if given == "compiled" else model)
    other = PLUGINS[name](plain)
    for batches in tasks(2):
        train(plugin, compiled, batches)
        train(other, plain, batches)
        plugin.on_task_end(batches)
        other.on_task_end(batches)
    assert_same(model, plain)
    assert equal(plugin.state_dict(), other.state_dict())
    torch.compiler.reset()


def test_draws_have_a_generator() -> None:
    found = []
    for seed in (1, 1, 2):
        model = network()
        plugin = ER(model, ReplayBuffer(60), generator=torch.Generator().manual_seed(seed))
        plugin.on_task_end(tasks(1)[0])
        with_gradients(model)
        plugin.after_backward()
        found.append(gradients(model))
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


def test_more_may_be_asked_for_than_is_stored() -> None:
    """All there is comes, in whatever order."""
    finished = []
    for replay in (20, 1000):
        model = network()
        plugin = ER(model, ReplayBuffer(60), replay=replay)
        plugin.on_task_end(tasks(1)[0])
        with_gradients(model)
        plugin.after_backward()
        finished.append(gradients(model))
    close(*finished)


def test_a_rate_may_follow_a_schedule() -> None:
    """ER-MIR's trial step with a rate of 0 finds all samples equal."""
    chosen = []
    for lr in (LR, 0.0):
        model, plugin = taught("ERMIR")
        assert isinstance(plugin, ERMIR)
        plugin.lr = lr
        with_gradients(model)
        plugin.after_backward()
        chosen.append(gradients(model))
    assert not equal(*chosen)


@every_buffer
def test_one_buffer_may_serve_two_plugins(name: str) -> None:
    """A buffer of a learner, or of another plugin, with what it holds."""
    model, plugin = taught("ER")
    assert isinstance(plugin, ER)
    kinds: dict[str, Any] = {"ER": ER, "ERMIR": ERMIR, "AGEM": AGEM}
    more = {"lr": LR} if name == "ERMIR" else {}
    other = kinds[name](model, plugin.memory, **more)
    assert other.task == plugin.task
    before = with_gradients(model)
    other.after_backward()
    assert not equal(before, gradients(model))


def test_plugins_of_one_buffer_store_a_task_once() -> None:
    model, memory = network(), ReplayBuffer(500)
    plugins: list[Any] = [ER(model, memory), AGEM(model, memory)]
    for count, batches in enumerate(tasks(), start=1):
        for plugin in plugins:
            plugin.on_task_end(batches)
        assert len(memory) == count * sum(len(y) for _, y in batches)
        assert [plugin.task for plugin in plugins] == [count, count]


@pytest.mark.parametrize("streams", [False, True])
def test_a_buffer_need_not_have_kept_any_of_a_task(streams: bool) -> None:
    model, memory = network(), ReplayBuffer(2)
    plugins: list[Any] = [ER(model, memory), AGEM(model, memory)]
    first, second, *_ = tasks()
    for plugin in plugins:
        plugin.on_task_end(100 * first)
    seen = memory.seen
    x, y = second[2]
    if streams:
        plugins[0].store(x, y)
    for plugin in plugins:
        plugin.on_task_end(None if streams else [(x, y)])
    assert not (memory.rows["task"] == 1).any()
    assert memory.seen == seen + len(y)


def test_steps_that_were_not_taken_change_nothing() -> None:
    model, plugin = taught("AGEM")
    with_gradients(model)
    kept = everything(plugin, model)
    plugin.before_backward(torch.ones(()))
    plugin.after_step()
    assert_as_before(plugin, model, kept)
