"""The raw CPU kernels of consolidation at every SIMD level, in buffers of exactly their size."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import TypeAlias

import numpy as np
import pytest
from consolidation_problems import (
    Gem,
    PathIntegral,
    Penalty,
    Projection,
    conflicting,
    opposed,
    path_integrals,
    penalties,
)
from cpu_cases import TAILS, every_dtype
from guarded_arrays import Array, call_guarded
from kernel_problems import assert_near

Problem: TypeAlias = Projection | Gem | Penalty | PathIntegral


def run(cpu: ModuleType, level: int, problem: Problem, pieces: int = 1) -> list[Array]:
    kernel = getattr(cpu, problem.kernel)
    return call_guarded(problem.outputs(), lambda *out: kernel(level, problem, pieces, *out))


def assert_right(cpu: ModuleType, problem: Problem, pieces: int = 1) -> None:
    wanted = problem.oracle()
    for level in range(cpu.best_level + 1):
        assert_near(problem, run(cpu, level, problem, pieces), wanted, f"at level {level}")


@every_dtype
@pytest.mark.parametrize("size", [*TAILS, 1000])
def test_tensors_of_any_size(
    cpu: ModuleType, dtype: str, size: int, rng: np.random.Generator
) -> None:
    for sizes in ((size,), (1, size, 0, 3), (0, 0, size), (size, size, 0)):
        assert_right(cpu, opposed(sizes, dtype, rng))


@every_dtype
@pytest.mark.parametrize("pieces", [2, 7, 50])
def test_ranges_across_tensors(
    cpu: ModuleType, dtype: str, pieces: int, rng: np.random.Generator
) -> None:
    assert_right(cpu, opposed((*TAILS, 0, 1, 1, *TAILS), dtype, rng), pieces)


def test_gradients_that_agree_are_left(cpu: ModuleType, rng: np.random.Generator) -> None:
    problem = opposed((5, 40), "float32", rng)
    for other in (-problem.reference, 0 * problem.reference, problem.grads):
        agreeing = replace(problem, reference=other)
        for level in range(cpu.best_level + 1):
            assert run(cpu, level, agreeing)[0].tobytes() == problem.grads.tobytes()


@every_dtype
@pytest.mark.parametrize("tasks", [1, 2, 3, 8, 19])
@pytest.mark.parametrize("columns", [1, 31, 33, 511, 512, 513, 1100])
def test_gem_of_any_size(
    cpu: ModuleType, dtype: str, tasks: int, columns: int, rng: np.random.Generator
) -> None:
    for margin in (0.0, 0.5):
        assert_right(cpu, conflicting(tasks, columns, dtype, rng, margin))


@pytest.mark.parametrize("pieces", [2, 7])
def test_gem_in_pieces(cpu: ModuleType, pieces: int, rng: np.random.Generator) -> None:
    assert_right(cpu, conflicting(5, 700, "float32", rng), pieces)


@every_dtype
@pytest.mark.parametrize("size", [*TAILS, 1000])
def test_penalties_of_any_size(
    cpu: ModuleType, dtype: str, size: int, rng: np.random.Generator
) -> None:
    for sizes in ((size,), (1, size, 0, 3), (0, 0, size), (size, size, 0)):
        for problem in penalties(sizes, dtype, rng):
            assert_right(cpu, problem, pieces=8192)


@every_dtype
@pytest.mark.parametrize("part", [1, 16, 48])
def test_parts_of_penalties(
    cpu: ModuleType, dtype: str, part: int, rng: np.random.Generator
) -> None:
    """Gradients have the same bits, wherever a tensor is cut."""
    for problem in penalties((100, 101, 103), dtype, rng):
        assert_right(cpu, problem, part)
        for level in range(cpu.best_level + 1):
            whole, cut = run(cpu, level, problem, 8192), run(cpu, level, problem, part)
            assert whole[-1].tobytes() == cut[-1].tobytes()


def test_a_value_is_the_same_without_gradients(cpu: ModuleType, rng: np.random.Generator) -> None:
    problem = penalties((70, 1, 33), "float32", rng)[0]
    for level in range(cpu.best_level + 1):
        with_gradients, alone = run(cpu, level, problem, 8192)[0]
        assert with_gradients == alone


def test_nan_of_a_penalty_stays_in_its_place(cpu: ModuleType, rng: np.random.Generator) -> None:
    for problem in penalties((33, 40), "float32", rng):
        problem.importances[5], problem.params[72] = np.nan, np.nan
        for level in range(cpu.best_level + 1):
            grads = run(cpu, level, problem, 8192)[-1]
            assert np.flatnonzero(np.isnan(grads)).tolist() == [5, 72]


@every_dtype
@pytest.mark.parametrize("size", [*TAILS, 1000])
def test_path_integrals_of_any_size(
    cpu: ModuleType, dtype: str, size: int, rng: np.random.Generator
) -> None:
    """With the same bits, wherever a tensor is cut."""
    for sizes in ((size,), (1, size, 0, 3)):
        for problem in path_integrals(sizes, dtype, rng):
            assert_right(cpu, problem, pieces=8192)
            for level in range(cpu.best_level + 1):
                whole, cut = run(cpu, level, problem, 8192), run(cpu, level, problem, 48)
                assert whole[0].tobytes() == cut[0].tobytes()
