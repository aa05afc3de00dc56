"""`clfast.attach`: a model predicts through a method, and then again without it."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from method_helpers import CLASSES, DIM, OLD, Net, batch, model
from torch import Tensor, nn

import clfast
from clfast.memory import KeyValueMemory
from clfast.methods import Attachment, Hebb, MbPA, Mixture, attached
from clfast.plugins import EWC, MAS, LwF, Plugin

OPTIONS: dict[str, dict[str, Any]] = {
    "hebb": {"k": 20, "base_classes": OLD, "lr": 0.01},
    "mbpa": {"k": 20, "lr": 0.01},
    "mixture": {"k": 20, "gamma": 0.7},
}
CLASSES_OF = {"hebb": Hebb, "mbpa": MbPA, "mixture": Mixture}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.fc = model()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.net(x))
        return logits


def attach(method: str = "hebb", rows: int = 40, **options: Any) -> tuple[Classifier, Attachment]:
    classifier = Classifier()
    made = clfast.attach(classifier, method=method, **(options or OPTIONS[method]))
    if rows:
        made.write(*batch(rows, seed=1))
    return classifier.eval(), made


X = batch(9)[0]


@pytest.mark.parametrize("method", OPTIONS)
def test_the_model_predicts_as_the_learner(method: str) -> None:
    classifier, made = attach(method)
    plain = Classifier().eval()
    learner = CLASSES_OF[method](plain.net, plain.fc, KeyValueMemory(DIM), **OPTIONS[method])
    learner.fit_memory([batch(40, seed=1)])
    assert torch.equal(learner.memory.keys, made.memory.keys)
    assert torch.equal(learner.memory.values, made.memory.values)
    assert torch.equal(classifier(X).log_softmax(1), learner.predict_log_proba(X))
    assert not torch.equal(classifier(X), plain(X))


def test_detached_everything_is_as_before() -> None:
    classifier, made = attach()
    plain = Classifier().eval()
    assert classifier.state_dict().keys() == plain.state_dict().keys()
    made.detach()
    made.detach()
    assert torch.equal(classifier(X), plain(X))
    for module in classifier.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert attached(classifier) is None
    with pytest.raises(ValueError, match=r"Attachment\.write: this attachment is detached"):
        made.write(*batch(3))
    assert attached(clfast.attach(classifier).model) is not None


def test_training_is_not_touched() -> None:
    classifier, _ = attach()
    plain = Classifier()
    logits = []
    for one in (classifier.train(), plain.train()):
        torch.manual_seed(3)
        logits.append(one(X))
        logits[-1].square().sum().backward()
    assert torch.equal(*logits)
    assert torch.equal(classifier.fc.weight.grad, plain.fc.weight.grad)  # type: ignore[arg-type]


def test_an_empty_memory_changes_nothing() -> None:
    classifier, _ = attach(rows=0)
    assert torch.equal(classifier(X), Classifier().eval()(X))


def test_writing_disturbs_nothing() -> None:
    classifier, made = attach(rows=0)
    classifier.train()
    classifier.net.get_submodule("body.1").eval()
    before, modes = (
        copy.deepcopy(classifier.state_dict()),
        [m.training for m in classifier.modules()],
    )
    random = torch.get_rng_state()
    made.fit_memory([batch(5), batch(6)])
    assert len(made.memory) == 11
    assert [m.training for m in classifier.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_deep_copy_has_an_attachment_of_its_own_with_the_same_memory() -> None:
    classifier, made = attach()
    twin = copy.deepcopy(classifier)
    other = attached(twin)
    assert other is not None
    assert other is not made
    assert other.memory is made.memory
    expected = classifier(X)
    assert torch.equal(twin(X), expected)
    with torch.no_grad():
        twin.fc.weight.zero_()
    assert torch.equal(classifier(X), expected)
    assert not torch.equal(twin(X), expected)
    other.detach()
    assert torch.equal(twin(X), twin.fc(twin.net(X)))
    assert torch.equal(classifier(X), expected)


def test_pickle() -> None:
    classifier, _ = attach()
    file = io.BytesIO()
    pickle.dump(classifier, file)
    file.seek(0)
    twin = pickle.load(file)
    assert torch.equal(twin(X), classifier(X))
    other = attached(twin)
    assert other is not None
    other.detach()
    assert torch.equal(twin(X), Classifier().eval()(X))


def test_a_head_that_is_rebuilt_is_followed() -> None:
    classifier, made = attach()
    old = classifier.fc
    classifier.fc = nn.Linear(DIM, CLASSES + 2).eval()
    with torch.no_grad():
        classifier.fc.weight[:CLASSES], classifier.fc.bias[:CLASSES] = old.weight, old.bias
    x, y = batch(4, seed=5)
    made.write(x, torch.full_like(y, CLASSES))
    logits = classifier(X)
    assert logits.shape == (9, CLASSES + 2)
    assert not torch.equal(
        logits, nn.functional.linear(classifier.net(X), *classifier.fc.parameters())
    )
    assert not old._forward_hooks


def test_a_head_that_grows_in_place_is_followed() -> None:
    """out_features stays, as with people who forget it: the weight is what counts."""
    classifier, made = attach()
    larger = nn.Linear(DIM, CLASSES + 2)
    with torch.no_grad():
        larger.weight[:CLASSES], larger.bias[:CLASSES] = classifier.fc.weight, classifier.fc.bias
    classifier.fc.weight, classifier.fc.bias = larger.weight, larger.bias
    x, y = batch(4, seed=5)
    made.write(x, torch.full_like(y, CLASSES))
    logits = classifier(X)
    assert logits.shape == (9, CLASSES + 2)
    assert not torch.equal(logits, larger(classifier.net(X)))


def test_a_copy_of_the_head_alone_is_a_plain_layer() -> None:
    classifier, made = attach()
    for twin in (copy.deepcopy(classifier.fc), copy.deepcopy(nn.Sequential(classifier.fc))):
        features = classifier.net(X)
        plain = nn.functional.linear(features, *classifier.fc.parameters())
        assert torch.equal(twin(features), plain)
    assert made.model is classifier


def test_a_teacher_within_the_model_keeps_its_features_to_itself() -> None:
    """A deep copy shares the memory; what its head is given is not what is written."""

    class Student(Classifier):
        teacher: list[nn.Module]

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(self.net(x))
            for teacher in self.teacher:
                teacher(x + 1)
            return logits

    student = Student()
    student.teacher = []
    made = clfast.attach(student, **OPTIONS["hebb"])
    made.write(*batch(40, seed=1))
    student.teacher = [copy.deepcopy(student)]
    made.write(*batch(3, seed=2))
    student.teacher = []
    assert torch.equal(made.memory.keys[40:], student.eval().net(batch(3, seed=2)[0]))


def test_a_head_that_is_no_linear_layer_any_more_is_named() -> None:
    classifier, made = attach()
    classifier.fc = nn.Sequential(nn.Dropout(), nn.Linear(DIM, CLASSES))
    with pytest.raises(TypeError, match=r"Attachment: head 'fc' must be an nn\.Linear"):
        classifier(X)
    del classifier.fc
    with pytest.raises(ValueError, match="Attachment: model has no layer 'fc'"):
        classifier(X)
    made.detach()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_writes_into_the_logits_reach_nothing_else(mode: Callable[[], Any]) -> None:
    classifier, _ = attach()
    with mode():
        expected = classifier(X).clone()
        logits = classifier(X)
        logits[:, :2] = -float("inf")  # as libraries mask classes
        logits.add_(float("nan"))
        assert torch.equal(classifier(X), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    classifier, made = attach()
    expected = classifier(X)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        logits = classifier(X)
        made.write(*batch(3, seed=7))
    assert logits.dtype == dtype
    assert made.memory.keys.dtype == torch.float32
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.2)


def test_compiled_once_it_is_attached() -> None:
    classifier, _ = attach()
    with torch.no_grad():
        expected = classifier(X)
        compiled = torch.compile(classifier, backend="aot_eager")
        torch.testing.assert_close(compiled(X), expected)


def test_float64() -> None:
    classifier = Classifier().double()
    made = clfast.attach(classifier, memory=KeyValueMemory(DIM, dtype=torch.float64), k=5)
    made.write(batch(20)[0].double(), batch(20)[1])
    assert classifier.eval()(X.double()).dtype == torch.float64


def test_logits_of_sequences() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(DIM, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x)
            return logits

    tagger = Tagger().eval()
    made = clfast.attach(tagger, k=3)
    x = torch.randn(2, 7, DIM)
    made.write(x, torch.arange(14) % CLASSES)
    logits = tagger(x)
    assert logits.shape == (2, 7, CLASSES)
    assert torch.equal(logits.flatten(0, 1), tagger(x.flatten(0, 1)))


def test_base_classes_by_the_first_task_end() -> None:
    classifier, made = attach(rows=0, k=5)
    made.on_task_end([(X, torch.arange(9) % 2)])
    assert isinstance(made.learner, Hebb)
    assert made.learner.base_classes == (0, 1)
    assert len(made.memory) == 9
    assert classifier(X).shape == (9, CLASSES)


MISUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (3, {}, TypeError, "attach: model must be an nn.Module, got int"),
    (Classifier, {"head": "classifier"}, ValueError, "no layer 'classifier'; .* net.out, fc"),
    (Classifier, {"head": "net"}, TypeError, "head 'net' must be an nn.Linear, got Net"),
    (
        Classifier,
        {"method": "mixture", "memory": KeyValueMemory(4)},
        ValueError,
        "attach: Mixture: memory has keys of dim 4",
    ),
    (
        Classifier,
        {"memory": 4},
        TypeError,
        "attach: Hebb: memory must be a KeyValueMemory, got int",
    ),
    (Classifier, {"method": "knn"}, ValueError, "method must be one of hebb, mbpa, mixture"),
    (Classifier, {"k": 0}, ValueError, "attach: Hebb: k must be at least 1"),
    (Classifier, {"method": "mbpa", "k": 0}, ValueError, "attach: MbPA: k must be at least 1"),
    (
        Classifier,
        {"method": "mixture", "gamma": "all"},
        TypeError,
        "attach: Mixture: gamma must be a number, got str",
    ),
    (
        Classifier,
        {"method": "mbpa", "beta": 0.5},
        TypeError,
        "attach: method 'mbpa' has no option 'beta'; "
        "it takes k, eps, steps, lr, optimizer, kernel, mixture$",
    ),
    (
        Classifier,
        {"method": "mixture", "features": 3},
        TypeError,
        "attach: method 'mixture' has no option 'features'; it takes k, theta, gamma, form$",
    ),
    (Classifier, {"base_optimizer": None}, TypeError, "base_optimizer is not taken"),
]


@pytest.mark.parametrize(("make", "options", "error", "message"), MISUSED)
def test_bad_arguments(
    make: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = make() if make is Classifier else make
    with pytest.raises(error, match=message):
        clfast.attach(given, **options)
    if isinstance(given, nn.Module):
        assert not given._forward_pre_hooks
        assert not given.get_submodule("fc")._forward_hooks


def test_attached_twice() -> None:
    classifier, _ = attach()
    expected = classifier(X)
    with pytest.raises(ValueError, match=r"has an attachment already; detach\(\) that one first"):
        clfast.attach(classifier)
    assert torch.equal(classifier(X), expected)


@pytest.mark.parametrize("through", ["a parent", "a part"])
def test_attached_twice_through_another_module(through: str) -> None:
    parent = nn.Sequential(Classifier())
    first, second = [(parent[0], "fc"), (parent, "0.fc")][:: 1 if through == "a parent" else -1]
    made = clfast.attach(first[0], first[1], **OPTIONS["hebb"])
    made.write(*batch(40, seed=1))
    expected = parent.eval()(X)
    with pytest.raises(ValueError, match=r"attach: head .* has an attachment already, of a model"):
        clfast.attach(*second)
    assert torch.equal(parent(X), expected)
    made.detach()
    clfast.attach(*second)


def test_keys_that_overflow_the_memory() -> None:
    classifier = Classifier()
    memory = KeyValueMemory(DIM, dtype=torch.bfloat16)
    made = clfast.attach(classifier, memory=memory)
    made.write(*batch(4))
    last = classifier.net.get_submodule("out")
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, 3.4e38)
    with pytest.raises(ValueError, match=r"Attachment\.write: .*overflow torch\.bfloat16"):
        made.write(*batch(4))
    assert len(memory) == 4


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (X, torch.zeros(9), TypeError, "y must be int64"),
        (X, torch.zeros(8, dtype=torch.int64), ValueError, r"y must have shape \[9\]"),
        (X, torch.full((9,), CLASSES), ValueError, "a new class needs a larger head"),
        (X * float("nan"), torch.zeros(9, dtype=torch.int64), ValueError, "NaN or Inf in row 0"),
    ],
)
def test_bad_writes(x: Any, y: Any, error: type[Exception], message: str) -> None:
    _, made = attach()
    with pytest.raises(error, match=rf"Attachment\.write: .*{message}"):
        made.write(x, y)
    assert len(made.memory) == 40


def test_a_head_that_the_model_does_not_call() -> None:
    classifier = Classifier()
    made = clfast.attach(classifier)
    classifier.forward = lambda x: classifier.net(x)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the model's forward pass does not call 'fc'"):
        made.write(*batch(3))


def test_a_head_smaller_than_a_stored_label() -> None:
    classifier, _ = attach()
    classifier.fc = nn.Linear(DIM, 2).eval()
    with pytest.raises(ValueError, match="use a larger head"):
        classifier(X)


def test_the_head_goes_by_its_name() -> None:
    nested = nn.Sequential(nn.Sequential(Net(), nn.Linear(DIM, CLASSES)))
    made = clfast.attach(nested, "0.1", k=3)
    made.write(*batch(5))
    assert len(made.memory) == 5


def test_a_new_head_on_a_model_in_eval_mode() -> None:
    """A new layer is in train mode, whatever the model is in."""
    classifier, _ = attach()
    classifier.fc = nn.Linear(DIM, CLASSES)
    weight, bias = classifier.fc.parameters()
    plain = nn.functional.linear(classifier.net(X), weight, bias)
    assert not torch.equal(classifier(X), plain)


def test_a_head_that_is_called_by_keyword() -> None:
    class ByKeyword(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(input=self.net(x))
            return logits

    classifier = ByKeyword()
    made = clfast.attach(classifier, **OPTIONS["hebb"])
    made.write(*batch(40, seed=1))
    assert torch.equal(classifier.eval()(X), attach()[0](X))


@pytest.mark.parametrize("x", [torch.zeros(3, 7), [1, 2]])
def test_what_the_model_cannot_take(x: Any) -> None:
    _, made = attach()
    with pytest.raises(ValueError, match=r"Attachment\.write: the model cannot take x"):
        made.write(x, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"Attachment\.fit_memory: y must be a torch.Tensor"):
        made.fit_memory([(X, [0] * 9)])  # type: ignore[list-item]
    assert len(made.memory) == 40


@pytest.mark.parametrize("kind", [EWC, MAS, LwF])
def test_plugins_ask_the_network_itself(kind: Callable[..., Plugin]) -> None:
    """Importances and teachers are those of a model without a memory."""
    states, losses = [], []
    for attaches in (True, False):
        classifier = attach()[0] if attaches else Classifier()
        plugin = kind(classifier.train(), strength=1.0)
        plugin.on_task_end([batch(6, seed=2)])
        x, y = batch(5, seed=3)
        torch.manual_seed(0)  # of dropout
        logits = classifier(x)
        losses.append(plugin.before_backward(nn.functional.cross_entropy(logits, y)).detach())
        states.append(plugin.state_dict())
    assert torch.equal(*losses)
    torch.testing.assert_close(*states, rtol=0, atol=0)
