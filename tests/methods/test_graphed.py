"""When a graph is captured and when it is replayed, with a recorder that needs no GPU."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from networks import Residual, batches, same
from torch import Tensor, nn

from clfast.methods import ADI, ARM
from clfast.methods.graphed import Function, Graphed, Inputs, Outputs, Recorder


class Replayer(Recorder):
    """Runs the function where a graph would run what it did; the outputs stay in their place."""

    kind = "cpu"
    log: ClassVar[list[str]] = []

    def __init__(self, device: torch.device) -> None:
        assert device.type == "cpu"

    def warm_up(self, function: Function, inputs: Inputs) -> None:
        self.log.append("warm up")
        function(*inputs)

    def capture(self, function: Function, inputs: Inputs) -> Callable[[], Outputs]:
        self.log.append("capture")
        places: list[Tensor] = []

        def run() -> Outputs:
            self.log.append("replay")
            outputs = function(*inputs)
            if not places:
                places.extend(output.clone() for output in outputs)
            for place, output in zip(places, outputs, strict=True):
                place.copy_(output)
            return tuple(places)

        return run


class Tracer(Replayer):
    """Runs the function when it is captured, as Python does."""

    def capture(self, function: Function, inputs: Inputs) -> Callable[[], Outputs]:
        function(*inputs)
        return super().capture(function, inputs)


class Refuser(Replayer):
    def warm_up(self, function: Function, inputs: Inputs) -> None:
        super().warm_up(function, inputs)
        raise RuntimeError("the host waits\nand waits")


class Interrupted(Replayer):
    def warm_up(self, function: Function, inputs: Inputs) -> None:
        super().warm_up(function, inputs)
        raise KeyboardInterrupt


RECORDED = ["warm up", "capture", "replay"]


@pytest.fixture(autouse=True)
def log() -> list[str]:
    Replayer.log.clear()
    return Replayer.log


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))


def _graphed(recorder: type[Recorder] = Replayer) -> Graphed:
    return Graphed("ARM", recorder)


def _call(graphed: Graphed, network: nn.Module, rows: int = 4, *constants: object) -> Tensor:
    x = torch.arange(3.0 * rows).view(rows, 3)
    (result,) = graphed(lambda x: (network(x).detach(),), (x,), (network,), *constants)
    return result


def test_the_first_call_runs_the_second_captures_and_the_third_replays(log: list[str]) -> None:
    graphed, network = _graphed(), _network()
    _call(graphed, network)
    assert log == []
    _call(graphed, network)
    assert log == RECORDED
    _call(graphed, network)
    assert log == [*RECORDED, "replay"]


def test_statistics_random_state_and_results_are_those_of_plain_calls() -> None:
    graphed, network, plain = _graphed(), _network(), _network()
    states = [torch.get_rng_state()] * 2
    kept = []
    for rows in (4, 4, 5, 4, 5, 5):
        x = torch.arange(3.0 * rows).view(rows, 3)
        found = []
        for i, of in enumerate((network, plain)):
            torch.set_rng_state(states[i])
            found.append(_call(graphed, of, rows) if of is network else of(x).detach())
            states[i] = torch.get_rng_state()
        assert torch.equal(*found)
        assert torch.equal(*states)
        kept.append((found[0], found[1]))
    assert same(network.state_dict(), plain.state_dict())
    assert all(torch.equal(*pair) for pair in kept)  # no later call wrote to these


def test_each_shape_is_captured_once(log: list[str]) -> None:
    graphed, network = _graphed(), _network()
    for rows in (4, 5, 4, 5, 4, 5):
        _call(graphed, network, rows)
    assert log == [*RECORDED, *RECORDED, "replay", "replay"]
    log.clear()
    for rows in range(6, 40):  # more shapes than are kept
        _call(graphed, network, rows)
    assert log == []
    _call(graphed, network, 39)
    assert log == []
    _call(graphed, network, 4)
    assert log == ["replay"]


def _grow(network: nn.Sequential) -> None:
    network[0].weight = nn.Parameter(torch.ones(2, 3))


def _move(network: nn.Sequential) -> None:
    network[1].running_mean = network[1].running_mean.clone()


def _freeze(network: nn.Sequential) -> None:
    network[1].eval()


def _slow(network: nn.Sequential) -> None:
    network[1].momentum = 0.5


def _hook(network: nn.Sequential) -> None:
    network[0].register_forward_hook(lambda module, inputs, output: 2 * output)


def _replace(network: nn.Sequential) -> None:
    network[2] = nn.Identity()


@pytest.mark.parametrize("change", [_grow, _move, _freeze, _slow, _hook, _replace])
def test_another_network_is_another_graph(change: Any, log: list[str]) -> None:
    graphed, network = _graphed(), _network()
    for _ in range(2):
        _call(graphed, network)
    change(network)
    _call(graphed, network)
    assert log == RECORDED
    _call(graphed, network)
    assert log == RECORDED * 2


def test_weights_that_change_in_place_are_the_same_network(log: list[str]) -> None:
    graphed, network = _graphed(), _network()
    for _ in range(2):
        _call(graphed, network)
    before = _call(graphed, network.eval())
    network.train()
    for _ in range(2):
        _call(graphed, network)
    log.clear()
    network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()})
    _call(graphed, network)
    assert log == ["replay"]
    assert not torch.equal(_call(graphed, network.eval()), before)


def test_other_options_autocast_and_copies_are_other_graphs(log: list[str]) -> None:
    graphed, network = _graphed(), _network()
    _call(graphed, network, 4, "ag")
    _call(graphed, network, 4, "js")
    with torch.autocast("cpu", torch.bfloat16):
        _call(graphed, network, 4, "js")
        assert log == []
        _call(graphed, network, 4, "js")
    _call(graphed, copy.deepcopy(network), 4, "js")
    assert log == RECORDED


def test_a_weight_that_autocast_keeps_is_not_captured() -> None:
    graphed, network = _graphed(Tracer), _network().eval()
    seen: list[bool] = []
    network[0].register_forward_hook(
        lambda module, inputs, output: seen.append(torch.is_autocast_cache_enabled())
    )
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            _call(graphed, network)
    assert seen[0]
    assert not any(seen[1:3])  # warm-up and capture


@pytest.mark.parametrize("forget", [True, False])
def test_copies_have_no_graphs(forget: bool, log: list[str]) -> None:
    graphed, network = _graphed(), _network()
    for _ in range(2):
        _call(graphed, network)
    log.clear()
    if forget:
        graphed.forget()
        others = [graphed]
    else:
        others = [copy.deepcopy(graphed), pickle.loads(pickle.dumps(graphed))]
    for other in others:
        _call(other, network)
    assert log == []
    for other in others:
        _call(other, network)
    assert log == RECORDED * len(others)


def test_what_cannot_be_captured_runs_as_ever_and_says_so_once(log: list[str]) -> None:
    graphed, network, plain = _graphed(Refuser), _network(), _network()
    for call in range(5):
        x = torch.arange(12.0).view(4, 3)
        state = torch.get_rng_state()
        if call == 1:
            with pytest.warns(UserWarning, match=r"ARM: .* CUDA graph: the host waits; everything"):
                found = _call(graphed, network)
        else:
            found = _call(graphed, network)
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        assert torch.equal(found, plain(x))
        assert torch.equal(torch.get_rng_state(), after)
    assert log == ["warm up"]
    assert same(network.state_dict(), plain.state_dict())


def test_what_draws_on_the_host_is_not_captured() -> None:
    graphed, network = _graphed(Tracer), _network()
    _call(graphed, network)
    with pytest.warns(UserWarning, match="random numbers are drawn on the host"):
        _call(graphed, network)


def test_an_interrupted_warm_up_leaves_nothing() -> None:
    graphed, network = _graphed(Interrupted), _network()
    _call(graphed, network)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        _call(graphed, network)
    assert same(before, network.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


def test_inputs_may_be_missing(log: list[str]) -> None:
    graphed = _graphed()

    def function(x: Tensor, counts: Tensor | None) -> tuple[Tensor]:
        return (x if counts is None else x * counts,)

    x, counts = torch.arange(3), torch.tensor([3, 1, 2])
    for given, wanted in ((None, x), (counts, x * counts)) * 3:
        assert torch.equal(graphed(function, (x, given), ())[0], wanted)
    assert log == [*RECORDED, *RECORDED, "replay", "replay"]


def _learner(kind: Any, seed: int = 1, **options: Any) -> Any:
    torch.manual_seed(seed)
    model = Residual().double()
    given = {"snapshot": 4, "images": 20, "steps": 3, "lr": 0.5, **options}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return kind(model, optimizer, generator=torch.Generator().manual_seed(7), **given)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ARM, {}),
        (ARM, {"dedup": False, "repeats": 2}),
        (ARM, {"bn_track_recall": False}),
        (ADI, {"dedup": False}),
    ],
)
def test_learners_with_graphs_are_those_without(
    kind: Any, options: dict[str, Any], log: list[str]
) -> None:
    """Bit for bit, over two networks before, two batch sizes and a model that is replaced."""
    plain = _learner(kind, **options)
    graphed = _learner(kind, cuda_graph=True, **options)
    graphed._recall._graphs = _graphed()
    stream = [*batches(12, 2, 4, 6), *batches(4, 2, 4, 6, size=6, seed=1)]
    for i, (x, y) in enumerate(stream):
        assert plain.observe(x, y) == graphed.observe(x, y)
        if i == 13:
            for learner in (plain, graphed):
                learner.model = copy.deepcopy(learner.model)
                learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.05)
    assert log.count("capture") >= 2
    assert log.count("replay") > log.count("capture")
    assert same(plain.state_dict(), graphed.state_dict())
    first, second = (learner.recall(*stream[-1]) for learner in (plain, graphed))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.old_logits, second.old_logits)
    graphed.on_task_end()
    assert not graphed._recall._graphs._recordings


def test_states_copies_and_failures_with_graphs() -> None:
    stream = batches(10, 2, 4, 6)
    learner = _learner(ARM, cuda_graph=True)
    learner._recall._graphs = _graphed()
    for x, y in stream[:7]:
        learner.observe(x, y)
    state = learner.state_dict()
    assert state.keys() == _learner(ARM).state_dict().keys()
    with pytest.raises(ValueError, match=r"ARM\.observe"):
        learner.observe(stream[7][0] * float("nan"), stream[7][1])
    assert same(state, learner.state_dict())
    fresh = _learner(ARM, seed=2, cuda_graph=True)
    fresh._recall._graphs = _graphed()
    for x, y in stream[:7]:
        fresh.observe(x, y)
    fresh.load_state_dict(state)
    others = [fresh, copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))]
    for x, y in stream[7:]:
        wanted = learner.observe(x, y)
        assert [other.observe(x, y) for other in others] == [wanted] * 3


def test_on_the_cpu_nothing_is_captured() -> None:
    plain, asked = _learner(ARM), _learner(ARM, cuda_graph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x, y in batches(8, 2, 4, 6):
            assert plain.observe(x, y) == asked.observe(x, y)
    assert not asked._recall._graphs._recordings
    assert same(plain.state_dict(), asked.state_dict())
