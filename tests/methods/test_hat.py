"""HAT: what a step is, and that past tasks keep what they say to the bit."""

from __future__ import annotations

import copy
import io
import math
import pickle
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import same
from torch import Tensor, nn

from clfast.experiments.online_adaptation import threads
from clfast.methods import HAT, Learner
from clfast.nn import (
    HATConv2d,
    HATLinear,
    MaskedLinear,
    TaskBatchNorm2d,
    TaskHeads,
    at_task,
    hat_mlp,
    masks_at,
)
from clfast.nn.masked import Keep

INPUTS = 12
Batch = tuple[Tensor, Tensor]


def batches(task: int, count: int = 6, dtype: torch.dtype = torch.float32) -> list[Batch]:
    """Whether one input, another for every task, is positive."""
    generator = torch.Generator().manual_seed(task)
    x = 2 * torch.randn(count, 16, INPUTS, generator=generator, dtype=torch.float64).to(dtype)
    return [(rows, (rows[:, task] > 0).long()) for rows in x]


def mlp(keep: Keep = "binary", widths: tuple[int, ...] = (24, 20)) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return hat_mlp(INPUTS, widths, 2, keep=keep)


def convolutions(keep: Keep = "binary") -> nn.Module:
    """Images of 3x4, batch normalisation on either side of masks, dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Unflatten(1, (1, 3, 4)),
            HATConv2d(
                *(1, 8, 2),
                activation=nn.Sequential(TaskBatchNorm2d(8), nn.ReLU()),
                keep=keep,
            ),
            HATConv2d(8, 8, 2, activation=None, keep=keep),
            TaskBatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
            HATLinear(16, 12, keep=keep),
            TaskHeads(12, 2),
        )


NETWORKS = {"mlp": mlp, "convolutions": convolutions}


def learner(network: nn.Module | None = None, **options: Any) -> HAT:
    options = {"lr": 0.5, "sparsity": 0.05, "max_scale": 50.0, "epochs": 2, **options}
    return HAT(mlp() if network is None else network, **options)


def logits(method: HAT, task: int) -> Tensor:
    model = method.model
    modes = [m.training for m in model.modules()]
    model.eval()
    x = torch.cat([x for x, _ in batches(7)])
    with at_task(model, task), masks_at(model, method.max_scale), torch.no_grad():
        found: Tensor = model(x)
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    return found


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    """Layers so small may end up without a unit, and threads would only wait for each other."""
    with warnings.catch_warnings(), threads(1):
        warnings.filterwarnings("ignore", message="HAT.on_task_end: the mask of task")
        yield


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("compensation", ["analytic", "reference"])
def test_past_tasks_say_the_same_to_the_bit(name: str, compensation: Any) -> None:
    torch.manual_seed(0)
    method = learner(NETWORKS[name](), momentum=0.9, lr=0.05, compensation=compensation)
    said: list[Tensor] = []
    for task in range(3):
        start = copy.deepcopy(method.model.state_dict())
        method.fit_task(batches(task))
        assert not same(start, method.model.state_dict())
        method.on_task_end()
        said.append(logits(method, task))
        assert said[task].std() > 0
        for past, wanted in enumerate(said):
            found = logits(method, past)
            assert torch.equal(found.view(torch.int32), wanted.view(torch.int32))
    assert all(0 < share <= 1 for share in method.capacity().values())


def test_soft_masks_let_past_tasks_move() -> None:
    """Why binary ones are the default."""
    said = []
    method = learner(mlp("soft"), max_scale=5.0)
    for task in range(3):
        method.fit_task(batches(task))
        method.on_task_end()
        said.append(logits(method, task))
    assert not torch.equal(logits(method, 0), said[0])


def test_it_learns_every_task() -> None:
    method = learner(mlp(widths=(40, 40)), epochs=12, lr=0.2, sparsity=0.01)
    for task in range(3):
        method.fit_task(batches(task))
        method.on_task_end()
    for task in range(3):
        x, y = map(torch.cat, zip(*batches(task), strict=True))
        assert (method.predict(x, task) == y).float().mean() > 0.85
        assert torch.equal(method.predict_log_proba(x, task).argmax(1), method.predict(x, task))
    assert torch.equal(method.predict(x), method.predict(x, 2))


class Loop:
    """HAT as its authors' code has it, on two layers, with masks that are rounded when kept."""

    def __init__(self, method: HAT) -> None:
        self.method = method
        self.weights = {
            name: value.detach().clone().requires_grad_()
            for name, value in method.model.named_parameters()
            if name.split(".")[0] != "heads" and "mask" not in name
        }
        self.reserved = [torch.zeros(24), torch.zeros(20)]

    def task(self, data: list[Batch], epochs: int) -> None:
        """Embeddings and the head begin as the learner's."""
        live = dict(self.method.model.named_parameters())
        names = ["hidden1.mask.embedding", "hidden2.mask.embedding"]
        newest = self.method.tasks - 1
        names += [f"heads.parts.{newest}.weight", f"heads.parts.{newest}.bias"]
        self.own = [live[name].detach().clone().requires_grad_() for name in names]
        for _ in range(epochs):
            for number, batch in enumerate(data):
                top = self.method.max_scale
                self.step(*batch, (top - 1 / top) * number / len(data) + 1 / top)
        self.reserved = [
            torch.maximum(was, (e >= 0).to(was.dtype))
            for was, e in zip(self.reserved, self.own[:2], strict=True)
        ]

    def step(self, x: Tensor, y: Tensor, s: float) -> None:
        w, (e1, e2, head, bias) = self.weights, self.own
        m1, m2 = (s * e1).sigmoid(), (s * e2).sigmoid()
        h = F.relu(F.linear(x, w["hidden1.weight"], w["hidden1.bias"])) * m1
        h = F.relu(F.linear(h, w["hidden2.weight"], w["hidden2.bias"])) * m2
        loss = F.cross_entropy(F.linear(h, head, bias), y)
        free = [1 - r for r in self.reserved]
        ratio = sum((m * f).sum() for m, f in zip((m1, m2), free, strict=True)) / sum(
            f.sum() for f in free
        )
        loss = loss + self.method.sparsity * ratio
        every = [*w.values(), *self.own]
        grads = dict(zip([*w, "e1", "e2", "h", "b"], torch.autograd.grad(loss, every), strict=True))
        r1, r2 = self.reserved
        grads["hidden1.weight"] *= 1 - r1[:, None]
        grads["hidden1.bias"] *= 1 - r1
        grads["hidden2.weight"] *= 1 - torch.minimum(r2[:, None], r1[None, :])
        grads["hidden2.bias"] *= 1 - r2
        for name, e in (("e1", e1), ("e2", e2)):
            top = torch.cosh((s * e.detach()).clamp(-50, 50)) + 1
            grads[name] *= self.method.max_scale / s * top / (torch.cosh(e.detach()) + 1)
        norm = math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
        factor = min(1.0, self.method.clip_norm / (norm + 1e-6))
        with torch.no_grad():
            for parameter, grad in zip(every, grads.values(), strict=True):
                parameter -= self.method.lr * factor * grad
            for e in (e1, e2):
                e.clamp_(-6, 6)


@pytest.mark.parametrize("compensation", ["analytic", "reference"])
@pytest.mark.parametrize("clip_norm", [1e4, 0.5])
def test_steps_are_those_of_the_authors_code(compensation: Any, clip_norm: float) -> None:
    # s e stays below 50 and sigmoid below 1: there both compensations are the same.
    method = learner(mlp().double(), lr=0.02, max_scale=8.0, compensation=compensation)
    method.clip_norm = clip_norm
    loop = Loop(method)
    for task in range(3):
        data = batches(task, 6, torch.float64)
        if task:
            method.begin_task()
        loop.reserved = [r.double() for r in loop.reserved]
        loop.task(data, method.epochs)
        method.fit_task(data)
        live = dict(method.model.named_parameters())
        for name, wanted in loop.weights.items():
            torch.testing.assert_close(live[name], wanted, rtol=1e-9, atol=1e-11)
        embedding = live["hidden1.mask.embedding"]
        torch.testing.assert_close(embedding, loop.own[0], rtol=1e-9, atol=1e-11)
        method.on_task_end()
        for layer, wanted in zip(method.layers.values(), loop.reserved, strict=True):
            assert torch.equal(layer.mask.reserved_mask().double(), wanted)


def test_losses_and_limits() -> None:
    method = learner(lr=100.0, embedding_limit=0.25)
    x, y = batches(0)[0]
    free = torch.cat([layer.mask.embedding.detach() for layer in method.layers.values()])
    found = method.observe(x, y, scale=3.0)
    assert found["sparsity"] == pytest.approx(float((3 * free).sigmoid().mean()))
    assert found.keys() == {"loss", "sparsity"}
    for layer in method.layers.values():
        assert layer.mask.embedding.detach().abs().max() <= 0.25
        assert (layer.mask.scale, layer.mask.task) == (1.0, None)


def test_masks_harden_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    method, scales = learner(epochs=2), []

    def observe(x: Tensor, y: Tensor, *, scale: float) -> dict[str, float]:
        scales.append(scale)
        return {"loss": float(len(scales)), "sparsity": 0.0}

    monkeypatch.setattr(method, "observe", observe)
    found = method.fit_task(batches(0, 4))
    wanted = [(50 - 1 / 50) * number / 4 + 1 / 50 for number in range(4)]
    assert scales == pytest.approx(2 * wanted)
    assert found == {"loss": 6.5, "sparsity": 0.0}


def test_tasks_begin_and_end() -> None:
    method = learner()
    assert isinstance(method, Learner)
    assert (method.tasks, method.ended) == (1, 0)
    assert method.capacity() == {"hidden1": 0.0, "hidden2": 0.0}
    method.observe(*batches(0)[0])
    method.on_task_end()
    assert (method.tasks, method.ended) == (1, 1)
    x = batches(0)[0][0]
    before = method.predict_log_proba(x)
    method.begin_task(3)
    assert (method.tasks, method.ended) == (2, 1)
    assert method.predict_log_proba(x).shape == (16, 3)
    assert torch.equal(method.predict_log_proba(x, 0), before)
    method.observe(x, torch.full((16,), 2))
    method.on_task_end()
    method.observe(x, torch.full((16,), 2))  # as many classes as the task before
    assert method.tasks == 3


def test_two_learners_with_one_seed_are_equal() -> None:
    states = []
    for _ in range(2):
        method = learner(generator=torch.Generator().manual_seed(5))
        for task in range(2):
            method.fit_task(batches(task, 3))
            method.on_task_end()
        method.observe(*batches(2)[0])
        states.append(method.state_dict())
    assert same(*states)


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_states_and_copies_go_on_alike(name: str, ended: bool) -> None:
    torch.manual_seed(0)
    method = learner(NETWORKS[name](), momentum=0.9, lr=0.05)
    for task in range(2):
        method.fit_task(batches(task, 3))
        if task == 0 or ended:
            method.on_task_end()
    state = method.state_dict()
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    fresh = learner(NETWORKS[name](), momentum=0.9, lr=0.05)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    twins = [fresh, copy.deepcopy(method), pickle.loads(pickle.dumps(method))]
    for twin in (method, *twins):
        torch.manual_seed(1)  # of dropout
        assert same(twin.state_dict(), state)
        twin.fit_task(batches(2, 3))
        twin.on_task_end()
        assert not same(twin.state_dict(), state)
    for twin in twins:
        assert same(twin.state_dict(), method.state_dict())
        for task in range(twin.ended):
            assert torch.equal(logits(twin, task), logits(method, task))
    fresh.load_state_dict(state)  # of fewer tasks than it has learnt
    assert same(fresh.state_dict(), state)


@pytest.mark.parametrize("new_task", [True, False])
@pytest.mark.parametrize("wrong", ["label", "nan", "scale", "shape", "dtype"])
def test_what_cannot_be_learnt_changes_nothing(wrong: str, new_task: bool) -> None:
    method = learner(convolutions(), momentum=0.9)
    method.fit_task(batches(0, 2))
    if new_task:
        method.on_task_end()
    before, modes = method.state_dict(), [m.training for m in method.model.modules()]
    x, y = batches(1)[0]
    options: dict[str, Any] = {}
    if wrong == "label":
        y = y + 1
    elif wrong == "nan":
        x = x.clone()
        x[3, 1] = float("nan")
    elif wrong == "scale":
        options = {"scale": -1.0}
    elif wrong == "shape":
        x = x[:, :-1]
    else:
        x = x.long()
    kind = TypeError if wrong == "dtype" else ValueError
    with pytest.raises(kind, match=r"HAT\.observe|masks_at"):
        method.observe(x, y, **options)
    assert same(method.state_dict(), before)
    assert [m.training for m in method.model.modules()] == modes
    assert method.tasks == 1
    x, y = batches(1)[0]
    method.observe(x, y)
    assert method.tasks == 1 + new_task


def test_predicting_changes_nothing() -> None:
    method = learner(convolutions())
    method.fit_task(batches(0, 2))
    method.on_task_end()
    method.observe(*batches(1)[0])
    before, random = method.state_dict(), torch.get_rng_state()
    method.model.train()
    x = batches(3)[0][0]
    for task in (0, 1, None):
        labels = method.predict(x, task)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, method.predict(x, task))
    assert same(method.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert method.model.training


def test_threads_may_ask_for_different_tasks() -> None:
    method = learner()
    for task in range(2):
        method.fit_task(batches(task))
        method.on_task_end()
    x = batches(3)[0][0]
    wanted = [method.predict_log_proba(x, task) for task in range(2)]
    found: list[list[Tensor]] = [[], []]

    def ask(task: int) -> None:
        found[task] = [method.predict_log_proba(x, task) for _ in range(40)]

    askers = [threading.Thread(target=ask, args=(task,)) for task in range(2)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    for task in range(2):
        assert len(found[task]) == 40
        assert all(torch.equal(each, wanted[task]) for each in found[task])


def test_a_mask_without_a_unit_is_told() -> None:
    method = learner(lr=1.0, sparsity=100.0, clip_norm=1e9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.fit_task(batches(0))
        with pytest.raises(UserWarning, match="mask of task 0 has no unit of hidden1"):
            method.on_task_end()


def test_frozen_parts_may_be_of_any_kind() -> None:
    frozen = nn.Linear(INPUTS, INPUTS).requires_grad_(False)
    method = learner(nn.Sequential(frozen, *mlp()))
    assert method.observe(*batches(0)[0])["loss"] > 0


def test_wrong_use() -> None:
    method = learner()
    x, y = batches(0)[0]
    ended = learner()
    ended.observe(x, y)
    ended.on_task_end()

    def of(*modules: nn.Module) -> HAT:
        return HAT(nn.Sequential(*modules))

    hidden, heads = HATLinear(INPUTS, 4), TaskHeads(4, 2)
    for error, text, wrong in (
        (TypeError, "HAT: model must be an nn.Module", lambda: HAT("net")),  # type: ignore[arg-type]
        (ValueError, "HAT: model has no HATLinear", lambda: of(nn.Linear(2, 3), heads)),
        (ValueError, "must have one TaskHeads, got 0", lambda: of(hidden)),
        (ValueError, "one TaskHeads, got 2", lambda: of(hidden, heads, TaskHeads(4, 2))),
        (
            ValueError,
            r"parameter 1\.weight of model would change",
            lambda: of(hidden, nn.Linear(4, 4), heads),
        ),
        (
            ValueError,
            r"parameter 1\.weight of model would change",
            lambda: of(hidden, MaskedLinear(4, 4), heads),
        ),
        (
            ValueError,
            "running statistics of 1 would change",
            lambda: of(hidden, nn.BatchNorm1d(4, affine=False), heads),
        ),
        (ValueError, "has learnt tasks already", lambda: HAT(ended.model)),
        (ValueError, "lr must be finite", lambda: learner(lr=-1)),
        (ValueError, "epochs must be at least 1", lambda: learner(epochs=0)),
        (ValueError, "max_scale must be finite", lambda: learner(max_scale=0)),
        (ValueError, "sparsity must be finite", lambda: learner(sparsity=-1)),
        (ValueError, "compensation must be one of", lambda: learner(compensation="cosh")),
        (ValueError, "embedding_limit must be", lambda: learner(embedding_limit=0)),
        (ValueError, "clip_norm must be", lambda: learner(clip_norm=0)),
        (TypeError, "generator must be a torch", lambda: learner(generator=3)),
        (ValueError, "HAT.predict: task must be in 0..0, got 1", lambda: method.predict(x, 1)),
        (TypeError, "HAT.predict: task must be an integer", lambda: method.predict(x, "a")),  # type: ignore[arg-type]
        (ValueError, "model cannot take x", lambda: method.predict(x[:, :3])),
        (RuntimeError, "no batch was observed", lambda: method.on_task_end()),
        (RuntimeError, "no batch was observed", lambda: ended.on_task_end()),
        (RuntimeError, "task 0 is being learnt", lambda: method.begin_task()),
        (ValueError, "HAT.begin_task: classes must be", lambda: ended.begin_task(0)),
        (ValueError, "HAT.fit_task: loader has no batch", lambda: method.fit_task([])),
        (TypeError, "loader must have a length", lambda: method.fit_task(iter([(x, y)]))),
        (TypeError, "loader must give pairs", lambda: method.fit_task([x])),  # type: ignore[list-item]
        (ValueError, "x is an empty batch", lambda: method.observe(x[:0], y[:0])),
        (TypeError, "x must be floating point", lambda: method.observe(x.long(), y)),
        (ValueError, "state must have the parts", lambda: method.load_state_dict({})),
    ):
        with pytest.raises(error, match=text):
            wrong()
    assert method.tasks == ended.tasks == 1
