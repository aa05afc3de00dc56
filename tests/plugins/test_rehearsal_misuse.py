"""What users do wrong with plugins that store samples: messages name class and argument and say
what to do, and everything is as before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rehearsal_cases import (
    PLUGINS,
    assert_as_before,
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
from clfast.plugins import AGEM, ER, ERMIR, GEM

KINDS: dict[str, Any] = {"ER": ER, "ERMIR": ERMIR, "AGEM": AGEM}


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        *((n, {"replay": 0}, ValueError, "replay must be at least 1, got 0") for n in KINDS),
        *((n, {"memory": 50}, TypeError, "memory must be a ReplayBuffer, got int") for n in KINDS),
        *((n, {"model": len}, TypeError, "model must be an nn.Module, got") for n in KINDS),
        (
            *("ER", {"model": nn.Linear(2, 2).requires_grad_(False)}, ValueError),
            "model must have a parameter that requires grad",
        ),
        ("ER", {"generator": 1}, TypeError, "generator must be a torch.Generator, got int"),
        ("AGEM", {"past_only": "no"}, TypeError, "past_only must be True or False, got str"),
        ("ERMIR", {"lr": -0.1}, ValueError, r"lr must be finite and in \[0, inf\), got -0.1"),
        ("ERMIR", {"lr": math.nan}, ValueError, "lr must be finite"),
        ("ERMIR", {"candidates": 0}, ValueError, "candidates must be at least 1, got 0"),
        ("GEM", {"per_task": 0}, ValueError, "per_task must be at least 1, got 0"),
        ("GEM", {"margin": -1.0}, ValueError, r"margin must be finite and in \[0, inf\), got -1"),
        ("GEM", {"model": len}, TypeError, "model must be an nn.Module, got"),
    ],
)
def test_constructors(
    name: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    kinds = {**KINDS, "GEM": GEM}
    given: dict[str, Any] = {"model": nn.Linear(2, 2)}
    given |= {"per_task": 5} if name == "GEM" else {"memory": ReplayBuffer(5)}
    given |= {"lr": 0.1} if name == "ERMIR" else {}
    with pytest.raises(error, match=f"^{name}: {message}"):
        kinds[name](**{**given, **changes})


@every_buffer
def test_buffers_of_other_keys(name: str) -> None:
    """When the plugin is made, and when a buffer has changed since."""
    memory = ReplayBuffer(5)
    memory.add(x=torch.zeros(2, 5), labels=torch.zeros(2))
    more = {"lr": 0.1} if name == "ERMIR" else {}
    wanted = "memory must be empty or hold x, y and task, got x, labels"
    with pytest.raises(ValueError, match=f"^{name}: {wanted}"):
        KINDS[name](network(), memory, **more)
    memory.clear()
    model = network()
    plugin = KINDS[name](model, memory, **more)
    memory.add(x=torch.zeros(2, 5), labels=torch.zeros(2))
    plugin.task = 1
    with_gradients(model)
    kept = everything(plugin, model)
    with pytest.raises(ValueError, match=f"^{name}: {wanted}"):
        plugin.after_backward()
    with pytest.raises(ValueError, match=r"ReplayBuffer.add: tensors must be x, labels as the row"):
        plugin.store(*tasks(1)[0][0])
    assert_as_before(plugin, model, kept)


@every_plugin
def test_calls_in_the_wrong_order(name: str) -> None:
    model, plugin = taught(name)
    model.zero_grad()
    kept = everything(plugin, model)
    message = "after_backward: no parameter of model has a gradient; call it after loss.backward"
    with pytest.raises(
        RuntimeError, match=rf"^{name}.{message}\(\), for the model that this {name}"
    ):
        plugin.after_backward()
    nothing = "on_task_end: nothing was stored during this task and loader is None; call store"
    with pytest.raises(TypeError, match=f"^{name}.{nothing}"):
        plugin.on_task_end()
    assert_as_before(plugin, model, kept)


@every_plugin
def test_another_model_is_trained(name: str) -> None:
    """As when a loop replaces the model under the plugin."""
    model, plugin = taught(name)
    model.zero_grad()
    other = network()
    with_gradients(other)
    with pytest.raises(RuntimeError, match=f"for the model that this {name} was made for"):
        plugin.after_backward()
    if name == "ER":
        x, y = tasks(3)[2][0]
        message = "^ER.before_backward: loss depends on no parameter of the model that this ER was"
        with pytest.raises(RuntimeError, match=message):
            plugin.before_backward(nn.CrossEntropyLoss()(other(x), y))


@every_plugin
def test_sparse_gradients(name: str) -> None:
    """ER adds to them as autograd does, and the others say what to do."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 5, sparse=True), nn.Flatten(), nn.Linear(15, 4)).double()
    plugin = PLUGINS[name](model)
    x, y = torch.arange(9).view(3, 3), torch.arange(3)
    plugin.on_task_end([(x, y)])
    nn.CrossEntropyLoss()(model(x[:2]), y[:2]).backward()
    kept, own = plugin.state_dict(), [g.to_dense() for g in gradients(model)]
    if name == "ER":
        plugin.after_backward()
        past = torch.autograd.grad(nn.CrossEntropyLoss()(model(x), y), [*model.parameters()])
        wanted = [g + p.to_dense() for g, p in zip(own, past, strict=True)]
        found = [g.to_dense() for g in gradients(model)]
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        return
    message = r"a parameter \[9, 5\] of model has a sparse gradient, .*sparse=False"
    with pytest.raises(RuntimeError, match=f"^{name}.after_backward: {message}"):
        plugin.after_backward()
    assert equal(plugin.state_dict(), kept)
    assert equal([g.to_dense() for g in gradients(model)], own)


@every_plugin
def test_arguments_of_a_step(name: str) -> None:
    model, plugin = taught(name)
    with_gradients(model)
    kept = everything(plugin, model)
    for scale, error in ((0.0, ValueError), (math.nan, ValueError), ("2", TypeError)):
        with pytest.raises(error, match=f"^{name}.after_backward: scale must be"):
            plugin.after_backward(scale=scale)
    assert_as_before(plugin, model, kept)


def test_losses() -> None:
    model, plugin = taught("ER")
    kept = everything(plugin, model)
    number: Any = 1.0
    with pytest.raises(TypeError, match=r"^ER.before_backward: loss must be a tensor, got float"):
        plugin.before_backward(number)
    with pytest.raises(
        ValueError, match=r"^ER.before_backward: loss must be one number, got shape"
    ):
        plugin.before_backward(torch.ones(3))
    assert_as_before(plugin, model, kept)


def _narrower(model: nn.Sequential) -> None:
    model[0] = nn.Linear(4, 6).double()


def _fewer_classes(model: nn.Sequential) -> None:
    model[3] = nn.Linear(6, 1).double()


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def _pairs(model: nn.Sequential) -> None:
    model.append(_Pair())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_narrower, r"model cannot take x, torch.float64 \[\d+, 5\]: "),
        (
            _fewer_classes,
            r"y holds \d, but model gives logits for \[0, 1\); the stored samples are",
        ),
        (_pairs, r"model must give logits \[\d+, C\], got tuple"),
    ],
)
@pytest.mark.parametrize("name", ["ER", "AGEM", "GEM"])
def test_models_that_cannot_take_what_is_stored(
    name: str, change: Callable[[nn.Module], None], message: str
) -> None:
    """Running statistics, which the pass has moved by then, included."""
    model, plugin = taught(name)
    change(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    kept = everything(plugin, model)
    with pytest.raises(ValueError, match=f"^{name}, of stored samples: {message}"):
        plugin.after_backward()
    assert_as_before(plugin, model, kept)
    if name == "ER":
        with pytest.raises(ValueError, match=f"^{name}, of stored samples: {message}"):
            plugin.before_backward(torch.ones((), requires_grad=True))
        assert_as_before(plugin, model, kept)


def test_trial_steps_that_fail() -> None:
    """Of ER-MIR, by the op that makes them."""
    model, plugin = taught("ERMIR")
    _fewer_classes(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    kept = everything(plugin, model)
    with pytest.raises(RuntimeError, match=r"mir_scores: y holds .*, outside"):
        plugin.after_backward()
    assert_as_before(plugin, model, kept)


@pytest.mark.parametrize("name", ["AGEM", "GEM"])
def test_past_samples_that_make_nan(name: str) -> None:
    model = network()
    plugin = PLUGINS[name](model)
    (batches,) = tasks(1)
    plugin.on_task_end([(x * math.inf, y) for x, y in batches])
    with_gradients(model)
    kept = everything(plugin, model)
    with pytest.raises(RuntimeError, match="NaN"):
        plugin.after_backward()
    assert_as_before(plugin, model, kept)


BAD_SAMPLES: list[tuple[Callable[[Tensor, Tensor], Any], type[Exception], str]] = [
    (lambda x, y: (x, y.double()), TypeError, "y must be int64, got torch.float64; convert it"),
    (lambda x, y: (x, y[1:]), ValueError, r"y must have one label a sample of x, got x \[8, 5\]"),
    (lambda x, y: (x, y[:, None]), ValueError, "y must have one label a sample of x"),
    (lambda x, y: (x.sum(), y[0]), ValueError, "y must have one label a sample of x"),
    (lambda x, y: (x.where(x < x.max(), math.nan), y), ValueError, "x holds NaN; leave such sampl"),
    (lambda x, y: (x, y - 6), ValueError, "y must be class labels >= 0, got -[1-6]; leave samples"),
]


@every_plugin
@pytest.mark.parametrize(("change", "error", "message"), BAD_SAMPLES)
def test_samples(
    name: str, change: Callable[[Tensor, Tensor], Any], error: type[Exception], message: str
) -> None:
    """Given to `store`; and after good ones, which are stored by then, by a loader."""
    model, plugin = taught(name)
    kept = everything(plugin, model)
    good = tasks(1)[0][0]
    with pytest.raises(error, match=f"^{name}.store: {message}"):
        plugin.store(*change(*good))
    with pytest.raises(error, match=f"^{name}.on_task_end: {message}"):
        plugin.on_task_end([good, good, change(*good)])
    assert_as_before(plugin, model, kept)


@every_plugin
def test_samples_that_differ_from_those_stored(name: str) -> None:
    model, plugin = taught(name)
    (x, y), text = tasks(1)[0][0], "text"
    plugin.store(x, y)
    kept = everything(plugin, model)
    no_tensor: Any = text
    with pytest.raises(
        ValueError, match=r"ReplayBuffer.add: x must have shape \[n, 5\], got \[8, 4"
    ):
        plugin.store(x[:, :4], y)
    with pytest.raises(TypeError, match=r"ReplayBuffer.add: x must be torch.float64 as the rows"):
        plugin.store(x.float(), y)
    with pytest.raises(TypeError, match=f"^{name}.store: x must be a torch.Tensor, got str"):
        plugin.store(no_tensor, y)
    assert_as_before(plugin, model, kept)


@every_plugin
def test_loaders(name: str) -> None:
    model, plugin = taught(name)
    kept = everything(plugin, model)
    x, y = tasks(1)[0][0]
    wanted = r"batches \(x, y\)"
    bad: list[tuple[Any, type[Exception], str]] = [
        (3, TypeError, f"loader must give {wanted}, got int; pass the samples of the task"),
        ([], ValueError, "loader gave no samples; pass the samples of the task that ended"),
        ([(x[:0], y[:0])], ValueError, "loader gave no samples"),
        ([(x, y), x], TypeError, f"loader must give {wanted} of tensors, got Tensor instead"),
        ([(x, y), (x,)], TypeError, rf"loader must give {wanted} of tensors, got \(Tensor\)"),
        ([(x, y), {"x": x}], TypeError, f"loader must give {wanted} of tensors, got dict"),
        ([(x, y), (x, "y", y)], TypeError, r"loader must .*, got \(Tensor, str, Tensor\) instead"),
    ]
    for loader, error, message in bad:
        with pytest.raises(error, match=f"^{name}.on_task_end: {message}"):
            plugin.on_task_end(loader)
        assert_as_before(plugin, model, kept)
    with pytest.raises(ValueError, match=r"ReplayBuffer.add: x must have shape"):
        plugin.on_task_end([(x, y), (x[:, 1:], y)])
    assert_as_before(plugin, model, kept)


def test_a_first_loader_that_fails_leaves_nothing() -> None:
    plugin = PLUGINS["ER"](network())
    x, y = tasks(1)[0][0]
    with pytest.raises(TypeError):
        plugin.on_task_end([(x, y), 3])
    assert len(plugin.memory) == 0
    plugin.on_task_end([(x.float(), y)])  # of another dtype
    assert plugin.memory.rows["x"].dtype == torch.float32


@every_plugin
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda _: 3, TypeError, "state_dict must be a mapping, got int"),
        (lambda s: {"task": 1}, ValueError, "state_dict must have the parts task, stored, "),
        (lambda s: {**s, "more": 1}, ValueError, "state_dict must have the parts"),
        (lambda s: {**s, "task": -1}, ValueError, "task must be at least 0, got -1"),
        (lambda s: {**s, "task": "two"}, TypeError, "task must be an integer, got str"),
        (lambda s: {**s, "stored": -2}, ValueError, "stored must be at least -1, got -2"),
    ],
)
def test_states(
    name: str, change: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    model, plugin = taught(name)
    kept = everything(plugin, model)
    with pytest.raises(error, match=f"^{name}.load_state_dict: {message}"):
        plugin.load_state_dict(change(plugin.state_dict()))
    assert_as_before(plugin, model, kept)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ER", {"memory": 3}, "ReplayBuffer.load_state_dict: .*nothing was loaded"),
        ("ER", {"memory": ReplayBuffer(3).state_dict()}, "saved by a memory of another kind"),
        ("ER", {"generator": 3}, "generator is no state of a CPU generator; nothing was loaded"),
        ("ER", {"generator": torch.zeros(3)}, "generator is no state of a CPU generator"),
        ("GEM", {"memories": 3}, "memories must be a mapping, got int; nothing was loaded"),
        ("GEM", {"memories": {"a": {}}}, "memories must be of tasks 0 to [0-9]+, got 'a'"),
        ("GEM", {"memories": {7: {}}}, "memories must be of tasks 0 to [0-9]+, got 7"),
        ("GEM", {"memories": {0: 3}}, "ReplayBuffer.load_state_dict: .*nothing was loaded"),
        (
            *("GEM", {"memories": {0: ReplayBuffer(6, policy="ring").state_dict()}}),
            "memory 0 must hold x and y, got ; nothing",
        ),
    ],
)
def test_states_of_stores(name: str, changes: dict[str, Any], message: str) -> None:
    model, plugin = taught(name)
    kept = everything(plugin, model)
    with pytest.raises(ValueError, match=f"^{name}.load_state_dict: {message}|{message}"):
        plugin.load_state_dict({**plugin.state_dict(), **changes})
    assert_as_before(plugin, model, kept)


def test_a_step_that_failed_may_be_taken_again() -> None:
    """Draws included: what follows is as if it had not been tried."""
    finished = []
    for fails in (True, False):
        model, plugin = taught("ER")
        if fails:
            head = model[3]
            _fewer_classes(model)
            model(tasks(1)[0][0][0]).sum().backward()
            with pytest.raises(ValueError, match=r"^ER, of stored samples"):
                plugin.after_backward()
            model[3] = head
            model[1].load_state_dict(taught("ER")[0][1].state_dict())
        model.zero_grad()
        train(plugin, model, tasks(3)[2])
        finished.append(model.state_dict())
    torch.testing.assert_close(*map(dict, finished), rtol=0, atol=0)
