"""Lightning's callbacks under a Trainer that calls the hooks they use in Lightning's order, whether
Lightning is there or not; and what they refuse."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning_cases import PLUGINS, Batch, network, parameters, plain_loop, tasks, tasks_ended
from torch import nn
from torch.utils.data import DataLoader

from clfast.integrations import lightning as adapter
from clfast.plugins import EWC, LwF, QuadraticPlugin


def loss_of(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(module(x), y)


class Callback:
    """Lightning's base class does nothing in any hook."""

    @property
    def state_key(self) -> str:
        return type(self).__qualname__


@pytest.fixture
def callbacks(monkeypatch: pytest.MonkeyPatch) -> Any:
    package: Any = ModuleType("lightning.pytorch")
    package.Callback = Callback
    monkeypatch.setitem(sys.modules, "lightning.pytorch", package)
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    forget(monkeypatch)
    return adapter


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PluginCallback", "ProtectCallback"):
        monkeypatch.setitem(vars(adapter), name, None)  # what was there comes back
        del vars(adapter)[name]


class Trainer:
    """One epoch of cross-entropy."""

    def __init__(self, *callbacks: Any, optimizers: Sequence[torch.optim.Optimizer] = ()) -> None:
        self.callbacks = callbacks
        self.precision_plugin = SimpleNamespace(convert_input=lambda batch: batch)
        self.optimizers = list(optimizers)
        self.num_training_batches: float = float("inf")
        self.ckpt_path: str | None = None

    def fit(self, module: nn.Module, batches: list[Batch]) -> None:
        if not self.optimizers:
            self.optimizers = [torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)]
        self.strategy = SimpleNamespace(
            model=module, batch_to_device=lambda batch, dataloader_idx: batch
        )
        vars(module)["_on_before_batch_transfer"] = lambda batch, dataloader_idx: batch
        self.train_dataloader: Any = batches
        try:
            self.call("on_fit_start", module)
            if batches:
                self.call("on_train_start", module)
                for x, y in batches:
                    self.step(module, partial(loss_of, module, x, y))
                self.call("on_train_end", module)
            self.call("on_fit_end", module)
        except BaseException as error:
            self.call("on_exception", module, error)
            raise

    def step(self, module: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
        def closure() -> float:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            self.call("on_before_optimizer_step", module, optimizer)
            return value.item()

        optimizer = self.optimizers[0]
        optimizer.step(closure)

    def call(self, hook: str, module: nn.Module, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook, lambda *_: None)(self, module, *args)


@pytest.mark.parametrize("name", PLUGINS)
def test_plugins(callbacks: Any, name: str) -> None:
    model, plain = network(), network()
    callback = callbacks.PluginCallback(PLUGINS[name])
    assert callback.plugins == ()
    for batches in tasks():
        Trainer(callback).fit(model, batches)
    plain_loop(plain, [PLUGINS[name](plain)])
    assert tasks_ended(callback.plugins[0]) == 2
    torch.testing.assert_close(parameters(model), parameters(plain), rtol=0, atol=0)


def test_a_step_without_gradients_is_left_out(callbacks: Any) -> None:
    """As of a training step that returns None."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    callback = callbacks.PluginCallback(PLUGINS["SI"], PLUGINS["ER"])
    trainer = Trainer(callback, optimizers=[optimizer])
    trainer.fit(model, tasks()[0])
    si, er = callback.state_dict()["plugins"]
    optimizer.zero_grad()
    trainer.call("on_train_start", model)
    trainer.call("on_before_optimizer_step", model, optimizer)
    optimizer.step()
    assert all(p.grad is None for p in model.parameters())
    si_now, er_now = callback.state_dict()["plugins"]
    torch.testing.assert_close(si_now, si, rtol=0, atol=0)
    assert torch.equal(er_now["generator"], er["generator"])


def test_what_must_be_in_the_loss_says_so(callbacks: Any) -> None:
    model, callback = network(), callbacks.PluginCallback(LwF)
    Trainer(callback).fit(model, tasks()[0])
    with pytest.raises(RuntimeError, match=r"call loss = plugin.before_backward\(loss\) before"):
        Trainer(callback).fit(model, tasks()[1])


def test_several_plugins_in_their_order(callbacks: Any) -> None:
    model, plain = network(), network()
    callback = callbacks.PluginCallback(PLUGINS["SI"], PLUGINS["MAS"])
    for batches in tasks():
        Trainer(callback).fit(model, batches)
    plain_loop(plain, [PLUGINS["SI"](plain), PLUGINS["MAS"](plain)])
    torch.testing.assert_close(parameters(model), parameters(plain), rtol=0, atol=0)


def test_ends_of_tasks_by_hand(callbacks: Any) -> None:
    model = network()
    callback = callbacks.PluginCallback(PLUGINS["EWC"], end_task=False)
    Trainer(callback).fit(model, tasks()[0])
    Trainer(callback).fit(model, tasks()[0])
    (ewc,) = callback.plugins
    assert ewc.tasks == 0
    ewc.on_task_end(tasks()[0])
    assert ewc.tasks == 1


def test_a_state_goes_on(callbacks: Any) -> None:
    """Also when it is loaded before the first fit, as Lightning does."""
    first, second = tasks()
    model, callback = network(), callbacks.PluginCallback(PLUGINS["SI"])
    assert callback.state_dict() == {}
    Trainer(callback).fit(model, first)
    state, weights = callback.state_dict(), parameters(model)
    Trainer(callback).fit(model, second)
    again, restored = network(), callbacks.PluginCallback(PLUGINS["SI"])
    again.load_state_dict(weights)
    restored.load_state_dict(state)
    Trainer(restored).fit(again, second)
    torch.testing.assert_close(parameters(again), parameters(model), rtol=0, atol=0)
    restored.load_state_dict(state)
    torch.testing.assert_close(restored.state_dict(), state)


def test_states_of_other_plugins_are_refused(callbacks: Any) -> None:
    two = callbacks.PluginCallback(PLUGINS["SI"], PLUGINS["EWC"])
    one = callbacks.PluginCallback(PLUGINS["SI"])
    for callback in (one, two):
        Trainer(callback).fit(network(), tasks()[0])
    with pytest.raises(ValueError, match="the checkpoint is of 2 plugins, but this callback has 1"):
        one.load_state_dict(two.state_dict())
    before = two.state_dict()
    other = {"plugins": [two.state_dict()["plugins"][0], one.state_dict()["plugins"][0]]}
    with pytest.raises(ValueError, match="nothing was loaded"):
        two.load_state_dict(other)
    torch.testing.assert_close(two.state_dict(), before)


def test_masks(callbacks: Any) -> None:
    model = network()
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[::2] = True
    before = parameters(model)["0.weight"]
    masked = callbacks.ProtectCallback(lambda module: {module[0].weight: mask})
    Trainer(masked).fit(model, tasks()[0])
    assert torch.equal(model[0].weight[mask], before[mask])
    assert not torch.equal(model[0].weight[~mask], before[~mask])
    Trainer().fit(model, tasks()[0])
    assert not torch.equal(model[0].weight[mask], before[mask])


def test_masks_with_several_optimizers(callbacks: Any) -> None:
    model = network()
    masks = {p: torch.ones(p.shape, dtype=torch.bool) for p in (model[0].bias, model[2].bias)}
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.05) for i in (0, 2)]
    callback = callbacks.ProtectCallback(lambda _: masks)
    trainer = Trainer(callback, optimizers=optimizers)
    before = parameters(model)
    trainer.call("on_train_start", model)
    F.cross_entropy(model(tasks()[0][0][0]), tasks()[0][0][1]).backward()
    for optimizer in optimizers:
        optimizer.step()
    trainer.call("on_train_end", model)
    assert torch.equal(model[0].bias, before["0.bias"])
    assert torch.equal(model[2].bias, before["2.bias"])
    assert not torch.equal(model[2].weight, before["2.weight"])


def test_a_fit_that_fails_leaves_no_hook(callbacks: Any) -> None:
    model = network()
    mask = torch.ones(6, dtype=torch.bool)
    made = [
        callbacks.PluginCallback(PLUGINS["SI"]),
        callbacks.ProtectCallback(lambda module: {module[0].bias: mask}),
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        Trainer(*made, optimizers=[optimizer]).fit(model, [(torch.zeros(2, 3), torch.zeros(2))])
    assert not optimizer._optimizer_step_post_hooks
    before = parameters(model)
    Trainer(optimizers=[optimizer]).fit(model, tasks()[0])
    assert not torch.equal(model[0].bias, before["0.bias"])


def test_another_module_is_refused(callbacks: Any) -> None:
    callback = callbacks.PluginCallback(PLUGINS["EWC"])
    Trainer(callback).fit(network(), tasks()[0])
    other = network()
    with pytest.raises(RuntimeError, match="belongs to the module of its first fit; make a new"):
        Trainer(callback).fit(other, tasks()[0])
    torch.testing.assert_close(parameters(other), parameters(network()))


def test_a_parameter_list_that_changed_is_refused(callbacks: Any) -> None:
    model = network()
    callback = callbacks.PluginCallback(PLUGINS["EWC"])
    Trainer(callback).fit(model, tasks()[0])
    model[2] = nn.Linear(6, 3)
    with pytest.raises(RuntimeError, match=r"2.weight has shape \[4, 6\], but the parameter of"):
        Trainer(callback).fit(model, [(x, y % 3) for x, y in tasks()[1]])
    del model[2]
    with pytest.raises(RuntimeError, match=r"model has no parameter 2.weight any more"):
        Trainer(callback).fit(model, [(x, y % 3) for x, y in tasks()[1]])


def test_several_optimizers_are_refused(callbacks: Any) -> None:
    model = network()
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.05) for i in (0, 2)]
    with pytest.raises(RuntimeError, match="must have one optimizer, got 2; call the plugins in"):
        Trainer(callbacks.PluginCallback(PLUGINS["EWC"]), optimizers=optimizers).fit(
            model, tasks()[0]
        )
    torch.testing.assert_close(parameters(model), parameters(network()))


def test_loaders_of_odd_batches(callbacks: Any) -> None:
    model = network()
    callback = callbacks.PluginCallback(PLUGINS["EWC"])
    trainer = Trainer(callback)
    trainer.fit(model, tasks()[0])
    for batches in ([torch.zeros(2, 5)], [(torch.zeros(2, 5),)]):
        trainer.train_dataloader = batches
        with pytest.raises(TypeError, match=r"EWC.on_task_end: loader must give batches \(x, y\)"):
            callback.on_train_end(trainer, model)
    assert callback.plugins[0].tasks == 1


@pytest.mark.parametrize("kind", [dict, list])
def test_several_loaders_are_refused(callbacks: Any, kind: type) -> None:
    samples: Any = tasks()[0]
    loaders: list[Any] = [DataLoader(samples, batch_size=None) for _ in range(2)]
    batches: Any = loaders if kind is list else {"a": loaders[0]}
    model = network()
    with pytest.raises(TypeError, match=r"several training loaders.* use end_task=False, and call"):
        Trainer(callbacks.PluginCallback(PLUGINS["EWC"])).fit(model, batches)
    torch.testing.assert_close(parameters(model), parameters(network()))
    trainer = Trainer(callbacks.PluginCallback(PLUGINS["EWC"], end_task=False))
    trainer.optimizers = [torch.optim.SGD(model.parameters(), lr=0.05)]
    trainer.train_dataloader = batches
    trainer.call("on_train_start", model)


def test_a_fit_that_trained_nothing(callbacks: Any) -> None:
    """From a checkpoint it would lose the task that had come to its end; else nothing was asked."""
    model, callback = network(), callbacks.PluginCallback(PLUGINS["EWC"])
    trainer = Trainer(callback)
    trainer.fit(model, [])
    trainer.ckpt_path = "last.ckpt"
    trainer.fit(model, tasks()[0])
    with pytest.raises(RuntimeError, match=r"nothing was trained and no task .* on_task_end"):
        trainer.fit(model, [])
    assert callback.plugins[0].tasks == 1
    trainer = Trainer(callbacks.PluginCallback(PLUGINS["EWC"], end_task=False))
    trainer.ckpt_path = "last.ckpt"
    trainer.fit(model, [])


def test_a_state_that_waits_is_saved_again(callbacks: Any) -> None:
    callback, other = (callbacks.PluginCallback(PLUGINS["EWC"]) for _ in range(2))
    Trainer(callback).fit(network(), tasks()[0])
    other.load_state_dict({})
    assert other.state_dict() == {}
    other.load_state_dict(callback.state_dict())
    torch.testing.assert_close(other.state_dict(), callback.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"must be that of a PluginCallback, .* got \(epoch\)"):
        other.load_state_dict({"epoch": 3})
    with pytest.raises(ValueError, match=r"must be that of a PluginCallback, .* got \(\)"):
        callback.load_state_dict({})
    assert callback.plugins[0].tasks == 1


def test_masks_of_other_parameters_are_refused(callbacks: Any) -> None:
    model, elsewhere = network(), nn.Parameter(torch.zeros(3))
    mask = torch.ones(6, dtype=torch.bool)
    masks = {model[0].bias: mask, model[2].bias: mask[:4], elsewhere: mask[:3]}
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.05)
    callback = callbacks.ProtectCallback(lambda _: masks)
    message = "no optimizer of the module has 2.bias, a tensor of another module; leave it out"
    with pytest.raises(ValueError, match=message):
        Trainer(callback, optimizers=[optimizer]).fit(model, tasks()[0])
    with pytest.raises(ValueError, match="protect"):
        Trainer(callbacks.ProtectCallback(lambda _: {model[0].bias: mask[:5]})).fit(
            model, tasks()[0]
        )
    torch.testing.assert_close(parameters(model), parameters(network()))


def test_what_is_no_function_is_refused(callbacks: Any) -> None:
    model = network()
    with pytest.raises(ValueError, match="give at least one function that makes a plugin"):
        callbacks.PluginCallback()
    with pytest.raises(TypeError, match=r"must be functions that make a plugin .* got EWC"):
        callbacks.PluginCallback(EWC(model, strength=1.0))
    with pytest.raises(TypeError, match=r"must return plugins of clfast.plugins, got Sequential"):
        Trainer(callbacks.PluginCallback(lambda module: module)).fit(model, tasks()[0])
    with pytest.raises(TypeError, match=r"reserved must be a function of the module .* got dict"):
        callbacks.ProtectCallback({})


def test_callbacks_are_lightning_s(callbacks: Any) -> None:
    kind = callbacks.PluginCallback
    assert issubclass(kind, Callback)
    assert kind is callbacks.PluginCallback
    assert (kind.__module__, kind.__qualname__) == (adapter.__name__, "PluginCallback")
    assert "make_plugins" in kind.__doc__
    assert issubclass(callbacks.ProtectCallback, Callback)
    with pytest.raises(AttributeError, match="has no attribute 'Callback'"):
        callbacks.Callback  # noqa: B018
    assert isinstance(EWC(network(), strength=1.0), QuadraticPlugin)


def test_the_package_that_is_imported_is_taken(
    callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    older: Any = ModuleType("pytorch_lightning")
    older.Callback = type("Older", (Callback,), {})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", older)
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    assert issubclass(callbacks.PluginCallback, older.Callback)


def test_no_lightning_here(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)
    for package in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"PluginCallback: .* pip install lightning"):
        adapter.PluginCallback  # noqa: B018
