"""What every learner keeps to: predicting changes nothing, observing learns, states round trip."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from method_helpers import (
    CLASSES,
    DIM,
    METHODS,
    WITH_MEMORY,
    Net,
    batch,
    everything,
    learner,
    model,
    same,
    unchanged,
)
from torch import Tensor, nn

import clfast
from clfast.memory import KeyValueMemory
from clfast.methods import Hebb, Learner, Parametric

MODES: dict[str, Callable[[], Any]] = {
    "grad": nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("mode", MODES)
def test_predicting_changes_nothing(name: str, mode: str) -> None:
    method = learner(name, lr=0.1)
    assert isinstance(method, Learner)
    method.features.train()
    method.features.get_submodule("body.1").eval()
    next(method.features.parameters()).requires_grad_(False)
    x, _ = batch(9)
    with MODES[mode](), unchanged(method):
        labels, log_proba = method.predict(x), method.predict_log_proba(x)
    assert labels.dtype == torch.int64
    assert not log_proba.requires_grad
    assert torch.equal(labels, log_proba.argmax(1))
    torch.testing.assert_close(log_proba.exp().sum(1), torch.ones(9))
    assert torch.equal(log_proba, method.predict_log_proba(x))
    method.features.eval()
    assert torch.equal(log_proba, method.predict_log_proba(x))


def test_threads_that_predict_do_not_train(name: str) -> None:
    """A thread that ends must not put modules back into train mode under another."""
    method = learner(name)
    inside, modes = threading.Event(), []

    class Slow(Net):
        def forward(self, x: Tensor) -> Tensor:
            inside.set()
            time.sleep(0.05)
            modes.append(self.training)
            features: Tensor = super().forward(x)
            return features

    method.features = Slow()
    x, _ = batch(3)
    threads = [threading.Thread(target=method.predict, args=(x,)) for _ in range(2)]
    with unchanged(method):
        threads[0].start()
        assert inside.wait(60)
        time.sleep(0.02)
        threads[1].start()
        for thread in threads:
            thread.join()
    assert modes == [False, False]


def test_modes_are_restored_when_features_fail(name: str) -> None:
    method = learner(name)
    with unchanged(method), pytest.raises(ValueError, match="features cannot take x"):
        method.predict(torch.zeros(3, 7))


def test_other_errors_of_the_machine_pass_through(name: str) -> None:
    class Full(Net):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("full")

    method = learner(name)
    method.features = Full()
    with pytest.raises(torch.OutOfMemoryError):
        method.predict(batch(1)[0])


@pytest.mark.parametrize("rows", [0, 40])
def test_an_empty_memory_predicts_as_parametric(name: str, rows: int) -> None:
    method = learner(name, rows=rows)
    x, _ = batch(9)
    base = Parametric(method.features, method.head)
    same_as_base = torch.equal(method.predict_log_proba(x), base.predict_log_proba(x))
    assert same_as_base == (rows == 0 or name == "Parametric")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_log_probabilities(name: str, dtype: torch.dtype) -> None:
    for rows in (0, 40):
        method = learner(name, rows=rows, dtype=dtype)
        found = method.predict_log_proba(batch(2, dtype=dtype)[0]).dtype
        assert found == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_empty_batches(name: str) -> None:
    method = learner(name, lr=0.1)
    x, y = batch(0)
    with unchanged(method):
        assert method.predict(x).tolist() == []
        assert method.predict_log_proba(x).shape == (0, CLASSES)
        assert method.observe(x, y) == {"loss": 0.0}
        method.fit_memory([(x, y)])


def test_the_reference_backend_agrees(name: str) -> None:
    method = learner(name)
    x, _ = batch(9)
    with clfast.backend("reference"):
        expected = method.predict_log_proba(x)
    torch.testing.assert_close(method.predict_log_proba(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_observing_steps_and_writes(name: str, mode: str) -> None:
    method, twin = learner(name, lr=0.1), learner(name, lr=0.1)
    memory = method.memory
    assert memory is not None
    x, y = batch(9, seed=3)
    method.features.eval()
    keys = method.features(x).detach()
    method.features.train()

    # The step by hand.
    torch.manual_seed(5)
    twin.features.train()
    loss = nn.functional.cross_entropy(twin.head(twin.features(x)), y)
    loss.backward()
    assert twin.base_optimizer is not None
    twin.base_optimizer.step()

    torch.manual_seed(5)
    with MODES[mode]():
        losses = method.observe(x.clone(), y.clone())
    assert losses == {"loss": pytest.approx(loss.item())}
    assert same(method.state_dict()["features"], twin.state_dict()["features"])
    assert same(method.state_dict()["head"], twin.state_dict()["head"])
    assert torch.equal(memory.keys[40:], keys)
    assert torch.equal(memory.values[40:], y)


def test_without_an_optimizer_only_the_memory_changes(name: str) -> None:
    method = learner(name)
    before = everything(method)
    x, y = batch(9, seed=3)
    losses = method.observe(x, y)
    base = Parametric(method.features, method.head).predict_log_proba(x)
    assert losses == {"loss": pytest.approx(nn.functional.nll_loss(base, y).item())}
    after = everything(method)
    assert len(after.pop("memory")["keys"]) == 49
    before.pop("memory")
    assert same(before, after)


def test_fit_memory_writes_all_batches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    method = learner(name, rows=0, lr=0.1)
    assert method.memory is not None
    before = everything(method)
    batches = [batch(9, seed=3), batch(4, seed=4)]
    method.fit_memory(iter(batches))
    assert capsys.readouterr().out == ""
    after = everything(method)
    before.pop("memory")
    after.pop("memory")
    assert same(before, after)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    keys = method.features.eval()(x)
    torch.testing.assert_close(method.memory.keys, keys.detach())
    assert torch.equal(method.memory.values, y)
    method.on_task_end()
    assert len(method.memory) == 13
    method.on_task_end(batches)
    assert len(method.memory) == 26
    method.fit_memory(batches, progress=True)
    assert "fit_memory" in capsys.readouterr().out


def test_parametric_needs_no_memory() -> None:
    method = Parametric(*model())
    x, y = batch(9)
    method.fit_memory([(x, y)])
    method.observe(x, y)
    assert method.state_dict()["memory"] is None
    method.load_state_dict(method.state_dict())


def test_learning_works() -> None:
    x, y = batch(32)
    head = nn.Linear(16, CLASSES)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    hebb = Hebb(nn.Flatten(), head, KeyValueMemory(16), base_optimizer=optimizer)
    losses = [hebb.observe(x, y)["loss"] for _ in range(50)]
    assert losses[-1] < 0.5 * losses[0]
    assert (hebb.predict(x) == y).float().mean() > 0.9


def test_learners_share_what_they_are_made_of() -> None:
    features, head = model()
    memory = KeyValueMemory(DIM)
    one, other = Parametric(features, head, memory), Hebb(features, head, memory)
    one.observe(*batch(9))
    assert len(other.memory) == 9


@pytest.mark.parametrize("rows", [0, 40])
def test_deepcopy_shares_the_memory(name: str, rows: int) -> None:
    method = learner(name, rows=rows, lr=0.1)
    method.observe(*batch(9, seed=3))
    x, _ = batch(9)
    before = method.predict_log_proba(x)
    twin = copy.deepcopy(method)
    assert twin.memory is method.memory
    assert torch.equal(twin.predict_log_proba(x), before)
    state = method.state_dict()
    twin.observe(*batch(9, seed=4))
    for part in ("features", "head", "base_optimizer"):
        assert same(method.state_dict()[part], state[part])
    assert not same(twin.state_dict()["features"], method.state_dict()["features"])


def continued(method: Parametric) -> Iterator[Tensor]:
    """What a learner predicts while it goes on learning."""
    torch.manual_seed(7)
    for seed in range(3):
        yield method.predict_log_proba(batch(9)[0])
        method.observe(*batch(9, seed=seed))


def test_pickle_goes_on_bit_for_bit(name: str) -> None:
    memory = KeyValueMemory(DIM, capacity=20, policy="reservoir")
    method = learner(name, memory=memory, lr=0.1)
    method.observe(*batch(9, seed=3))
    twin = pickle.loads(pickle.dumps(method))
    assert twin.memory is not method.memory
    assert same(list(continued(method)), list(continued(twin)))
    assert same(method.state_dict(), twin.state_dict())


def test_state_dict_goes_on_bit_for_bit(name: str) -> None:
    def fresh(rows: int) -> Parametric:
        memory = KeyValueMemory(DIM, capacity=20, policy="class_balanced")
        return learner(name, rows=rows, memory=memory, lr=0.1)

    method, twin = fresh(40), fresh(3)
    method.observe(*batch(9, seed=3))
    if isinstance(method, Hebb):
        method.mark_base_classes([4])
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    twin.load_state_dict(saved)
    assert same(method.state_dict(), twin.state_dict())
    if isinstance(method, Hebb) and isinstance(twin, Hebb):
        assert method.base_classes == twin.base_classes
    first = list(continued(method))
    assert same(first, list(continued(twin)))
    # The state is a copy: going on did not change it.
    method.load_state_dict(saved)
    assert same(first, list(continued(method)))


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_ring_and_a_large_k(name: str) -> None:
    method = learner(name, memory=KeyValueMemory(DIM, capacity=3), k=200)
    assert method.predict(batch(5)[0]).shape == (5,)
