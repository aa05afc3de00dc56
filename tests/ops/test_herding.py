"""Herding against the definition of iCaRL's Algorithm 4, and against its authors' shortcut."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import clfast
from clfast.ops import herding

Array = npt.NDArray[np.float64]


def greedy(features: Tensor, m: int) -> tuple[list[int], list[float]]:
    """argmin ||mu - (S + x) / k||, and by how much the second best is worse, of its own length."""
    x = features.double().numpy()
    mean, total = x.mean(0), np.zeros(x.shape[1])
    picks: list[int] = []
    margins: list[float] = []
    for k in range(1, min(m, len(x)) + 1):
        away = np.linalg.norm(mean - (total + x) / k, axis=1)
        away[picks] = np.inf
        order = np.argsort(away, kind="stable")
        picks.append(int(order[0]))
        margins.append(float(away[order[1]] - away[order[0]]) if len(x) > k else np.inf)
        total = total + x[order[0]]
    return picks, margins


def shortcut(features: Tensor, m: int) -> list[int]:
    """As the authors' code has it: w += mu - x, and the largest <w, x> among those not taken."""
    x = features.double().numpy()
    mean = x.mean(0)
    w, picks = mean.copy(), []
    for _ in range(min(m, len(x))):
        products = x @ w
        products[picks] = -np.inf
        picks.append(int(products.argmax()))
        w = w + mean - x[picks[-1]]
    return picks


def clusters(n: int, d: int, rng: torch.Generator) -> Tensor:
    centres = 10 * torch.randn(5, d, generator=rng)
    return centres[torch.arange(n) % 5] + 0.05 * torch.randn(n, d, generator=rng)


KINDS: dict[str, Any] = {
    "gaussian": lambda n, d, rng: torch.randn(n, d, generator=rng),
    "relu": lambda n, d, rng: torch.randn(n, d, generator=rng).relu(),
    "clustered": clusters,
    "unit": lambda n, d, rng: F.normalize(torch.randn(n, d, generator=rng), dim=1),
    "offset": lambda n, d, rng: 100 + torch.randn(n, d, generator=rng),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "d"), [(300, 64), (301, 513), (40, 3), (700, 16)])
def test_every_pick_is_that_of_float64(
    kind: str, dtype: torch.dtype, n: int, d: int, simd_level: str, rng: torch.Generator
) -> None:
    features = KINDS[kind](n, d, rng).to(dtype)
    (picks,) = herding(features, torch.zeros(n, dtype=torch.int64), 25)
    wanted, margins = greedy(features, 25)
    for got, expected, margin in zip(picks.tolist(), wanted, margins, strict=True):
        # Where the oracle itself cannot tell two apart, what follows may be another sequence.
        if margin < 1e-11 and got != expected:
            assert dtype == torch.bfloat16  # coarse features tie in earnest
            return
        assert got == expected


@pytest.mark.parametrize("n", [1, 3, 37, 260])
def test_a_whole_class_is_picked_in_order(n: int, rng: torch.Generator) -> None:
    features = torch.randn(n, 8, generator=rng)
    (picks,) = herding(features, torch.zeros(n, dtype=torch.int64), n + 3)
    assert picks.tolist() == greedy(features, n)[0]
    assert sorted(picks.tolist()) == list(range(n))


def test_unit_features_are_picked_as_icarl_does(rng: torch.Generator) -> None:
    features = F.normalize(torch.randn(500, 64, generator=rng).relu(), dim=1)
    (picks,) = herding(features, torch.zeros(500, dtype=torch.int64), 40)
    assert picks.tolist() == shortcut(features, 40)
    features = features * torch.linspace(0.5, 1.5, 500)[:, None]
    (picks,) = herding(features, torch.zeros(500, dtype=torch.int64), 40)
    assert picks.tolist() != shortcut(features, 40)


@pytest.mark.parametrize("classes", [1, 2, 30])
def test_classes_are_independent(classes: int, rng: torch.Generator) -> None:
    labels = torch.randint(0, classes, (900,), generator=rng)
    labels[:3] = classes + 5  # a class of three, and none with the numbers before it
    labels[700] = 10**15  # far away, and alone
    features = torch.randn(900, 20, generator=rng)
    picks = herding(features, labels, 7)
    assert len(picks) == len(labels.unique())
    for label, own in zip(labels.unique().tolist(), picks, strict=True):
        members = (labels == label).nonzero()[:, 0]
        assert own.dtype == torch.int64
        assert own.tolist() == members[greedy(features[members], 7)[0]].tolist()


@pytest.mark.parametrize("labels", [[2**63 - 1, -(2**63), 0], [5, -5, 7]])
def test_any_numbers_are_labels(labels: list[int]) -> None:
    given = torch.tensor([labels[i % 3] for i in range(12)])
    picks = herding(torch.arange(12.0)[:, None], given, 2)
    order = sorted(range(3), key=lambda i: labels[i])
    assert [[row % 3 for row in own.tolist()] for own in picks] == [[i, i] for i in order]


def test_ties_go_to_the_smaller_row() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    labels = torch.zeros(5, dtype=torch.int64)
    for dtype in (torch.float32, torch.float64):
        assert herding(features.to(dtype), labels, 5)[0].tolist() == [4, 0, 1, 2, 3]
    same = torch.full((600, 40), 0.3)
    assert herding(same, torch.zeros(600, dtype=torch.int64), 9)[0].tolist() == list(range(9))
    assert herding(torch.zeros(5, 3), labels, 3)[0].tolist() == [0, 1, 2]
    assert herding(torch.zeros(5, 0), labels, 3)[0].tolist() == [0, 1, 2]


def test_samples_as_far_from_their_mean_tie(rng: torch.Generator) -> None:
    """A class of two, for one: rounding does not choose."""
    labels = torch.arange(200) % 100
    for dtype in (torch.float32, torch.float64):
        features = torch.randn(200, 33, generator=rng, dtype=dtype)
        for row, own in enumerate(herding(features, labels, 2)):
            assert own.tolist() == [row, row + 100]


def test_differences_below_float32_decide(rng: torch.Generator) -> None:
    """Copies of one row that differ in their last digits: float32 products cannot rank them."""
    row = 1 + torch.randn(64, generator=rng)
    features = row.repeat(200, 1)
    features[torch.arange(200), torch.arange(200) % 64] *= 1 + 2.0**-18 * torch.arange(200) / 10
    (picks,) = herding(features, torch.zeros(200, dtype=torch.int64), 20)
    wanted, _ = greedy(features, 20)
    assert picks.tolist() == wanted


@pytest.mark.parametrize("scale", [1e-30, 1e-19, 1e18, 1e30])
def test_numbers_whose_squares_float32_cannot_hold(scale: float, rng: torch.Generator) -> None:
    features = torch.randn(90, 12, generator=rng) * scale
    labels = torch.zeros(90, dtype=torch.int64)
    assert torch.equal(
        herding(features, labels, 10)[0], herding(features.double() / scale, labels, 10)[0]
    )


def test_the_first_feature_that_cannot_be_scored_is_named(rng: torch.Generator) -> None:
    features = torch.randn(50, 4, generator=rng, dtype=torch.float64)
    labels = torch.arange(50) % 3
    for bad in (float("nan"), float("inf"), 1e200):
        features[31, 2] = features[44, 1] = bad
        for name in ("compiled", "reference"):
            with clfast.backend(name), pytest.raises(RuntimeError, match=r"features\[31\] holds"):
                herding(features, labels, 3)


def test_no_samples() -> None:
    assert herding(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), 3) == []


def test_threads_share_the_rows_of_one_class(rng: torch.Generator) -> None:
    features = torch.randn(5000, 48, generator=rng)
    labels = torch.zeros(5000, dtype=torch.int64)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(herding(features, labels, 12)[0].tolist())
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2] == greedy(features, 12)[0]


def test_a_whole_graph_is_refused_by_name(rng: torch.Generator) -> None:
    features, labels = torch.randn(9, 3, generator=rng), torch.arange(9) % 2
    compiled = torch.compile(herding, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"clfast::herding: the number of classes is in the labels"):
        compiled(features, labels, 2)
    torch.compiler.reset()
