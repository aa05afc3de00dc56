"""Learners that recall, on a GPU; named after their ops, so that `make gpu-check` finds it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from networks import Residual, batches, same
from torch import Tensor, nn

from clfast.methods import ADI, ARM

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda")


class _Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop = Residual(), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(self.drop(x))
        return logits


class _Waiting(nn.Module):
    """A model for which the host has to wait: it asks how many values are positive."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Residual()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits * (1 + 0 * len(x[x > 0]))


class _WaitingBackward(_Waiting):
    """The same, in the backward pass, which has a thread of its own."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        if logits.requires_grad:
            logits.register_hook(lambda grad: grad * float(1 + 0 * grad.sum()))
        return logits


def _learner(
    kind: Any = ARM, model: type[nn.Module] = Residual, device: Any = CUDA, **options: Any
) -> Any:
    torch.manual_seed(1)
    network = model().double().to(device)
    given = {"snapshot": 4, "images": 20, "steps": 3, "lr": 0.5, **options}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    return kind(network, optimizer, generator=torch.Generator().manual_seed(7), **given)


def _stream(count: int, device: Any = CUDA, **options: Any) -> list[tuple[Tensor, Tensor]]:
    return [(x.to(device), y.to(device)) for x, y in batches(count, 2, 4, 6, **options)]


def _observe_all(learner: Any, stream: list[tuple[Tensor, Tensor]]) -> None:
    for x, y in stream:
        learner.observe(x, y)


def _graphs(learner: Any) -> int:
    recordings = learner._recall._graphs._recordings.values()
    return sum(recording is not None for recording in recordings)


def _close(first: Any, second: Any, tolerance: float = 1e-9) -> None:
    """Parameters and running statistics of the network now and of the one before."""
    for ours, theirs in ((first.model, second.model), (first.old, second.old)):
        pairs = zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True)
        for (name, a), b in pairs:
            torch.testing.assert_close(
                *(a.cpu(), b.cpu()), rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m
            )


@contextmanager
def _no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("kind", [ARM, ADI])
def test_on_a_gpu_as_on_the_cpu(kind: Any) -> None:
    learners = [_learner(kind, device=device) for device in ("cpu", "cuda")]
    found = [
        [learner.observe(x, y) for x, y in _stream(6, device)]
        for learner, device in zip(learners, ("cpu", "cuda"), strict=True)
    ]
    for on_cpu, on_gpu in zip(*found, strict=True):
        assert on_gpu == pytest.approx(on_cpu, rel=1e-6)
    _close(learners[1], learners[0], 1e-6)


@pytest.mark.parametrize(
    ("kind", "model", "options"),
    [
        (ARM, Residual, {}),
        (ARM, Residual, {"dedup": False, "repeats": 2}),
        (ARM, Residual, {"bn_track_recall": False}),
        (ARM, Residual, {"start": "noise"}),
        (ARM, _Dropping, {"dedup": False}),
        (ADI, Residual, {"dedup": False}),
    ],
)
def test_a_graph_does_what_the_loop_does(
    kind: Any, model: type[nn.Module], options: dict[str, Any]
) -> None:
    """Over three networks before, two batch sizes, and a model that is replaced."""
    plain = _learner(kind, model, **options)
    graphed = _learner(kind, model, cuda_graph=True, **options)
    stream = [*_stream(12), *_stream(6, size=6, seed=1)]
    found: dict[Any, list[dict[str, float]]] = {plain: [], graphed: []}
    captured = 0
    for learner in (plain, graphed):
        torch.cuda.manual_seed(3)
        for i, (x, y) in enumerate(stream):
            if i == 13:
                learner.model = copy.deepcopy(learner.model)
                learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.05)
            found[learner].append(learner.observe(x, y))
            captured = max(captured, _graphs(learner))
    assert captured
    assert not _graphs(plain)
    for wanted, got in zip(found[plain], found[graphed], strict=True):
        assert got == pytest.approx(wanted, rel=1e-9)
    _close(graphed, plain)
    recalled = []
    for learner in (plain, graphed):
        torch.cuda.manual_seed(4)
        for _ in range(3):
            recalled.append(learner.recall(*stream[-1]))
    for ours, theirs in zip(recalled[3:], recalled[:3], strict=True):
        torch.testing.assert_close(ours.images, theirs.images, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.old_logits, theirs.old_logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ambient", [False, True])
def test_a_graph_under_autocast(ambient: bool) -> None:
    """By the option, and by a block around the calls; that one keeps no weights in 16 bits, which
    would go stale when an optimizer takes a step, with a graph or without."""
    learners = []
    for cuda_graph in (False, True):
        learner = _learner(
            model=Residual,
            cuda_graph=cuda_graph,
            snapshot="task",
            autocast=None if ambient else torch.bfloat16,
        )
        learner.model.float()
        learners.append(learner)
    for learner in learners:
        for i, (x, y) in enumerate(_stream(8)):
            if i == 4:
                learner.on_task_end()
            with torch.autocast("cuda", torch.bfloat16, enabled=ambient, cache_enabled=False):
                learner.observe(x.float(), y)
    assert _graphs(learners[1])
    assert not _graphs(learners[0])
    _close(*learners, tolerance=1e-3)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize(("kind", "dedup"), [(ARM, True), (ARM, False), (ADI, True), (ADI, False)])
def test_nothing_in_the_loop_waits(kind: Any, dedup: bool, cuda_graph: bool) -> None:
    learner = _learner(kind, snapshot="task", dedup=dedup, cuda_graph=cuda_graph)
    stream = _stream(4)
    for i, (x, y) in enumerate(stream):
        if i == 2:
            learner.on_task_end()
        learner.observe(x, y)
    recall = learner._recall
    learner.model.train()
    drawn = recall.draw(learner.model, x, y, learner.seen)
    images = recall.begin(x, drawn)
    for _ in range(3):
        found, _ = recall.refine(learner.old, learner.model, images, drawn)
    assert bool(_graphs(learner)) == cuda_graph
    with _no_waiting():
        again, loss = recall.refine(learner.old, learner.model, images, drawn)
    assert bool(loss.isfinite())
    assert not torch.equal(again, images)
    assert found.data_ptr() != again.data_ptr()


@pytest.mark.parametrize("model", [_Waiting, _WaitingBackward])
def test_a_model_that_waits_runs_as_ever_and_says_so_once(model: type[nn.Module]) -> None:
    plain = _learner(model=model, dedup=False)
    asked = _learner(model=model, dedup=False, cuda_graph=True)
    stream = _stream(12)
    _observe_all(plain, stream)
    with pytest.warns(UserWarning, match="ARM: .* CUDA graph: the host waits") as heard:
        _observe_all(asked, stream)
    assert [warning.filename for warning in heard] == [__file__]
    assert not _graphs(asked)
    _close(asked, plain)
    torch.rand(3, device=CUDA)  # no capture is left open
    other = _learner(cuda_graph=True)
    _observe_all(other, stream)
    assert _graphs(other)


def test_states_and_copies_have_no_graphs() -> None:
    stream = _stream(12)
    learner = _learner(cuda_graph=True)
    for x, y in stream[:7]:
        learner.observe(x, y)
    assert _graphs(learner)
    state = learner.state_dict()
    assert state.keys() == _learner().state_dict().keys()
    fresh = _learner(cuda_graph=True)
    for x, y in stream[:7]:
        fresh.observe(x, y)
    fresh.load_state_dict(state)
    others = [fresh, copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))]
    assert not any(map(_graphs, others[1:]))
    for x, y in stream[7:]:
        wanted = learner.observe(x, y)
        for other in others:
            assert other.observe(x, y) == pytest.approx(wanted, rel=1e-9)
    for other in others:
        _close(other, learner)


def test_a_failure_puts_everything_back() -> None:
    stream = _stream(8)
    learner = _learner(cuda_graph=True)
    for x, y in stream[:7]:
        learner.observe(x, y)
    assert _graphs(learner)
    before = learner.state_dict()
    with pytest.raises(ValueError, match=r"ARM\.observe"):
        learner.observe(stream[7][0] * float("nan"), stream[7][1])
    assert same(before, learner.state_dict())
    learner.observe(*stream[7])
