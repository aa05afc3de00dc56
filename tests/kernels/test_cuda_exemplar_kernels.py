"""The exemplar kernels' CUDA text in the SIMT emulator; see ``test_cuda_kernels.py``."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from cuda_orders import in_every_order
from exemplar_problems import Herding, classes_of, herding
from guarded_arrays import Array


def run(cuda: ModuleType, problem: Herding) -> list[Array]:
    return in_every_order(cuda, problem.outputs(), lambda *out: cuda.herding(problem, *out))


def assert_right(cuda: ModuleType, problem: Herding) -> None:
    for ours, theirs in zip(run(cuda, problem), problem.oracle(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dim", [0, 1, 31, 32, 33, 257, 600])
def test_herding_of_every_width(
    cuda: ModuleType, dtype: str, dim: int, rng: np.random.Generator
) -> None:
    assert_right(cuda, classes_of([1, 3, 8, 21], dim, dtype, rng))


def test_herding_of_large_classes(cuda: ModuleType, rng: np.random.Generator) -> None:
    assert_right(cuda, classes_of([300, 1, 70], 5, "float32", rng, m=9))


def test_herding_of_equal_rows(cuda: ModuleType, rng: np.random.Generator) -> None:
    features = rng.standard_normal((4, 6)).astype(np.float32)[rng.integers(0, 4, 60)]
    features[::9] = 0
    assert_right(cuda, herding(features, np.zeros(60, np.int64), 60))


def test_herding_picks_what_it_cannot_score_last(
    cuda: ModuleType, rng: np.random.Generator
) -> None:
    """Such a row makes every score of its class NaN: all are picked once, none twice."""
    problem = classes_of([12, 9], 4, "float32", rng, m=12)
    problem.features[problem.members[3], 1] = np.nan
    picks, _ = run(cuda, problem)
    assert sorted(picks) == sorted(problem.members)
    np.testing.assert_array_equal(picks[12:], problem.oracle()[0][12:])
