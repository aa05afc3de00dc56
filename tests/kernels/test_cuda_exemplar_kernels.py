"""The exemplar kernels' CUDA text in the SIMT emulator; see ``test_cuda_kernels.py``."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from cuda_orders import in_every_order
from exemplar_problems import Descent, Herding, classes_of, descent, herding
from guarded_arrays import Array
from kernel_problems import assert_near


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
    wanted, _ = problem.oracle()
    problem.features[problem.members[3], 1] = np.nan
    picks, _ = run(cuda, problem)
    assert sorted(picks[:12]) == sorted(problem.members[:12])
    np.testing.assert_array_equal(picks[12:], wanted[12:])


def assert_descends(cuda: ModuleType, problem: Descent) -> None:
    got = in_every_order(cuda, problem.outputs(), lambda *out: cuda.softmax_descent(problem, *out))
    assert_near(problem, got, problem.oracle())


@pytest.mark.parametrize("size", [1, 16, 63, 64, 65])
def test_descent_of_every_size(cuda: ModuleType, size: int, rng: np.random.Generator) -> None:
    assert_descends(cuda, descent(size, 5, 3, "float32", rng, steps=2))
    assert_descends(cuda, descent(7, size, 3, "float32", rng, steps=2, bias=False))
    assert_descends(cuda, descent(5, 4, size, "float32", rng, steps=2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_descent_of_several_steps(
    cuda: ModuleType, dtype: str, steps: int, bias: bool, rng: np.random.Generator
) -> None:
    assert_descends(cuda, descent(9, 6, 4, dtype, rng, steps, bias))


def test_descent_of_many_samples(cuda: ModuleType, rng: np.random.Generator) -> None:
    assert_descends(cuda, descent(270, 3, 2, "float32", rng, steps=2))
