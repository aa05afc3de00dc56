"""Penalty plugins in loops as people have them: scaled losses, several backward passes, frozen and
growing parameters, states, copies, compiled models."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import rehearsal_cases
import torch
import torch.nn.functional as F
from penalty_cases import PLUGINS, every_plugin, float64, network, parameters, pulled, tasks, train
from torch import Tensor, nn

from clfast import plugins
from clfast.plugins import EWC, SI, LwF, OnlineEWC, RWalk


@every_plugin
@pytest.mark.parametrize("scaled", ["in the loss", "unscaled", "scaled"])
def test_scaled_losses(name: str, scaled: str) -> None:
    """The three orders of calls around a GradScaler's scale."""
    model, plain = network(), network()
    plugin, other = PLUGINS[name](model), PLUGINS[name](plain)
    for batches in tasks(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for x, y in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            if scaled == "in the loss":
                loss = plugin.before_backward(loss)
            (loss * 1024).backward()
            if scaled == "scaled" or scaled == "in the loss":
                plugin.after_backward(scale=1024)
            for p in model.parameters():
                assert p.grad is not None
                p.grad /= 1024
            if scaled == "unscaled":
                plugin.after_backward()
            optimizer.step()
            plugin.after_step()
        train(other, plain, batches, 0.05)
        plugin.on_task_end(batches)
        other.on_task_end(batches)
        torch.testing.assert_close(parameters(model), parameters(plain), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(pulled(plugin, model), pulled(other, plain))


@every_plugin
def test_a_step_that_grad_scaler_skips_changes_nothing(name: str) -> None:
    model = network().float()
    plugin = PLUGINS[name](model)
    (batches,) = tasks(1)
    batches = [(x.float(), y) for x, y in batches]
    train(plugin, model, batches, 0.05)
    kept = plugin.state_dict()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = parameters(model)
    x, y = batches[0]
    scaler.scale(F.cross_entropy(model(x), y) * 1e38).backward()
    scaler.unscale_(optimizer)
    plugin.after_backward()
    scaler.step(optimizer)
    plugin.after_step()
    scaler.update()
    assert all(torch.equal(p, before[n]) for n, p in parameters(model).items())
    assert plugin.state_dict().keys() == kept.keys()
    torch.testing.assert_close(plugin.state_dict(), kept, rtol=0, atol=0)


@every_plugin
def test_accumulated_gradients(name: str) -> None:
    """Two halves of a batch before one call and one step."""
    model, plain = network(), network()
    plugin, other = PLUGINS[name](model), PLUGINS[name](plain)
    for batches in tasks(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for x, y in batches:
            optimizer.zero_grad()
            for half in (slice(0, 2), slice(2, None)):
                loss = F.cross_entropy(model(x[half]), y[half], reduction="sum") / len(x)
                loss.backward()
            plugin.after_backward()
            optimizer.step()
            plugin.after_step()
        train(other, plain, batches, 0.05)
        plugin.on_task_end(batches)
        other.on_task_end(batches)
    torch.testing.assert_close(parameters(model), parameters(plain), rtol=1e-9, atol=1e-12)


@every_plugin
def test_parameter_groups_and_frozen_parameters(name: str) -> None:
    """What is frozen keeps its values and has no gradient, and what thaws is new."""
    model = network()
    assert isinstance(model, nn.Sequential)
    model[0].bias.requires_grad_(False)
    plugin = PLUGINS[name](model)
    for batches in tasks(2):
        groups = [{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(model.parameters())]
        optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0.1)
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            plugin.after_backward()
            optimizer.step()
            plugin.after_step()
        plugin.on_task_end(batches)
        assert model[0].bias.grad is None
    assert "0.bias" not in plugin.state_dict()["importances"]
    model[0].bias.requires_grad_(True)
    model[2].weight.requires_grad_(False)
    train(plugin, model, tasks(1)[0], 0.05)
    assert not plugin.state_dict()["importances"]["0.bias"].any()
    assert plugin.state_dict()["importances"]["2.weight"].any()
    plugin.on_task_end(tasks(1)[0])
    assert plugin.state_dict()["importances"]["0.bias"].any()


def test_a_parameter_that_took_no_part_is_pulled_as_autograd_would() -> None:
    model = network()
    plugin = EWC(model, strength=4.0)
    (batches,) = tasks(1)
    plugin.on_task_end(batches)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.5
    assert isinstance(model, nn.Sequential)
    (model[0].weight ** 2).sum().backward()
    plugin.after_backward()
    wanted = torch.autograd.grad(plugin.penalty(), list(model.parameters()))
    for p, w in zip(list(model.parameters())[1:], wanted[1:], strict=True):
        torch.testing.assert_close(p.grad, w)


def grow(model: nn.Module, outputs: int) -> None:
    """A head of more outputs in place of the one there was."""
    assert isinstance(model, nn.Sequential)
    old = model[2]
    model[2] = nn.Linear(6, outputs).to(float64)
    with torch.no_grad():
        model[2].weight[: len(old.weight)] = old.weight
        model[2].bias[: len(old.bias)] = old.bias


@every_plugin
def test_heads_that_grow(name: str) -> None:
    """New rows are not pulled until they have been learnt; old rows are pulled as before."""
    model = network()
    plugin = PLUGINS[name](model)
    first, second = tasks(2)
    train(plugin, model, first, 0.05)
    plugin.on_task_end(first)
    before = pulled(plugin, model)
    kept = plugin.state_dict()
    grow(model, 7)
    assert isinstance(model, nn.Sequential)
    after = pulled(plugin, model)
    torch.testing.assert_close(after["2.weight"][:4], before["2.weight"])
    assert not after["2.weight"][4:].any()
    assert not after["2.bias"][4:].any()
    torch.testing.assert_close(after["0.weight"], before["0.weight"])
    train(plugin, model, [(x, y + 3) for x, y in second], 0.05)
    plugin.on_task_end([(x, y + 3) for x, y in second])
    assert pulled(plugin, model)["2.weight"][4:].any()
    # A state of before it grew is taken over as if it had grown since.
    other = PLUGINS[name](model)
    other.load_state_dict(kept)
    now = other.state_dict()
    assert torch.equal(now["importances"]["2.bias"][:4], kept["importances"]["2.bias"])
    assert torch.equal(now["anchors"]["2.bias"][4:], model[2].bias.detach()[4:])


@every_plugin
def test_new_modules_are_free_at_first(name: str) -> None:
    model = network()
    plugin = PLUGINS[name](model)
    first, second = tasks(2)
    train(plugin, model, first, 0.05)
    plugin.on_task_end(first)
    model.append(nn.Linear(4, 4).to(float64))
    assert not pulled(plugin, model)["3.weight"].any()
    train(plugin, model, second, 0.05)
    plugin.on_task_end(second)
    assert pulled(plugin, model)["3.weight"].any()


def _grown_in_place(model: nn.Module) -> None:
    assert isinstance(model, nn.Sequential)
    for p in model[2].parameters():
        p.data = torch.cat([p.data, torch.ones_like(p.data[:2])])


def _in_other_values(model: nn.Module) -> None:
    """The same objects, wherever the plugin has pointed to."""
    for p in model.parameters():
        p.data = p.data.clone()


def _other_objects(model: nn.Module) -> None:
    assert isinstance(model, nn.Sequential)
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())


def _swapped(model: nn.Module) -> None:
    """Modules keep their parameters and have other names."""
    assert isinstance(model, nn.Sequential)
    model[0], model[2] = model[2], model[0]


@every_plugin
@pytest.mark.parametrize(
    "change", [_grown_in_place, _in_other_values, _other_objects, _swapped, nn.Module.float]
)
def test_a_plugin_sees_what_one_that_is_made_anew_sees(name: str, change: Any) -> None:
    """Whatever it has held from step to step."""
    first, _ = tasks(2)
    found = []
    for anew in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).to(float64)
        plugin: Any = PLUGINS[name](model)
        train(plugin, model, first, 0.05)
        plugin.on_task_end(first)
        for step in range(3):
            if step == 1:
                change(model)
            if anew:
                state, plugin = plugin.state_dict(), PLUGINS[name](model)
                plugin.load_state_dict(state)
            for i, p in enumerate(model.parameters()):
                p.grad = torch.full_like(p, 0.1 * i + step)
            plugin.after_backward()
            with torch.no_grad():
                for p in model.parameters():
                    assert p.grad is not None
                    p -= 0.01 * p.grad
            plugin.after_step()
        found.append((parameters(model), plugin.state_dict()))
    torch.testing.assert_close(*found, rtol=0, atol=0)


@every_plugin
def test_steps_in_inference_mode(name: str) -> None:
    """What a plugin makes there can be trained with later."""
    model = network()
    plugin: Any = PLUGINS[name](model)
    (batches,) = tasks(1)
    train(plugin, model, batches, 0.05)
    plugin.on_task_end(batches)
    assert isinstance(model, nn.Sequential)
    model.zero_grad()
    (model[0].weight ** 2).sum().backward()
    model.append(nn.Linear(4, 4).to(float64))
    with torch.inference_mode():
        plugin.after_backward()
        plugin.after_step()
    train(plugin, model, batches, 0.05)
    plugin.on_task_end(batches)
    assert not any(t.is_inference() for t in plugin.state_dict()["importances"].values())
    assert not any(p.grad is None or p.grad.is_inference() for p in model.parameters())


@every_plugin
def test_a_state_continues_bit_for_bit(name: str, tmp_path: Any) -> None:
    """In the middle of a task."""
    model = network()
    plugin = PLUGINS[name](model)
    first, second = tasks(2)
    train(plugin, model, first, 0.05)
    plugin.on_task_end(first)
    train(plugin, model, second[:1], 0.05)
    torch.save((model.state_dict(), plugin.state_dict()), tmp_path / "state")
    states = torch.load(tmp_path / "state", weights_only=True)
    again = network()
    again.load_state_dict(states[0])
    other = PLUGINS[name](again)
    other.load_state_dict(states[1])
    for one, net in ((plugin, model), (other, again)):
        train(one, net, second[1:], 0.05)
        one.on_task_end(second)
    assert all(torch.equal(p, parameters(again)[n]) for n, p in parameters(model).items())
    torch.testing.assert_close(plugin.state_dict(), other.state_dict(), rtol=0, atol=0)


@every_plugin
def test_copies_are_of_the_model_too(name: str) -> None:
    model = network()
    plugin = PLUGINS[name](model)
    (batches,) = tasks(1)
    train(plugin, model, batches, 0.05)
    plugin.on_task_end(batches)
    net, other = copy.deepcopy((model, plugin))
    kept = parameters(model)
    train(other, net, batches, 0.05)
    assert all(torch.equal(p, kept[n]) for n, p in parameters(model).items())
    assert any(not torch.equal(p, kept[n]) for n, p in parameters(net).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_plugin
def test_networks_of_several_precisions(name: str, dtype: torch.dtype) -> None:
    """Importances of parameters in 16 bits are float32; float64 beside them is a group of its
    own."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Linear(5, 6).double(), nn.Linear(6, 4).to(dtype)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.narrow(self.wide(x).tanh().to(dtype))
            return out.float()

    torch.manual_seed(0)
    model = Mixed()
    plugin = PLUGINS[name](model)
    for batches in tasks(2):
        train(plugin, model, batches, 0.05)
        plugin.on_task_end(batches)
    state = plugin.state_dict()
    assert state["importances"]["wide.weight"].dtype == float64
    assert state["importances"]["narrow.weight"].dtype == torch.float32
    assert all(p.isfinite().all() for p in model.parameters())


# Dynamo's own, of torch 2.13.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", ["EWC", "SI", "MAS"])
def test_compiled_models(name: str) -> None:
    model, plain = network(), network()
    compiled = torch.compile(model, backend="aot_eager")
    plugin, other = PLUGINS[name](compiled), PLUGINS[name](plain)
    for batches in tasks(2):
        train(plugin, compiled, batches, 0.05)
        train(other, plain, batches, 0.05)
        plugin.on_task_end(batches)
        other.on_task_end(batches)
    torch.testing.assert_close(parameters(model), parameters(plain))
    torch.testing.assert_close(plugin.state_dict(), other.state_dict())
    torch.compiler.reset()


def test_labels_that_are_drawn_have_a_generator() -> None:
    (batches,) = tasks(1)
    states = []
    for seed in (1, 1, 2):
        plugin = EWC(
            network(), strength=1.0, targets="sample", generator=torch.Generator().manual_seed(seed)
        )
        plugin.on_task_end([x for x, _ in batches])  # no labels are needed
        states.append(plugin.state_dict()["importances"]["2.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("kind", [EWC, OnlineEWC, RWalk])
def test_draws_go_on_with_the_state(kind: Any) -> None:
    """Bit for bit, with a generator that was seeded as at the start."""
    first, second = tasks(2)

    def made() -> Any:
        generator = torch.Generator().manual_seed(1)
        return kind(network(), strength=1.0, targets="sample", generator=generator)

    plugin, other = made(), made()
    plugin.on_task_end(first)
    state = plugin.state_dict()
    other.load_state_dict(state)
    for one in (plugin, other):
        one.on_task_end(second)
    torch.testing.assert_close(plugin.state_dict(), other.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="generator is no state of a CPU generator; nothing was"):
        other.load_state_dict({**state, "generator": 3})


def test_batches_of_three_parts() -> None:
    (batches,) = tasks(1)
    found = []
    for loader in (batches, [(x, y, torch.zeros(len(x)), "more") for x, y in batches]):
        plugin = EWC(network(), strength=1.0)
        plugin.on_task_end(loader)
        found.append(plugin.state_dict()["importances"])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


ALL: dict[str, Any] = {
    **PLUGINS,
    **rehearsal_cases.PLUGINS,
    "LwF": lambda model: LwF(model),
}


@pytest.mark.parametrize("name", ALL)
def test_a_loop_may_make_all_calls_of_every_plugin(name: str) -> None:
    """The second task is learnt otherwise than without the plugin, and the first is not."""
    model, plain = network(), network()
    plugin: Any = ALL[name](model)
    for task, batches in enumerate(tasks(2)):
        optimizers = [torch.optim.SGD(net.parameters(), lr=0.05) for net in (model, plain)]
        for x, y in batches:
            for net, optimizer in zip((model, plain), optimizers, strict=True):
                optimizer.zero_grad()
                loss = F.cross_entropy(net(x), y)
                (plugin.before_backward(loss) if net is model else loss).backward()
                if net is model:
                    plugin.after_backward()
                optimizer.step()
            plugin.after_step()
        plugin.on_task_end(batches)
        same = [torch.equal(p, parameters(plain)[n]) for n, p in parameters(model).items()]
        assert all(same) == (task == 0)


def test_every_plugin_is_in_such_a_loop() -> None:
    made = {type(make(network())).__name__ for make in ALL.values()}
    bases = {"BufferPlugin", "Plugin", "QuadraticPlugin", "RehearsalPlugin"}
    assert made == set(plugins.__all__) - bases


def test_the_second_of_two_path_plugins_takes_the_pull_of_the_first_for_the_tasks() -> None:
    """`gradient="task"` leaves out the plugin's own pull alone."""
    model = network()
    first, second = SI(model, strength=2.0), SI(model, strength=3.0)
    for batches in tasks(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        wanted = torch.zeros_like(model.get_parameter("0.weight"))
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            first.after_backward()
            weight = model.get_parameter("0.weight")
            assert weight.grad is not None
            seen, before = weight.grad.clone(), weight.detach().clone()
            second.after_backward()
            optimizer.step()
            first.after_step()
            second.after_step()
            wanted -= seen * (weight.detach() - before)
        torch.testing.assert_close(second.state_dict()["omegas"]["0.weight"], wanted)
        assert first.tasks == 0 or bool((first.state_dict()["omegas"]["0.weight"] != wanted).any())
        first.on_task_end()
        second.on_task_end()
