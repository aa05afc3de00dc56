"""LwF, used wrongly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lwf_cases import taught
from rehearsal_cases import equal, network, tasks
from torch import Tensor, nn

from clfast.plugins import LwF


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": len}, TypeError, "model must be an nn.Module, got"),
        (
            {"model": nn.Linear(2, 2).requires_grad_(False)},
            ValueError,
            "model must have a parameter that requires grad",
        ),
        ({"strength": -1.0}, ValueError, r"strength must be finite and in \[0, inf\), got -1"),
        ({"strength": "much"}, TypeError, "strength must be a number, got str"),
        ({"temperature": 0.0}, ValueError, r"temperature must be finite and in \(0, inf\), got 0"),
        ({"classes": "old"}, ValueError, "classes must be one of None, seen, got 'old'"),
    ],
)
def test_constructors(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^LwF: {message}"):
        LwF(**{"model": nn.Linear(2, 2), **changes})


def state_of(plugin: LwF) -> Any:
    return [plugin.state_dict(), plugin._pass is None, plugin._step.in_loss()]


def test_calls_in_the_wrong_order() -> None:
    model, plugin = taught()
    x, y = tasks(2)[1][0]
    kept = state_of(plugin)
    no_pass = "before_backward: model has made no forward pass in training mode, with gradients, si"
    with pytest.raises(RuntimeError, match=f"^LwF.{no_pass}"):
        plugin.before_backward(torch.ones((), requires_grad=True))
    assert equal(kept, state_of(plugin))
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    with pytest.raises(RuntimeError, match=r"^LwF.after_backward: the last forward pass was not d"):
        plugin.after_backward()
    plugin.before_backward(F.cross_entropy(model(x), y))
    with pytest.raises(RuntimeError, match=f"^LwF.{no_pass}"):
        plugin.before_backward(loss)  # twice for one pass
    plugin.after_backward()
    other = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match=r"make the plugin for the model that the loop calls"):
        plugin.before_backward(F.cross_entropy(other(x), y))


def test_arguments_of_a_step() -> None:
    model, plugin = taught()
    x, _ = tasks(2)[1][0]
    model(x)
    number: Any = 1.0
    with pytest.raises(TypeError, match=r"^LwF.before_backward: loss must be a tensor, got float"):
        plugin.before_backward(number)
    with pytest.raises(ValueError, match=r"^LwF.before_backward: loss must be one number, got sh"):
        plugin.before_backward(torch.ones(3))
    with pytest.raises(ValueError, match=r"^LwF.after_backward: scale must be finite and in"):
        plugin.after_backward(scale=0.0)
    plugin.before_backward(torch.ones((), requires_grad=True))  # the pass is still there


@pytest.mark.parametrize("keyword", [True, False])
def test_inputs_that_were_written_to_since(keyword: bool) -> None:
    """The teacher would see other samples than the student has seen."""
    model, plugin = taught()
    x, y = tasks(2)[1][0]
    x = x.clone()
    loss = F.cross_entropy(model(input=x) if keyword else model(x), y)
    x.normal_()
    with pytest.raises(RuntimeError, match=r"^LwF.before_backward: what went into the forward pa"):
        plugin.before_backward(loss)


def test_heads_that_shrink() -> None:
    model, plugin = taught()
    x, _ = tasks(1)[0][0]
    model[3] = nn.Linear(6, 3).double()
    model(x)
    with pytest.raises(RuntimeError, match=r"^LwF.before_backward: model gives 3 logits, but gave"):
        plugin.before_backward(torch.ones((), requires_grad=True))


def test_models_that_give_something_else() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.inner(x), x

    model = Pair()
    plugin = LwF(model, classes=None)
    plugin.on_task_end()
    model(tasks(1)[0][0][0])
    with pytest.raises(
        RuntimeError, match=r"before_backward: model must give logits \[N, C\], got"
    ):
        plugin.before_backward(torch.ones((), requires_grad=True))


def test_labels_that_the_head_has_not() -> None:
    model, plugin = taught()
    x, y = tasks(1)[0][0]
    plugin.on_task_end([(x, y + 8)])
    model(x)
    with pytest.raises(RuntimeError, match=r"a loader has shown class 9, but model gave 6 logits"):
        plugin.before_backward(torch.ones((), requires_grad=True))


def test_loaders() -> None:
    _, plugin = taught()
    kept, teacher = state_of(plugin), plugin.teacher
    x, y = tasks(1)[0][0]
    bad: list[tuple[Any, type[Exception], str]] = [
        (None, TypeError, r"loader must give batches \(x, y\), got none; pass the samples"),
        ([], ValueError, "loader gave no samples; pass the samples of the task that ended"),
        ([{"x": x}], TypeError, r"loader must give batches \(x, y\) of tensors, got dict"),
        ([x], TypeError, "loader must give"),
        ([(x, y[:5])], ValueError, "y must have one label a sample of x"),
        ([(x, y.double())], TypeError, "y must be int64, got torch.float64"),
        ([(x, y[:, None])], ValueError, "y must have one label a sample of x"),
        ([(x, y), (x, y - 5)], ValueError, "y must be class labels >= 0, got -5"),
    ]
    for loader, error, message in bad:
        with pytest.raises(error, match=f"^LwF.on_task_end: {message}"):
            plugin.on_task_end(loader)
        assert equal(kept, state_of(plugin))
        assert plugin.teacher is teacher
    plugin.on_task_end([(x, y + 2, y)])  # a third part is not looked at
    assert plugin.seen == {0, 1, 2, 3}


def test_models_that_cannot_be_copied() -> None:
    model, plugin = taught()
    kept = state_of(plugin)
    model.cache = model[0](tasks(1)[0][0][0])
    with pytest.raises(
        RuntimeError, match=r"^LwF.on_task_end: model cannot be copied: Only Tensor"
    ):
        plugin.on_task_end(tasks(1)[0])
    del model.cache
    assert equal(kept[0], plugin.state_dict())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda _: 3, TypeError, "state_dict must be a mapping, got int"),
        (lambda s: {"seen": []}, ValueError, "state_dict must have the parts seen, teacher, got"),
        (lambda s: {**s, "seen": 3}, ValueError, "seen must be class labels; nothing was loaded"),
        (lambda s: {**s, "seen": [-1]}, ValueError, "seen must be at least 0, got -1"),
        (lambda s: {**s, "teacher": 3}, ValueError, "teacher must be a mapping or None, got int"),
        (
            lambda s: {**s, "teacher": {**s["teacher"], "4.weight": torch.ones(2)}},
            ValueError,
            "4.weight is not in both, teacher and model; load the state when",
        ),
        (
            lambda s: {**s, "teacher": {**s["teacher"], "3.bias": torch.ones(6)}},
            ValueError,
            "teacher's 3.bias must be a tensor of torch.float64",
        ),
        (
            lambda s: {**s, "teacher": {**s["teacher"], "3.bias": torch.ones(7).double()}},
            ValueError,
            r"teacher's 3.bias has shape \[7\], but that of model \[6\]; only dimension 0 may",
        ),
    ],
)
def test_states(change: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    _, plugin = taught()
    kept, teacher = state_of(plugin), plugin.teacher
    with pytest.raises(error, match=f"^LwF.load_state_dict: {message}"):
        plugin.load_state_dict(change(plugin.state_dict()))
    assert equal(kept, state_of(plugin))
    assert plugin.teacher is teacher
