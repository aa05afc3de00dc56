"""Strategies of the real Avalanche on split digits, with both kinds of streams: clfast's plugins
beside its own. Run by `make test-avalanche`."""

from __future__ import annotations

import json
import random
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("avalanche")
digits = pytest.importorskip("avalanche_digits")

from avalanche.models import IncrementalClassifier  # noqa: E402
from avalanche.training import plugins as theirs  # noqa: E402
from avalanche.training.storage_policy import (  # noqa: E402
    HerdingSelectionStrategy,
    ParametricBuffer,
)

from clfast.integrations import avalanche as ours  # noqa: E402
from clfast.memory import ReplayBuffer  # noqa: E402
from clfast.methods import DGR  # noqa: E402

# What its own code warns of is its own business.
pytestmark = pytest.mark.filterwarnings(r"ignore:::avalanche(\.|$)")
every_style = pytest.mark.parametrize("style", ["xyt", "xy"])


def trained(plugins: list[Any], style: str, *, experiences: int = 5, **options: Any) -> Any:
    strategy = digits.naive(plugins, **options)
    random.seed(0)
    stream = digits.split_digits(style, 300 if options.get("size") == 1 else 1400)
    for experience in list(stream.train_stream)[:experiences]:
        torch.manual_seed(0)  # whatever plugins have drawn
        strategy.train(experience)
    return strategy


def parameters(strategy: Any) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in strategy.model.named_parameters()}


def same(left: Any, right: Any, **tolerances: float) -> None:
    torch.testing.assert_close(parameters(left), parameters(right), **tolerances)


def accuracy(strategy: Any, style: str) -> float:
    metrics = strategy.eval(digits.split_digits(style).test_stream)
    (found,) = (value for name, value in metrics.items() if name.startswith("Top1_Acc_Stream"))
    return float(found)


ONE_BY_ONE: dict[str, Any] = {"size": 1, "lr": 0.002, "epochs": 1}
"""Then the square of a batch's mean gradient is that of a sample."""


@every_style
def test_ewc_is_avalanche_s_where_that_sees_single_samples(style: str) -> None:
    """Its lambda is half of the paper's."""
    left = trained([theirs.EWCPlugin(20.0)], style, **ONE_BY_ONE)
    right = trained([ours.EWC(strength=40.0)], style, **ONE_BY_ONE)
    same(left, right, rtol=1e-3, atol=1e-5)
    assert accuracy(left, style) == accuracy(right, style)
    naive = trained([], style, **ONE_BY_ONE)
    assert distance(naive, left) > 100 * distance(left, right)


@every_style
def test_online_ewc_is_avalanche_s_where_that_sees_single_samples(style: str) -> None:
    """Its decay is no factor of the last experience's importances."""
    left = trained([theirs.EWCPlugin(20.0, mode="online", decay_factor=0.5)], style, **ONE_BY_ONE)
    right = trained([ours.OnlineEWC(strength=80.0, gamma=0.5)], style, **ONE_BY_ONE)
    same(left, right, rtol=1e-3, atol=1e-5)
    assert accuracy(left, style) == accuracy(right, style)


@every_style
def test_mas_is_avalanche_s_where_that_sees_single_samples(style: str) -> None:
    """In two experiences: from the second on it takes means of importances, not sums."""
    options = {**ONE_BY_ONE, "experiences": 2}
    left = trained([theirs.MASPlugin(0.05)], style, **options)
    right = trained([ours.MAS(strength=0.05)], style, **options)
    same(left, right, rtol=1e-3, atol=1e-5)
    assert distance(trained([], style, **options), left) > 100 * distance(left, right)


def distance(left: Any, right: Any) -> float:
    a, b = parameters(left), parameters(right)
    return sum(float((a[name] - b[name]).square().sum()) for name in a) ** 0.5


def test_lwf_is_avalanche_s() -> None:
    """Which wants task labels."""
    left = trained([theirs.LwFPlugin(2.0, 2.0)], "xyt", epochs=1)
    right = trained([ours.LwF(strength=2.0, temperature=2.0)], "xyt", epochs=1)
    same(left, right, rtol=1e-2, atol=1e-3)
    assert distance(trained([], "xyt", epochs=1), left) > 100 * distance(left, right)


def test_lwf_without_task_labels() -> None:
    """Which Avalanche's own plugin needs."""
    strategy = trained([ours.LwF(strength=2.0)], "xy")
    assert strategy.plugins[0].plugin.seen == set(range(10))
    assert distance(trained([], "xy"), strategy) > 0.1
    with pytest.raises(AttributeError, match="targets_task_labels"):
        trained([theirs.LwFPlugin(2.0, 2.0)], "xy")


PENALTIES = {
    "EWC": (lambda: theirs.EWCPlugin(20.0), lambda: ours.EWC(strength=40.0)),
    "SI": (lambda: theirs.SynapticIntelligencePlugin(0.1), lambda: ours.SI(strength=0.05)),
    "MAS": (lambda: theirs.MASPlugin(0.1), lambda: ours.MAS(strength=0.02)),
    "RWalk": (lambda: theirs.RWalkPlugin(0.1), lambda: ours.RWalk(strength=0.1)),
}


@every_style
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_are_worth_what_avalanche_s_are(name: str, style: str) -> None:
    """On digits with one head, where no penalty is worth much."""
    left, right = (trained([make()], style) for make in PENALTIES[name])
    assert accuracy(right, style) > accuracy(left, style) - 0.1


@every_style
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_hold_what_is_important(name: str, style: str) -> None:
    """sum F (theta - theta*)^2 of the first experience is less after the second with them."""
    held, naive, first = (
        trained(plugins, style, experiences=count)
        for plugins, count in (([PENALTIES[name][1]()], 2), ([], 2), ([PENALTIES[name][1]()], 1))
    )
    state = first.plugins[0].state_dict()

    def drift(strategy: Any) -> float:
        now = parameters(strategy)
        return sum(
            float((f * (now[n] - state["anchors"][n]).square()).sum())
            for n, f in state["importances"].items()
        )

    assert 0 < drift(held) < 0.95 * drift(naive)


REHEARSALS: dict[str, Any] = {
    "Replay": (lambda: theirs.ReplayPlugin(200), lambda: ours.Replay(200)),
    "ER": (
        lambda: theirs.ReplayPlugin(200),
        lambda: ours.ER(memory=ReplayBuffer(200, policy="class_balanced"), replay=32),
    ),
    "MIR": (
        lambda: theirs.MIRPlugin(32, mem_size=200, subsample=100),
        lambda: ours.ERMIR(
            memory=ReplayBuffer(200, policy="class_balanced"), replay=32, candidates=100, lr=0.05
        ),
    ),
    "GEM": (lambda: theirs.GEMPlugin(40, 0.5), lambda: ours.GEM(per_task=40, margin=0.5)),
    "A-GEM": (
        lambda: theirs.AGEMPlugin(40, 64),
        lambda: ours.AGEM(memory=ReplayBuffer(200), replay=64),
    ),
}


@every_style
@pytest.mark.parametrize("name", REHEARSALS)
def test_rehearsal_is_worth_what_avalanche_s_is(name: str, style: str) -> None:
    """In the mean of two seeds."""
    left, right = (
        sum(accuracy(trained([make()], style, seed=seed), style) for seed in (0, 1)) / 2
        for make in REHEARSALS[name]
    )
    # ER's is a mean beside that of the mini-batch, which is a step of twice the size.
    assert right > left - (0.2 if name == "ER" else 0.1)
    if name != "A-GEM":  # which does not help here, in either library
        assert right > 0.6


@every_style
def test_replay_of_a_stream_that_is_seen_once(style: str) -> None:
    plugin = ours.Replay(200, store="iteration")
    strategy = trained([plugin], style, epochs=1)
    assert plugin.buffer.seen == 1400
    assert set(plugin.buffer.rows) == ({"x", "y", "task"} if style == "xyt" else {"x", "y"})
    assert plugin.buffer.counts(10).tolist() == [20] * 10
    assert accuracy(strategy, style) > accuracy(trained([], style, epochs=1), style) + 0.1


def test_herding_is_avalanche_s() -> None:
    """What each stores of the first experience; Avalanche then herds what is stored anew, where
    iCaRL keeps its first."""
    policy = ours.HerdingBuffer(20, "classifier", normalize=False)
    other = ParametricBuffer(20, groupby="class")
    strategy = digits.naive([], epochs=1)
    other.selection_strategy = HerdingSelectionStrategy(strategy.model, "features")
    strategy.plugins += [theirs.ReplayPlugin(20, storage_policy=p) for p in (policy, other)]
    strategy.train(next(iter(digits.split_digits("xyt").train_stream)))
    for label in (0, 1):
        stored = [sample[0] for sample in other.buffer_groups[label].buffer]
        mine = [x for x, y, _ in policy.buffer if y == label]
        assert len(mine) == 10
        assert {tuple(x.flatten().tolist()) for x in stored} == {
            tuple(x.flatten().tolist()) for x in mine
        }


@every_style
@pytest.mark.parametrize("name", ["herding", "mnemonics"])
def test_exemplars_in_avalanche_s_replay(name: str, style: str) -> None:
    policy: Any = ours.HerdingBuffer(200, "classifier")
    if name == "mnemonics":
        policy = ours.MnemonicsBuffer(
            200, "classifier", objective="bop_fc", epochs=2, values=(0, 1)
        )
    strategy = trained([theirs.ReplayPlugin(200, storage_policy=policy)], style)
    assert len(policy.buffer) == 200
    baseline = trained([theirs.ReplayPlugin(200)], style)
    assert accuracy(strategy, style) > accuracy(baseline, style) - 0.1


@every_style
@pytest.mark.parametrize("kind", [ours.Hebb, ours.MbPA, ours.Mixture])
def test_prediction_heads(kind: Any, style: str) -> None:
    plugin = kind("classifier", k=16)
    strategy = trained([plugin], style)
    naive = trained([], style)
    same(strategy, naive, rtol=0, atol=0)
    assert len(plugin.attachment.memory) == 1400
    assert accuracy(strategy, style) >= accuracy(naive, style) - 0.02
    x = torch.stack([sample[0] for sample in digits.split_digits(style).test_stream[4].dataset])
    with torch.no_grad():
        adapted, plain = (each.model.eval()(x) for each in (strategy, naive))
    assert not torch.allclose(adapted, plain, atol=1e-3)


class Growing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        self.classifier = IncrementalClassifier(64)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classifier(self.features(x))
        return found


@every_style
@pytest.mark.parametrize(
    "make",
    [
        lambda: [ours.Hebb("classifier.classifier", k=16)],
        lambda: [ours.EWC(strength=10.0)],
        lambda: [ours.SI(strength=0.01)],
        lambda: [ours.LwF(strength=1.0)],
        lambda: [ours.Replay(100)],
        lambda: [ours.GEM(per_task=20)],
        lambda: [ours.Protect({"classifier.classifier.weight": torch.ones(2, 64).bool()})],
        lambda: [theirs.ReplayPlugin(100, storage_policy=ours.HerdingBuffer(100, "classifier"))],
    ],
    ids=["Hebb", "EWC", "SI", "LwF", "Replay", "GEM", "Protect", "herding"],
)
def test_heads_that_grow(make: Any, style: str) -> None:
    strategy = digits.naive(make(), epochs=1)
    torch.manual_seed(0)
    strategy.model = Growing()
    strategy.optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.05)
    stream = digits.split_digits(style)
    for experience in stream.train_stream:
        strategy.train(experience)
        head = strategy.model.classifier.classifier
        assert head.out_features == max(experience.classes_in_this_experience) + 1
    metrics = strategy.eval(stream.test_stream)
    assert all(0 < value <= 1 for value in metrics.values())


@every_style
def test_arm_forgets_less(style: str) -> None:
    options = {"images": 32, "steps": 5, "lr": 1.0}
    strategy = trained([ours.ARM(**options, generator=torch.Generator())], style)
    assert accuracy(strategy, style) > accuracy(trained([], style), style) + 0.03


@every_style
def test_protected_weights_stay_through_all_experiences(style: str) -> None:
    mask = torch.rand(256, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    strategy = digits.naive([ours.Protect({"features.0.weight": mask})], epochs=1)
    before = parameters(strategy)["features.0.weight"].clone()
    for experience in digits.split_digits(style).train_stream:
        strategy.train(experience)
    moved = parameters(strategy)["features.0.weight"] != before
    assert not bool(moved[mask].any())
    assert float(moved[~mask].float().mean()) > 0.5


def test_gdumb_beside_them() -> None:
    """It has a new model in each experience: refused by what knows of the one before."""
    strategy = digits.naive([ours.EWC(strength=1.0), theirs.GDumbPlugin(50)], epochs=1)
    first, second, *_ = digits.split_digits("xyt").train_stream
    strategy.train(first)
    with pytest.raises(RuntimeError, match=r"EWC: strategy.model was replaced .* GDumbPlugin"):
        strategy.train(second)
    hebb = ours.Hebb("classifier", k=16)
    strategy = trained([hebb, theirs.GDumbPlugin(200)], "xyt", epochs=10)
    assert hebb.attachment is not None
    assert hebb.attachment.model is strategy.model
    assert accuracy(strategy, "xyt") > 0.4


@pytest.mark.parametrize("kind", [ours.Hebb, ours.MbPA])
def test_misuse(kind: Any) -> None:
    experience = next(iter(digits.split_digits("xy").train_stream))
    with pytest.raises(ValueError, match=r"no layer 'fc'; its linear layers are features.0"):
        digits.naive([kind("fc")]).train(experience)
    with pytest.raises(ValueError, match="attachment already"):
        digits.naive([kind("classifier"), ours.Mixture("classifier")]).train(experience)


def test_the_generator_in_avalanche_s_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which wants task labels; on digits of twice the size, as the learner has them."""
    small = digits.load_digits()
    images = torch.tensor(small.images).repeat_interleave(2, 1).repeat_interleave(2, 2).numpy()
    large = SimpleNamespace(images=images, target=small.target)
    monkeypatch.setattr(digits, "load_digits", lambda: large)
    learner = DGR(size=16, epochs=2, batch=32, width=2, noise=8, critic_width=8, critic_steps=1)
    generator = ours.GeneratorStrategy(learner)
    plugin = theirs.GenerativeReplayPlugin(generator_strategy=generator)
    sizes: list[tuple[int, int]] = []

    class Watcher:
        def before_forward(self, strategy: Any, **kwargs: Any) -> None:
            sizes.append((strategy.clock.train_exp_counter, len(strategy.mb_x)))

    strategy = digits.naive([plugin, theirs.TrainGeneratorAfterExpPlugin(), Watcher()], epochs=1)
    torch.manual_seed(0)
    strategy.model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    strategy.optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.05)
    for experience in list(digits.split_digits("xyt", 300).train_stream)[:3]:
        strategy.train(experience)
    assert learner.classes == list(range(6))
    assert max(size for t, size in sizes if t == 0) == 32
    assert max(size for t, size in sizes if t > 0) == 64
    assert all(bool(p.isfinite().all()) for p in strategy.model.parameters())


@every_style
def test_the_example(
    style: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(digits.__file__)
    call = [path.name, "--style", style, "--epochs", "1", "--only", "Naive", "EWC", "Hebb"]
    monkeypatch.setattr(sys, "argv", [*call, "--json"])
    runpy.run_path(str(path), run_name="__main__")
    naive, ewc, hebb = json.loads(capsys.readouterr().out)
    assert naive["clfast"] is hebb["avalanche"] is None
    for found in (naive["avalanche"], ewc["avalanche"], ewc["clfast"], hebb["clfast"]):
        assert 0 < found["accuracy"] < 1
        assert found["seconds"] > 0
    monkeypatch.setattr(sys, "argv", call)
    runpy.run_path(str(path), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["Avalanche", "Naive", "EWC", "Hebb"]


def test_the_example_has_plugins_that_train() -> None:
    for owners in digits.PLUGINS.values():
        for make in owners:
            if make is not None:
                trained(make(), "xyt", experiences=2, epochs=1)


def test_the_benchmark_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what it compares agrees, before it is timed."""
    from benchmarks import avalanche as benchmark

    threads = torch.get_num_threads()
    benchmark.main(["--small", "--threads", str(threads), "--out", str(tmp_path / "found.json")])
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert len(rows) == len(capsys.readouterr().out.splitlines()) == 9
    assert all(row["times"] > 0 for row in rows)
