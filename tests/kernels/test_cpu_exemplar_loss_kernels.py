"""The raw CPU kernels of losses and heads of learners with exemplars at every SIMD level, in
buffers of exactly their size."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cpu_cases import TAILS, every_dtype
from exemplar_loss_problems import KERNELS, all_variants, make
from guarded_arrays import Array, call_guarded
from kernel_problems import Sizes, assert_near

every_loss_kernel = pytest.mark.parametrize("kernel", KERNELS)


def run(cpu: ModuleType, level: int, problem: Any, pieces: int = 1) -> list[Array]:
    kernel = getattr(cpu, problem.kernel)
    return call_guarded(problem.outputs(), lambda *out: kernel(level, problem, pieces, *out))


def assert_right(cpu: ModuleType, problem: Any) -> None:
    wanted = problem.oracle()
    for level in range(cpu.best_level + 1):
        assert_near(problem, run(cpu, level, problem), wanted, f"at level {level}")


@every_loss_kernel
@every_dtype
@pytest.mark.parametrize("axis", ["classes", "dim"])
@pytest.mark.parametrize("size", [2, *TAILS, 300])
def test_tails(
    cpu: ModuleType, kernel: str, dtype: str, axis: str, size: int, rng: np.random.Generator
) -> None:
    assert_right(cpu, make(kernel, replace(Sizes(), **{axis: size}), dtype, rng))


@every_loss_kernel
@every_dtype
def test_every_path(cpu: ModuleType, kernel: str, dtype: str, rng: np.random.Generator) -> None:
    for problem in all_variants(make(kernel, Sizes(batch=7, classes=20), dtype, rng)):
        assert_right(cpu, problem)


@every_loss_kernel
@pytest.mark.parametrize("pieces", [2, 5, 9])
def test_pieces(
    cpu: ModuleType, level: int, kernel: str, pieces: int, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(batch=7, classes=20), "float32", rng)
    for whole, parts in zip(
        run(cpu, level, problem), run(cpu, level, problem, pieces), strict=True
    ):
        assert whole.tobytes() == parts.tobytes()


@every_dtype
def test_rows_without_a_direction(cpu: ModuleType, dtype: str, rng: np.random.Generator) -> None:
    problem = make("cosine_rows", Sizes(batch=3), dtype, rng)
    problem.rows[0], problem.rows[1] = 0, 1e-20
    # They are times 1e12 or so, and errors are measured against the largest.
    for row in range(3):
        alone = slice(row, row + 1)
        assert_right(cpu, replace(problem, rows=problem.rows[alone], slopes=problem.slopes[alone]))
