"""Avalanche's own plugins with and without `accelerate_avalanche`: the same training. Run by
`make test-avalanche`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("avalanche")
digits = pytest.importorskip("avalanche_digits")

from avalanche.training import plugins as theirs  # noqa: E402
from avalanche.training.storage_policy import (  # noqa: E402
    HerdingSelectionStrategy,
    ParametricBuffer,
)

import clfast  # noqa: E402

pytestmark = pytest.mark.filterwarnings(r"ignore:::avalanche(\.|$)")
every_style = pytest.mark.parametrize("style", ["xyt", "xy"])


@pytest.fixture
def accelerated() -> Iterator[None]:
    with clfast.accelerate_avalanche():
        yield


def trained(plugin: Any, style: str, **options: Any) -> tuple[dict[str, Tensor], float]:
    """Parameters and accuracy."""
    strategy = digits.naive([plugin], epochs=1, **options)
    random.seed(0)
    torch.manual_seed(0)
    accuracy, _ = digits.run(strategy, digits.split_digits(style))
    return {name: p.detach() for name, p in strategy.model.named_parameters()}, accuracy


def compare(make: Any, style: str, **tolerances: float) -> None:
    left, before = trained(make(), style)
    with clfast.accelerate_avalanche() as handle:
        right, after = trained(make(), style)
        assert len(handle.replaced) == 4
    torch.testing.assert_close(left, right, **tolerances)
    assert before == after
    naive, _ = trained(object(), style)
    name = "features.0.weight"
    assert float((naive[name] - left[name]).norm()) > 20 * float((left[name] - right[name]).norm())


@every_style
@pytest.mark.parametrize(
    "options", [{}, {"mode": "online", "decay_factor": 0.5}], ids=["separate", "online"]
)
def test_ewc(options: dict[str, Any], style: str) -> None:
    compare(lambda: theirs.EWCPlugin(100.0, **options), style, rtol=1e-3, atol=1e-4)


@every_style
def test_mir(style: str) -> None:
    """Bit for bit."""
    if style == "xyt":
        compare(lambda: theirs.MIRPlugin(16, 200, 64), style, rtol=0, atol=0)
        return
    left, before = trained(theirs.MIRPlugin(16, 200, 64), style)
    with clfast.accelerate_avalanche():
        right, after = trained(theirs.MIRPlugin(16, 200, 64), style)
    torch.testing.assert_close(left, right, rtol=0, atol=0)
    assert before == after


@every_style
def test_gem(style: str) -> None:
    compare(lambda: theirs.GEMPlugin(20, 0.5), style, rtol=1e-3, atol=1e-4)


def test_gem_without_quadprog(accelerated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import qpsolvers

    def none(*args: Any, **kwargs: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(qpsolvers, "solve_qp", none)
    assert trained(theirs.GEMPlugin(20, 0.5), "xyt")[1] > 0.3


def test_herding() -> None:
    """In float64, whose arithmetic is ours in any case."""

    def plugin(strategy: Any) -> Any:
        selection = HerdingSelectionStrategy(strategy.model, "features")
        policy = ParametricBuffer(60, groupby="class", selection_strategy=selection)
        return theirs.ReplayPlugin(60, storage_policy=policy)

    stored = []
    for use in (False, True):
        strategy = digits.naive([], epochs=1)
        strategy.model.double()
        strategy.optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.05)
        strategy.plugins.insert(0, plugin(strategy))
        strategy.model.register_forward_pre_hook(_widened)
        random.seed(0)
        torch.manual_seed(0)
        handle = clfast.accelerate_avalanche() if use else None
        try:
            for experience in list(digits.split_digits("xyt").train_stream)[:3]:
                strategy.train(experience)
        finally:
            if handle is not None:
                handle.undo()
        policy = strategy.plugins[0].storage_policy
        stored.append(torch.stack([x for x, *_ in policy.buffer]))
    assert len(stored[0]) == 60
    assert torch.equal(*stored)


def _widened(model: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    del model
    return (args[0].double(),)


def test_the_order_of_herding_in_float32(accelerated: None) -> None:
    """That of Avalanche's own arithmetic in float64."""
    model = digits.naive([]).model
    features = torch.randn(300, 64, generator=torch.Generator().manual_seed(0)).relu()
    found = HerdingSelectionStrategy(model, "features").make_sorted_indices_from_features(features)
    (handle,) = [clfast.integrations.avalanche.patches._in_use]
    assert handle is not None
    handle.undo()
    expected = HerdingSelectionStrategy(model, "features").make_sorted_indices_from_features(
        features.double()
    )
    assert found == expected
