"""The raw CPU kernels of exemplars at every SIMD level, in buffers of exactly their size."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from cpu_cases import TAILS, every_dtype
from exemplar_problems import Descent, Herding, classes_of, descent, herding
from guarded_arrays import Array, call_guarded
from kernel_problems import assert_near


def picks_of(cpu: ModuleType, level: int, problem: Herding, pieces: int = 1) -> list[Array]:
    """Of every class; -1 where it has fewer members than picks."""
    found = []
    for label in np.unique(problem.sorted):
        members = problem.members[problem.sorted == label]
        given = (problem.features, members, problem.m, pieces)
        # How many picks there are is known: the output has as many places.
        found += call_guarded(
            [((problem.m,), np.int64)], lambda out, given=given: cpu.herding(level, *given, out)
        )
    return found


def assert_right(cpu: ModuleType, problem: Herding, pieces: int = 1) -> None:
    picks, sizes = problem.oracle()
    for level in range(cpu.best_level + 1):
        found = picks_of(cpu, level, problem, pieces)
        for first, own in zip(np.flatnonzero(sizes), found, strict=True):
            wanted = np.full(problem.m, -1)
            count = min(problem.m, sizes[first])
            wanted[:count] = picks[first : first + count]
            np.testing.assert_array_equal(own, wanted, f"at level {level}")


@every_dtype
@pytest.mark.parametrize("dim", [*TAILS, 300, 513, 1025])
def test_herding_of_every_width(
    cpu: ModuleType, dtype: str, dim: int, rng: np.random.Generator
) -> None:
    assert_right(cpu, classes_of([1, 2, 3, 4, 5, 30], dim, dtype, rng))


@every_dtype
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_herding_of_many_chunks(
    cpu: ModuleType, dtype: str, pieces: int, rng: np.random.Generator
) -> None:
    assert_right(cpu, classes_of([255, 256, 257, 1300], 9, dtype, rng, m=20), pieces)


@every_dtype
def test_herding_of_equal_rows(cpu: ModuleType, dtype: str, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((7, 33)).astype(dtype)
    rows[2] = 0
    features = rows[rng.integers(0, 7, 400)]
    assert_right(cpu, herding(features, np.zeros(400, np.int64), 30))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
def test_herding_refuses_what_it_cannot_score(
    cpu: ModuleType, level: int, value: float, rng: np.random.Generator
) -> None:
    problem = classes_of([40], 5, "float64", rng)
    given = (problem.members, problem.m, 1, np.empty(problem.m, np.int64))
    assert cpu.herding(level, problem.features, *given)
    problem.features[17, 3] = value
    assert not cpu.herding(level, problem.features, *given)


def steps_of(cpu: ModuleType, level: int, problem: Descent, pieces: int = 1) -> list[Array]:
    return call_guarded(
        problem.outputs(), lambda *out: cpu.softmax_descent(level, problem, pieces, *out)
    )


def assert_descends(cpu: ModuleType, problem: Descent) -> None:
    wanted = problem.oracle()
    for level in range(cpu.best_level + 1):
        assert_near(problem, steps_of(cpu, level, problem), wanted, f"at level {level}")


@every_dtype
@pytest.mark.parametrize("size", TAILS)
def test_descent_of_every_size(
    cpu: ModuleType, dtype: str, size: int, rng: np.random.Generator
) -> None:
    assert_descends(cpu, descent(size, 9, 4, dtype, rng))
    assert_descends(cpu, descent(21, size, 3, dtype, rng, bias=False))
    assert_descends(cpu, descent(11, 6, size, dtype, rng))


@pytest.mark.parametrize("dim", [9, 10, 40])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_descent_in_samples_and_in_weights(
    cpu: ModuleType, dim: int, bias: bool, steps: int, rng: np.random.Generator
) -> None:
    assert_descends(cpu, descent(20, dim, 5, "float32", rng, steps, bias))


@pytest.mark.parametrize("pieces", [2, 3, 7])
@pytest.mark.parametrize("dim", [20, 90])
def test_descent_in_pieces(
    cpu: ModuleType, level: int, dim: int, pieces: int, rng: np.random.Generator
) -> None:
    problem = descent(150, dim, 7, "float32", rng)
    for whole, parts in zip(
        steps_of(cpu, level, problem), steps_of(cpu, level, problem, pieces), strict=True
    ):
        assert whole.tobytes() == parts.tobytes()
