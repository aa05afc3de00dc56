"""What users do wrong with penalty plugins: messages name class and argument and say what to do,
and everything is as before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from penalty_cases import PLUGINS, every_plugin, network, parameters, tasks, train
from torch import Tensor, nn

from clfast.plugins import EWC, MAS, SI, OnlineEWC, QuadraticPlugin, RWalk


def kind_of(name: str) -> str:
    return name.split()[-1]


def trained(name: str) -> tuple[nn.Module, QuadraticPlugin]:
    """One task has ended, and half of another."""
    model = network()
    plugin = PLUGINS[name](model)
    first, second = tasks(2)
    train(plugin, model, first, 0.05)
    plugin.on_task_end(first)
    train(plugin, model, second, 0.05)
    return model, plugin


def state_of(plugin: QuadraticPlugin) -> dict[str, Any]:
    return {"tasks": plugin.tasks, **plugin._tables.state()}


def assert_as_before(plugin: QuadraticPlugin, kept: dict[str, Any]) -> None:
    torch.testing.assert_close(state_of(plugin), kept, rtol=0, atol=0, equal_nan=True)


CONSTRUCTORS: list[tuple[Callable[..., Any], dict[str, Any], type[Exception], str]] = [
    *(
        (kind, {"model": len, "strength": 1.0}, TypeError, "model must be an nn.Module, got")
        for kind in (EWC, OnlineEWC, SI, MAS, RWalk)
    ),
    *(
        (kind, {"strength": bad}, ValueError, r"strength must be finite and in \[0, inf\), got")
        for kind in (EWC, OnlineEWC, SI, MAS, RWalk)
        for bad in (-1.0, math.nan, math.inf)
    ),
    (EWC, {"strength": "much"}, TypeError, "strength must be a number, got str"),
    (EWC, {"targets": "true"}, ValueError, "targets must be one of labels, sample, exact, got"),
    *(
        (kind, {"generator": torch.Generator(), "targets": targets}, ValueError, "generator draws")
        for kind in (EWC, OnlineEWC, RWalk)
        for targets in ("labels", "exact")
    ),
    (EWC, {"generator": 1}, TypeError, "generator must be a torch.Generator, got int"),
    (OnlineEWC, {"gamma": 1.5}, ValueError, r"gamma must be finite and in \[0, 1\], got 1.5"),
    (SI, {"damping": 0.0}, ValueError, r"damping must be finite and in \(0, inf\), got 0"),
    (SI, {"gradient": "loss"}, ValueError, "gradient must be one of task, total, got 'loss'"),
    (RWalk, {"decay": -0.1}, ValueError, r"decay must be finite and in \[0, 1\], got -0.1"),
    (RWalk, {"damping": -1.0}, ValueError, "damping must be finite and in"),
    (EWC, {"model": nn.LazyLinear(3)}, TypeError, "parameter weight of model has no size yet"),
    (
        *(MAS, {"model": nn.Linear(2, 2).requires_grad_(False)}, ValueError),
        "model must have a parameter that requires grad",
    ),
]


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize(("kind", "changes", "error", "message"), CONSTRUCTORS)
def test_constructors(
    kind: Callable[..., Any], changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    assert isinstance(kind, type)
    with pytest.raises(error, match=f"^{kind.__name__}: {message}"):
        kind(**{"model": nn.Linear(2, 2), "strength": 1.0, **changes})


def _gone(model: nn.Module) -> None:
    assert isinstance(model, nn.Sequential)
    del model[2]


def _renamed(model: nn.Module) -> None:
    assert isinstance(model, nn.Sequential)
    model[2] = nn.Sequential(model[2])


def _smaller(model: nn.Module) -> None:
    assert isinstance(model, nn.Sequential)
    model[2] = nn.Linear(6, 3).double()


def _wider(model: nn.Module) -> None:
    assert isinstance(model, nn.Sequential)
    model[0], model[2] = nn.Linear(5, 9).double(), nn.Linear(9, 4).double()


@every_plugin
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_gone, "model has no parameter 2.weight any more, .*make a new plugin for another model"),
        (_renamed, "model has no parameter 2.weight any more"),
        (_smaller, r"2.weight has shape \[4, 6\], but the parameter of model has \[3, 6\]; only"),
        (_wider, r"2.weight has shape \[4, 6\], but the parameter of model has \[4, 9\]; only"),
    ],
)
def test_parameters_that_are_others(
    name: str, change: Callable[[nn.Module], None], message: str
) -> None:
    """Since the anchors were taken."""
    model, plugin = trained(name)
    kept = state_of(plugin)
    change(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    calls: dict[str, Callable[[], Any]] = {
        "after_backward": plugin.after_backward,
        "penalty": plugin.penalty,
        "state_dict": plugin.state_dict,
        "on_task_end": lambda: plugin.on_task_end(tasks(1)[0]),
    }
    for call, function in calls.items():
        with pytest.raises(RuntimeError, match=f"^{kind_of(name)}.{call}: {message}"):
            function()
    assert_as_before(plugin, kept)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())


@every_plugin
def test_another_model_is_trained(name: str) -> None:
    _, plugin = trained(name)
    plugin._network.zero_grad()
    other = network()
    F.cross_entropy(other(tasks(1)[0][0][0]), tasks(1)[0][0][1]).backward()
    message = "after_backward: no parameter of model has a gradient; call it after loss.backward"
    with pytest.raises(RuntimeError, match=f"^{kind_of(name)}.{message}"):
        plugin.after_backward()
    loss = F.cross_entropy(other(tasks(1)[0][0][0]), tasks(1)[0][0][1])
    message = "before_backward: loss depends on no parameter of the model that this .* was made for"
    with pytest.raises(RuntimeError, match=f"^{kind_of(name)}.{message}"):
        plugin.before_backward(loss)


@every_plugin
def test_calls_of_a_step(name: str) -> None:
    _, plugin = trained(name)
    kept = state_of(plugin)
    kind = kind_of(name)
    number: Any = 1.0
    with pytest.raises(TypeError, match=f"^{kind}.before_backward: loss must be a tensor"):
        plugin.before_backward(number)
    with pytest.raises(ValueError, match=f"^{kind}.before_backward: loss must be one number"):
        plugin.before_backward(torch.ones(3))
    for scale in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"^{kind}.after_backward: scale must be finite and"):
            plugin.after_backward(scale=scale)
    if isinstance(plugin, SI | RWalk):
        with pytest.raises(RuntimeError, match=f"^{kind}.after_step: there is no gradient of this"):
            plugin.after_step()
    assert_as_before(plugin, kept)


@pytest.mark.parametrize("name", ["EWC", "exact EWC", "OnlineEWC", "MAS", "RWalk"])
def test_loaders(name: str) -> None:
    _, plugin = trained(name)
    kept = state_of(plugin)
    kind = kind_of(name)
    x, y = tasks(1)[0][0]
    labels = name not in ("MAS", "exact EWC")
    wanted = r"batches \(x, y\)" if labels else r"batches x or \(x, ...\)"
    bad: list[tuple[Any, type[Exception], str]] = [
        (None, TypeError, f"loader must give {wanted}, got none; pass the samples"),
        (3, TypeError, f"loader must give {wanted}, got int"),
        ([], ValueError, "loader gave no samples; pass the samples of the task that ended"),
        ([(x[:0], y[:0])], ValueError, "loader gave no samples"),
        ([{"x": x}], TypeError, f"loader must give {wanted} of tensors, got dict"),
        ([(x, y), ("x", y)], TypeError, r"loader must .*, got \(str, Tensor\) instead"),
    ]
    if labels:
        one_a_sample = r"y must have one label a sample of x, got x .* and y \[5\]"
        bad += [
            ([x], TypeError, "loader must .*, got Tensor"),
            ([(x,)], TypeError, "loader must"),
            ([(x, y[:5])], ValueError, one_a_sample),
            ([(x, y.int())], TypeError, "y must be int64, got torch.int32; convert it"),
        ]
    for loader, error, message in bad:
        with pytest.raises(error, match=f"^{kind}.on_task_end: {message}"):
            plugin.on_task_end(loader)
        assert_as_before(plugin, kept)
    if labels:
        with pytest.raises(RuntimeError, match=r"per_sample_fisher: targets holds \[4\], outside"):
            plugin.on_task_end([(x, y), (x, torch.full_like(y, 4))])
        assert_as_before(plugin, kept)


@every_plugin
def test_training_that_has_diverged(name: str) -> None:
    model, plugin = trained(name)
    kept = state_of(plugin)
    with torch.no_grad():
        next(model.parameters())[0, 0] = math.nan
    with pytest.raises(RuntimeError, match="NaN"):
        plugin.on_task_end(tasks(1)[0])
    assert_as_before(plugin, kept)


@pytest.mark.parametrize("name", ["SI", "RWalk"])
def test_paths_that_have_diverged(name: str) -> None:
    model, plugin = trained(name)
    assert isinstance(plugin, SI | RWalk)
    plugin._omegas["0.weight"][1, 2] = math.nan
    kept, values = state_of(plugin), parameters(model)
    message = "the path integral of 0.weight holds NaN or infinities"
    with pytest.raises(RuntimeError, match=f"^{name}.on_task_end: {message}"):
        plugin.on_task_end(tasks(1)[0])
    assert_as_before(plugin, kept)
    torch.testing.assert_close(parameters(model), values, rtol=0, atol=0)


def _changed(table: str, name: str, change: Callable[[Tensor], Any]) -> Callable[[Any], Any]:
    def changed(state: Any) -> Any:
        tensors = {**state[table], name: change(state[table][name])}
        return {**state, table: tensors}

    return changed


def _without(table: str, name: str) -> Callable[[Any], Any]:
    return lambda state: {
        **state,
        table: {key: value for key, value in state[table].items() if key != name},
    }


@every_plugin
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda _: 3, TypeError, "state_dict must be a mapping, got int"),
        (lambda s: {"tasks": s["tasks"]}, ValueError, "state_dict must have the parts tasks, anch"),
        (lambda s: {**s, "more": 1}, ValueError, "state_dict must have the parts"),
        (lambda s: {**s, "tasks": -1}, ValueError, r"state_dict\['tasks'\] must be at least 0"),
        (lambda s: {**s, "anchors": 3}, ValueError, "anchors must be a mapping, got int"),
        (lambda s: {**s, "anchors": {}}, ValueError, "anchors is empty, although 1 tasks have"),
        (
            lambda s: {**s, "anchors": {**s["anchors"], "9.bias": torch.ones(2)}},
            ValueError,
            "anchors has 9.bias, which is no parameter of model",
        ),
        (_without("importances", "0.bias"), ValueError, "importances has no 0.bias, which anchors"),
        (_without("anchors", "0.bias"), ValueError, "importances has 0.bias, which anchors has no"),
        (
            _changed("importances", "2.bias", lambda t: torch.ones(5)),
            ValueError,
            r"importances of 2.bias has shape \[5\], its anchor \[4\]",
        ),
        (
            _changed("importances", "0.bias", lambda t: t.long()),
            ValueError,
            "importances of 0.bias must be a floating-point tensor",
        ),
        (
            _changed("importances", "0.bias", lambda t: t * math.nan),
            ValueError,
            "importances of 0.bias holds NaN or infinities",
        ),
        (
            _changed("anchors", "0.bias", lambda t: t + math.inf),
            ValueError,
            "anchors of 0.bias holds NaN or infinities",
        ),
    ],
)
def test_states(
    name: str, change: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    _, plugin = trained(name)
    kept = state_of(plugin)
    with pytest.raises(error, match=f"^{kind_of(name)}.load_state_dict: {message}"):
        plugin.load_state_dict(change(plugin.state_dict()))
    assert_as_before(plugin, kept)


@pytest.mark.parametrize("table", ["fishers", "scores"])
def test_what_rwalk_adds_up_is_not_negative(table: str) -> None:
    _, plugin = trained("RWalk")
    kept = state_of(plugin)
    state = _changed(table, "0.bias", lambda t: -1 - t.abs())(plugin.state_dict())
    with pytest.raises(ValueError, match=f"{table} of 0.bias are negative somewhere; nothing"):
        plugin.load_state_dict(state)
    assert_as_before(plugin, kept)


@every_plugin
def test_sparse_gradients(name: str) -> None:
    model = nn.Sequential(nn.Embedding(9, 5, sparse=True), nn.Flatten(), nn.Linear(15, 4)).double()
    plugin = PLUGINS[name](model)
    model(torch.arange(6).view(2, 3)).sum().backward()
    message = r"a parameter \[9, 5\] of model has a sparse gradient, .*sparse=False"
    with pytest.raises(RuntimeError, match=f"^{kind_of(name)}.after_backward: {message}"):
        plugin.after_backward()


@every_plugin
def test_importances_that_are_negative(name: str) -> None:
    """Are those of SI alone."""
    _, plugin = trained(name)
    state = _changed("importances", "0.bias", lambda t: -1 - t.abs())(plugin.state_dict())
    if isinstance(plugin, SI):
        plugin.load_state_dict(state)
        assert_as_before(plugin, state)
        return
    with pytest.raises(ValueError, match=r"importances of 0.bias are negative somewhere; nothing"):
        plugin.load_state_dict(state)
