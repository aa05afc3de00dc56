"""Bad input: an error that names the call and the argument, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from method_helpers import CLASSES, DIM, METHODS, WITH_MEMORY, Net, batch, learner, model, unchanged
from torch import Tensor, nn

from clfast.memory import KeyValueMemory
from clfast.methods import Hebb, MbPA, Mixture, Parametric


def spoiled(value: float) -> Tensor:
    x, _ = batch(4)
    x[2, 0, 1, 1] = value
    return x


X, Y = batch(4)
NAN, INF = spoiled(float("nan")), spoiled(float("inf"))

OBSERVE: list[tuple[Any, Any, type[Exception], str]] = [
    ([1.0], Y, TypeError, r"x must be a torch.Tensor, got list"),
    (torch.tensor(1.0), Y, ValueError, r"x must have shape \[B, ...\], got a scalar"),
    (torch.zeros(4, 3), Y, ValueError, r"features cannot take x, torch.float32 \[4, 3\]: "),
    (X.long(), Y, ValueError, r"features cannot take x, torch.int64 \[4, 1, 4, 4\]: "),
    (torch.zeros(4, 1, 5, 5), Y, ValueError, r"features cannot take x"),
    (NAN, Y, ValueError, r"features of x hold NaN or Inf in row 2"),
    (INF, Y, ValueError, r"features of x hold NaN or Inf in row 2"),
    (X, [1, 2, 3, 4], TypeError, r"y must be a torch.Tensor, got list"),
    (X, Y.int(), TypeError, r"y must be int64, got torch.int32; convert it with y.long\(\)"),
    (X, Y.float(), TypeError, r"y must be int64, got torch.float32"),
    (X, Y[:3], ValueError, r"y must have shape \[4\], one label a sample of x, got \[3\]"),
    (X, Y[:, None], ValueError, r"y must have shape \[4\].*got \[4, 1\]"),
    (X, Y.to("meta"), ValueError, r"y must be on cpu as x is, got meta"),
    (X, torch.tensor([0, 1, -1, 2]), ValueError, r"y holds label -1, but head has outputs"),
    (X, torch.tensor([0, 1, 5, 2]), ValueError, r"y holds label 5.*\[0, 5\).*larger head"),
    (X[:0], Y, ValueError, r"y must have shape \[0\]"),
    (X, Y[:0], ValueError, r"y must have shape \[4\]"),
]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("lr", [None, 0.1])
@pytest.mark.parametrize(("x", "y", "error", "message"), OBSERVE)
def test_observe(
    name: str, lr: float | None, x: Any, y: Any, error: type[Exception], message: str
) -> None:
    method = learner(name, lr=lr)
    with unchanged(method), pytest.raises(error, match=rf"^{name}\.observe: {message}"):
        method.observe(x, y)
    if not (isinstance(y, Tensor) and y.is_meta):  # fit_memory moves y to the head's device
        fit = rf"^{name}\.fit_memory: {message}"
        with unchanged(method), pytest.raises(error, match=fit):
            method.fit_memory([(x, y)])
    if "y" not in message.split()[0]:
        for call in ("predict", "predict_log_proba"):
            expected = pytest.raises(error, match=rf"^{name}\.{call}: {message}")
            with unchanged(method), expected:
                getattr(method, call)(x)


@pytest.mark.parametrize("batches", [[X], [(X, Y, Y)], [3], [None], None, 3])
def test_loaders_give_pairs(batches: Any) -> None:
    method = learner("Hebb")
    message = r"Hebb.fit_memory: loader must give pairs \(x, y\)"
    with unchanged(method), pytest.raises(TypeError, match=message):
        method.fit_memory(batches)


class Broken(Net):
    """Features that come out as `change` says."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Any:
        return self.change(super().forward(x))


FEATURES: list[tuple[Callable[[Tensor], Any], type[Exception], str]] = [
    (lambda h: h[:, :5], ValueError, r"features must return \[4, 6\].*got \[4, 5\] for x"),
    (lambda h: h[:3], ValueError, r"features must return \[4, 6\].*got \[3, 6\]"),
    (lambda h: h.flatten(), ValueError, r"features must return \[4, 6\].*got \[24\]"),
    (lambda h: h.sum(), ValueError, r"features must return \[4, 6\].*got \[\]"),
    (lambda h: h.long(), TypeError, r"floating-point tensor, got torch.int64"),
    (lambda h: (h, h), TypeError, r"floating-point tensor, got tuple"),
    (lambda h: h.to("meta"), ValueError, r"features are on meta, but memory is on cpu"),
    (lambda h: (-h.abs()).log(), ValueError, r"features of x hold NaN or Inf in row 0"),
    (lambda h: h * 1e38 * 1e38, ValueError, r"features of x hold NaN or Inf"),
]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("change", "error", "message"), FEATURES)
def test_features(
    name: str, change: Callable[[Tensor], Any], error: type[Exception], message: str
) -> None:
    method = learner(name, lr=0.1)
    method.features = Broken(change)
    method.base_optimizer = torch.optim.SGD(method.features.parameters(), lr=0.1)
    calls: list[Callable[[], Any]] = [
        lambda: method.predict(X),
        lambda: method.observe(X, Y),
        lambda: method.fit_memory([(X, Y)]),
    ]
    for call in calls:
        with unchanged(method), pytest.raises(error, match=rf"^{name}\.\w+: .*{message}"):
            call()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_parameters_that_are_nan(name: str, where: str) -> None:
    method = learner(name, lr=0.1)
    with torch.no_grad():
        getattr(method.head, where)[1] = float("nan")
    before = method.head.state_dict()
    assert method.memory is not None
    with pytest.raises(ValueError, match=rf"{name}\.observe: the loss on x is nan"):
        method.observe(X, Y)
    assert torch.equal(before["weight"].isnan(), method.head.weight.isnan())
    assert len(method.memory) == 40


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_predicting_with_parameters_that_are_nan(name: str, where: str) -> None:
    method = learner(name)
    with torch.no_grad():
        getattr(method.head, where)[1] = float("nan")
    for call in ("predict", "predict_log_proba"):
        with pytest.raises(ValueError, match=rf"^{name}\.{call}: the outputs of head hold NaN"):
            getattr(method, call)(X)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_that_the_features_cannot_be_trained_on(name: str) -> None:
    method = learner(name)
    # Batch norm of features without extent needs two samples, as the last batch may not have.
    method.features = nn.Sequential(nn.Flatten(), nn.Linear(16, DIM), nn.BatchNorm1d(DIM))
    method.base_optimizer = torch.optim.SGD(method.features.parameters(), lr=0.1)
    wanted = rf"^{name}\.observe: features in train mode cannot take x, .*\[1, 1, 4, 4\]: Expected"
    with unchanged(method), pytest.raises(ValueError, match=wanted):
        method.observe(X[:1], Y[:1])


@pytest.mark.parametrize("name", METHODS)
def test_features_of_another_dtype_than_the_head(name: str) -> None:
    method = learner(name)
    method.features = nn.Flatten()
    method.head = nn.Linear(16, CLASSES)
    method.memory = KeyValueMemory(16)
    method.memory.add(torch.randn(9, 16), torch.arange(9) % CLASSES)
    for call in (method.predict, method.predict_log_proba):
        wanted = rf"^{name}\.{call.__name__}: head cannot take the features of x, torch.float64"
        with pytest.raises(ValueError, match=wanted):
            call(X.double())


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_memory_replaced_by_something_else(name: str) -> None:
    for memory in (None, "mem"):
        method = learner(name)
        method.memory = memory  # type: ignore[assignment]
        wanted = rf"^{name}\.predict: memory must be a KeyValueMemory"
        with pytest.raises(TypeError, match=wanted):
            method.predict(X)


@pytest.mark.parametrize("name", METHODS)
def test_what_fails_late_changes_nothing(name: str) -> None:
    # float16 holds no key this large: found when the keys are converted.
    method = learner(name, memory=KeyValueMemory(DIM, dtype=torch.float16), rows=9, lr=0.1)
    method.features.out = nn.Linear(8, DIM)
    with torch.no_grad():
        method.features.out.bias.fill_(1e5)
    parameters = [*method.features.parameters(), *method.head.parameters()]
    method.base_optimizer = torch.optim.SGD(parameters, lr=0.1)
    random = torch.get_rng_state()
    with unchanged(method):
        with pytest.raises(ValueError, match=rf"{name}\.observe: keys overflow torch\.float16"):
            method.observe(X, Y)
        torch.set_rng_state(random)  # dropout has drawn


@pytest.mark.parametrize("name", METHODS)
def test_gradients_that_are_not_finite(name: str) -> None:
    method = learner(name, lr=0.1)

    class Root(Net):
        """Finite, but the derivative of the root is infinite at 0."""

        def forward(self, x: Tensor) -> Tensor:
            features: Tensor = super().forward(x)
            return (features - features.detach()).abs().sqrt() + features.detach()

    method.features = Root()
    method.base_optimizer = torch.optim.SGD(method.features.parameters(), lr=0.1)
    random = torch.get_rng_state()
    with unchanged(method):
        with pytest.raises(ValueError, match=rf"{name}\.observe: the gradient of the loss on x"):
            method.observe(X, Y)
        torch.set_rng_state(random)  # dropout has drawn


@pytest.mark.parametrize("name", METHODS)
def test_a_step_that_fails_writes_nothing(name: str) -> None:
    method = learner(name, lr=0.1)

    class Full(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise RuntimeError("no memory for the state")

    random = torch.get_rng_state()
    for optimizer, error, message in (
        (torch.optim.LBFGS(method.features.parameters()), TypeError, "closure"),
        (Full(method.features.parameters()), RuntimeError, "no memory for the state"),
    ):
        method.base_optimizer = optimizer
        with unchanged(method):
            with pytest.raises(error, match=message):
                method.observe(X, Y)
            torch.set_rng_state(random)


MISUSED: list[tuple[Callable[..., Any], dict[str, Any], type[Exception], str]] = [
    (Parametric, {"head": nn.Identity()}, TypeError, "Parametric: head must be an nn.Linear"),
    (
        Hebb,
        {"head": nn.Sequential()},
        TypeError,
        "Hebb: head must be .* ends in one, got Sequ",
    ),
    (
        Hebb,
        {"memory": KeyValueMemory(7)},
        ValueError,
        r"Hebb: memory has keys of dim 7, but head takes 6 features; .*KeyValueMemory\(6\)",
    ),
    (Mixture, {"memory": None}, TypeError, "Mixture: memory must be a KeyValueMemory, got None"),
    (MbPA, {"memory": []}, TypeError, "MbPA: memory must be a KeyValueMemory, got list"),
    (Parametric, {"memory": "mem"}, TypeError, "memory must be a KeyValueMemory, got str"),
    (Parametric, {"features": lambda x: x}, TypeError, "features must be an nn.Module, got func"),
    (Hebb, {"base_optimizer": 3}, TypeError, "base_optimizer must be a torch optimizer, got int"),
    (Hebb, {"k": True}, TypeError, "Hebb: k must be an integer, got bool"),
    (Hebb, {"lr": 10**400}, ValueError, r"Hebb: lr must be finite and in \[0, inf\), got inf"),
    (Hebb, {"eta": torch.ones(2)}, TypeError, "Hebb: eta must be a number, got Tensor"),
    (Hebb, {"base_classes": 5}, TypeError, "classes must be labels, got int"),
    (Mixture, {"k": 0}, ValueError, "Mixture: k must be at least 1, got 0"),
    (Hebb, {"k": 1.5}, TypeError, "Hebb: k must be an integer, got float"),
    (Mixture, {"theta": float("inf")}, ValueError, "Mixture: theta must be finite, got inf"),
    (Mixture, {"theta": "1"}, TypeError, "Mixture: theta must be a number, got str"),
    (Mixture, {"gamma": 1.1}, ValueError, r"gamma must be finite and in \[0, 1\], got 1.1"),
    (Mixture, {"form": "sum"}, ValueError, "form must be one of normalized, joint, got 'sum'"),
    (MbPA, {"eps": 0}, ValueError, r"MbPA: eps must be finite and in \(0, inf\), got 0"),
    (MbPA, {"eps": -1}, ValueError, r"MbPA: eps must be finite and in \(0, inf\), got -1"),
    (MbPA, {"steps": -1}, ValueError, "MbPA: steps must be at least 0, got -1"),
    (MbPA, {"lr": -0.1}, ValueError, r"MbPA: lr must be finite and in \[0, inf\), got -0.1"),
    (MbPA, {"lr": float("nan")}, ValueError, "MbPA: lr must be finite"),
    (
        MbPA,
        {"kernel": "gaussian"},
        ValueError,
        "kernel must be one of inverse, normalized, uniform",
    ),
    (MbPA, {"optimizer": "adam"}, ValueError, "optimizer must be one of rmsprop, rmsprop_tf, sgd"),
    (Hebb, {"beta": 1.0}, ValueError, r"Hebb: beta must be finite and in \[0, 1\), got 1"),
    (Hebb, {"beta": -0.1}, ValueError, "Hebb: beta must be finite and in"),
    (Hebb, {"eta": float("nan")}, ValueError, "Hebb: eta must be finite, got nan"),
    (Hebb, {"counts": "all"}, ValueError, "counts must be one of seen, stored, got 'all'"),
    (Hebb, {"hebb_on": "old"}, ValueError, "hebb_on must be one of new, all, got 'old'"),
    (Hebb, {"unseen_interpolation": 2}, ValueError, "unseen_interpolation must be finite and in"),
    (Hebb, {"fixed_interpolation": -1}, ValueError, "fixed_interpolation must be finite and in"),
    (Hebb, {"fixed_interpolation": "a"}, TypeError, "fixed_interpolation must be a number"),
    (Hebb, {"mixture": 0.2}, TypeError, "Hebb: mixture must be a MixtureTerm or None, got float"),
    (Hebb, {"base_classes": [-1]}, ValueError, "mark_base_classes: classes must be at least 0"),
    (Hebb, {"base_classes": [0.5]}, TypeError, "mark_base_classes: classes must be an integer"),
]


@pytest.mark.parametrize(("make", "change", "error", "message"), MISUSED)
def test_constructors(
    make: Callable[..., Any], change: dict[str, Any], error: type[Exception], message: str
) -> None:
    features, head = model()
    arguments = {"features": features, "head": head, "memory": KeyValueMemory(DIM), **change}
    with pytest.raises(error, match=message):
        make(**arguments)


def test_a_head_replaced_by_something_else() -> None:
    method = learner("Hebb")
    method.head = nn.Linear(DIM + 1, CLASSES)
    with pytest.raises(ValueError, match=r"Hebb\.predict: memory has keys of dim 6, but head"):
        method.predict(X)
    method.head = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(TypeError, match=r"Hebb\.observe: head must be .*, got Identity"):
        method.observe(X, Y)


def state(**changes: Any) -> dict[str, Any]:
    other = learner("Hebb", rows=5, lr=0.1)
    other.observe(*batch(3))
    return {**other.state_dict(), **changes}


def other_optimizer() -> dict[str, Any]:
    return torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1).state_dict()


BAD_STATES: list[tuple[Callable[[], dict[str, Any]], str]] = [
    (dict, "base_classes missing"),
    (lambda: {"base_classes": None}, "state must have the parts features, head"),
    (lambda: state(extra=1), "state must have the parts"),
    (lambda: state(memory=None), "this learner has a memory, the saved one had none"),
    (lambda: state(base_optimizer=None), "this learner has a base_optimizer, the saved one"),
    (lambda: state(features={}), "features: .*Missing key"),
    (lambda: state(features=None), "this learner has a features"),
    (lambda: state(head={"weight": torch.zeros(CLASSES, DIM)}), "head: .*Missing key"),
    (lambda: state(base_optimizer=other_optimizer()), "base_optimizer: .*param"),
    (lambda: state(memory={}), "memory: KeyValueMemory.load_state_dict: state must have format"),
    (lambda: state(memory=KeyValueMemory(3).state_dict()), "memory: .*of another kind"),
    (lambda: state(base_classes=3), "base_classes"),
    (lambda: state(base_classes=["a"]), "base_classes"),
    (lambda: state(base_classes=[-1]), "base_classes"),
]


@pytest.mark.parametrize("name", METHODS)
def test_a_state_that_is_no_mapping(name: str) -> None:
    method = learner(name)
    wanted = rf"{name}\.load_state_dict: state_dict must be a mapping, got NoneType"
    with unchanged(method), pytest.raises(TypeError, match=wanted):
        method.load_state_dict(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("bad", "message"), BAD_STATES)
def test_bad_states_load_nothing(bad: Callable[[], dict[str, Any]], message: str) -> None:
    method = learner("Hebb", lr=0.1)
    method.observe(*batch(3, seed=2))
    given = bad()
    with unchanged(method):
        with pytest.raises(ValueError, match=rf"(?s)^Hebb\.load_state_dict: .*{message}"):
            method.load_state_dict(given)
        assert method.head.weight.grad is not None
