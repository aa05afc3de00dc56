"""What `accelerate_avalanche` puts in place, against what it replaces, written out here; the real
ones are in test_avalanche_real_accelerate.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from copy import deepcopy
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fake_strategy import network
from torch import Tensor, nn

import clfast
from clfast.integrations.avalanche import patches, replacements


def update_temp(model: nn.Module, grad: Any, lr: float) -> nn.Module:
    copied = deepcopy(model)
    for g, p in zip(grad, copied.parameters(), strict=True):
        if g is not None:
            p.data = p.data - lr * g
    return copied


class EWCPlugin:
    def before_backward(self, strategy: Any, **kwargs: Any) -> str:
        return "theirs"


class HerdingSelectionStrategy:
    def make_sorted_indices_from_features(self, features: Tensor) -> str:
        return "theirs"


class GEMPlugin:
    def solve_quadprog(self, g: Tensor) -> str:
        return "theirs"


class MultiTaskModule(nn.Module):
    pass


@pytest.fixture
def fake_avalanche(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Modules of these names, with what is replaced."""
    contents: dict[str, dict[str, Any]] = {
        "avalanche": {"__version__": "0.6.0"},
        "avalanche.models": {"MultiTaskModule": MultiTaskModule},
        "avalanche.training": {},
        "avalanche.training.storage_policy": {"HerdingSelectionStrategy": HerdingSelectionStrategy},
        "avalanche.training.plugins": {},
        "avalanche.training.plugins.ewc": {"EWCPlugin": EWCPlugin},
        "avalanche.training.plugins.mir": {"update_temp": update_temp},
        "avalanche.training.plugins.gem": {"GEMPlugin": GEMPlugin},
    }
    made: dict[str, Any] = {}
    for name, attributes in contents.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
        made[name] = module
    return made


def in_use() -> tuple[bool, ...]:
    mir = vars(sys.modules["avalanche.training.plugins.mir"])
    return (
        EWCPlugin().before_backward.__name__ == "ewc_before_backward",
        HerdingSelectionStrategy().make_sorted_indices_from_features.__name__
        == "sorted_by_herding",
        GEMPlugin().solve_quadprog.__name__ == "gem_solution",
        mir["update_temp"] is not update_temp,
    )


def test_it_is_undone(fake_avalanche: dict[str, Any]) -> None:
    assert in_use() == (False,) * 4
    with clfast.accelerate_avalanche() as accelerated:
        assert in_use() == (True,) * 4
        assert [name.rpartition(".")[2] for name in accelerated.replaced] == [
            "before_backward",
            "make_sorted_indices_from_features",
            "update_temp",
            "solve_quadprog",
        ]
        with pytest.raises(RuntimeError, match=r"in use already; undo\(\) what the call before"):
            clfast.accelerate_avalanche()
        assert in_use() == (True,) * 4
    assert in_use() == (False,) * 4
    again = clfast.accelerate_avalanche()
    accelerated.undo()  # has nothing to do with the second
    assert in_use() == (True,) * 4
    again.undo()
    again.undo()
    assert in_use() == (False,) * 4


def test_what_somebody_has_replaced_since_stays(
    fake_avalanche: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerated = clfast.accelerate_avalanche()
    with monkeypatch.context() as patch:
        patch.setattr(GEMPlugin, "solve_quadprog", update_temp)
        with pytest.raises(RuntimeError, match=r"solve_quadprog of GEMPlugin has been replaced"):
            accelerated.undo()
        assert GEMPlugin.solve_quadprog is update_temp
        assert in_use() == (True, True, False, True)
    accelerated.undo()
    assert in_use() == (False,) * 4


def test_an_error_inside_undoes_it(fake_avalanche: dict[str, Any]) -> None:
    with pytest.raises(KeyError), clfast.accelerate_avalanche():
        raise KeyError
    assert in_use() == (False,) * 4


def test_another_version(fake_avalanche: dict[str, Any]) -> None:
    fake_avalanche["avalanche"].__version__ = "0.7.1"
    with pytest.raises(RuntimeError, match=r"Avalanche must be version 0\.6, got 0\.7\.1"):
        clfast.accelerate_avalanche()
    assert in_use() == (False,) * 4
    fake_avalanche["avalanche"].__version__ = "0.6.0"
    clfast.accelerate_avalanche().undo()


def test_without_avalanche(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "avalanche", None)
    with pytest.raises(ImportError, match=r"cannot be imported.*pip install avalanche-lib==0\.6"):
        clfast.accelerate_avalanche()


def test_a_torchvision_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["operator torchvision::nms does not exist", "out of memory"]

    def fails(name: str) -> None:
        raise RuntimeError(said[0])

    monkeypatch.setattr(patches, "import_module", fails)
    with pytest.raises(ImportError, match=r"torchvision's library .*nms.* docs/avalanche.md"):
        clfast.accelerate_avalanche()
    del said[0]
    with pytest.raises(RuntimeError, match=r"^out of memory"):
        clfast.accelerate_avalanche()


class Data:
    """ParamData: a tensor that pads itself with zeros."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def expand(self, shape: torch.Size) -> Tensor:
        if self.data.shape != shape:
            padded = torch.zeros(shape)
            padded[: len(self.data)] = self.data
            self.data = padded
        return self.data


@pytest.mark.parametrize("mode", ["separate", "online"])
@pytest.mark.parametrize("grown", [False, True])
def test_the_penalty_of_ewc(mode: str, grown: bool) -> None:
    """As EWCPlugin adds it up, with a head that has grown and a parameter that came later."""
    generator = torch.Generator().manual_seed(0)
    model = network(6)
    old = network(4 if grown else 6)
    plugin: Any = EWCPlugin()
    plugin.mode, plugin.ewc_lambda = mode, 0.7
    plugin.saved_params, plugin.importances = {}, {}
    for t in range(3):
        names = dict(old.named_parameters())
        if t == 0:
            del names["features.1.bias"]
        for table, square in (("saved_params", False), ("importances", True)):
            made = {n: torch.randn(p.shape, generator=generator) for n, p in names.items()}
            if square:  # some are 0 in all experiences
                made = {
                    n: v.square() * (torch.arange(v.numel()) % 3 > 0).view_as(v)
                    for n, v in made.items()
                }
            getattr(plugin, table)[t] = {n: Data(v) for n, v in made.items()}
    for ended in (0, 2, 3):
        strategy = SimpleNamespace(
            model=model, clock=SimpleNamespace(train_exp_counter=ended), loss=torch.zeros(1)
        )
        expected = torch.zeros(1, dtype=torch.float64)
        for t in range(ended) if mode == "separate" else [ended - 1][: ended > 0]:
            for name, p in model.named_parameters():
                if name in plugin.saved_params[t]:
                    f = plugin.importances[t][name].expand(p.shape).double()
                    away = p.double() - plugin.saved_params[t][name].expand(p.shape).double()
                    expected = expected + 0.7 * (f * away**2).sum()
        replacements.ewc_before_backward(plugin, strategy)
        torch.testing.assert_close(strategy.loss.double(), expected, rtol=1e-6, atol=1e-6)
        if ended:
            found = torch.autograd.grad(strategy.loss, list(model.parameters()))
            wanted = torch.autograd.grad(expected, list(model.parameters()))
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_the_penalty_of_another_strategy_is_another(mode: str) -> None:
    """A plugin that serves two, whose counts and shapes agree."""
    model = network()
    plugin: Any = EWCPlugin()
    plugin.mode, plugin.ewc_lambda = mode, 0.5
    losses = []
    for scale in (1.0, 3.0):
        made = {n: Data(p.detach() + scale) for n, p in model.named_parameters()}
        plugin.saved_params = {0: made}
        plugin.importances = {0: {n: Data(torch.ones_like(d.data)) for n, d in made.items()}}
        strategy = SimpleNamespace(
            model=model, clock=SimpleNamespace(train_exp_counter=1), loss=torch.zeros(())
        )
        replacements.ewc_before_backward(plugin, strategy)
        losses.append(strategy.loss.item())
    count = sum(p.numel() for p in model.parameters())
    assert losses == pytest.approx([0.5 * count, 0.5 * 9 * count], rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_herding(seed: int) -> None:
    features = torch.randn(60, 7, generator=torch.Generator().manual_seed(seed)).relu()
    features[50] = features[3]
    center = features.double().mean(0)
    picked: list[int] = []
    mean = torch.zeros(7).double()
    for i in range(60):
        candidates = mean * i / (i + 1) + features.double() / (i + 1)
        distances = ((candidates - center) ** 2).sum(1)
        distances[picked] = torch.inf
        picked.append(int(distances.argmin()))
        mean = candidates[picked[-1]]
    assert replacements.sorted_by_herding(None, features) == picked


class Mixed(nn.Module):
    """With batch normalisation, dropout, a shared parameter and one without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.again, self.unused = nn.Linear(6, 6), nn.Linear(2, 2)
        self.again.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.again(F.dropout(self.norm(self.layer(x)), 0.3, self.training))
        return found


def test_the_virtual_step_of_mir() -> None:
    """Bit for bit what a deep copy with other parameters says, and the model stays."""
    torch.manual_seed(0)
    model, x = Mixed(), torch.randn(8, 6)
    before = deepcopy(model.state_dict())
    loss = model(x).square().sum()
    after = deepcopy(model.state_dict())
    assert not torch.equal(before["norm.running_mean"], after["norm.running_mean"])
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    assert grads[-1] is None
    step = replacements.virtual_step(update_temp, MultiTaskModule)(model, grads, 0.13)
    assert isinstance(step, replacements.VirtualStep)
    for training in (True, False):
        model.train(training)
        copied = update_temp(model, grads, 0.13)
        torch.manual_seed(1)
        expected = copied(x)
        torch.manual_seed(1)
        with torch.no_grad():
            found = step(x)
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), after, rtol=0, atol=0)


def test_models_with_task_labels_get_avalanche_s_own() -> None:
    model = MultiTaskModule()
    model.weight = nn.Parameter(torch.ones(2))
    replaced = replacements.virtual_step(update_temp, MultiTaskModule)
    found = replaced(model, [torch.ones(2)], 0.5)
    assert isinstance(found, MultiTaskModule)
    assert found.weight.tolist() == [0.5, 0.5]


def test_the_programme_of_gem() -> None:
    """The optimum of GEMPlugin's programme: its conditions of Karush, Kuhn and Tucker."""
    generator = torch.Generator().manual_seed(0)
    memories = torch.randn(4, 30, generator=generator)
    g = -memories.sum(0) + 0.3 * torch.randn(30, generator=generator)
    plugin = SimpleNamespace(G=memories, memory_strength=0.5)
    found = replacements.gem_solution(plugin, g)
    assert found.dtype == torch.float32
    m = memories.double()
    v = torch.linalg.lstsq(m.T, (found.double() - g.double())[:, None]).solution[:, 0]
    slope = (m @ m.T + 1e-3 * torch.eye(4)) @ v + m @ g.double()
    assert bool((v >= 0.5 - 1e-5).all())
    assert bool((slope >= -1e-3).all())
    assert float(((v - 0.5) * slope).abs().max()) < 1e-3
