"""The raw CPU kernels of the masked steps at every SIMD level, in buffers of exactly their size."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from cpu_cases import TAILS, every_dtype
from guarded_arrays import Array, call_guarded
from kernel_problems import assert_near
from optimizer_problems import BITS, BYTES, MAKERS, Problem, adam, assert_reserved_stay

every_step = pytest.mark.parametrize("step", MAKERS)


def run(cpu: ModuleType, level: int, problem: Problem, part: int = 8192) -> list[Array]:
    kernel = getattr(cpu, problem.kernel)
    return call_guarded(problem.outputs(), lambda *out: kernel(level, problem, part, *out))


def assert_right(cpu: ModuleType, problem: Problem, part: int = 8192) -> None:
    wanted = problem.oracle()
    for level in range(cpu.best_level + 1):
        got = run(cpu, level, problem, part)
        assert_near(problem, got, wanted, f"at level {level}")
        assert_reserved_stay(problem, got)


@every_step
@every_dtype
@pytest.mark.parametrize("size", [*TAILS, 1000])
def test_tensors_of_any_size(
    cpu: ModuleType, step: str, dtype: str, size: int, rng: np.random.Generator
) -> None:
    for sizes in ((size, size, size), (0, size, 3), (1, 0, size)):
        for problem in MAKERS[step](sizes, dtype, rng):
            assert_right(cpu, problem)


@every_step
@every_dtype
@pytest.mark.parametrize("part", [16, 48])
def test_parts_of_tensors(
    cpu: ModuleType, step: str, dtype: str, part: int, rng: np.random.Generator
) -> None:
    for problem in MAKERS[step]((100, 101, 103), dtype, rng):
        assert_right(cpu, problem, part)
        for level in range(cpu.best_level + 1):
            whole, parts = run(cpu, level, problem), run(cpu, level, problem, part)
            if step != "norm":
                assert all(a.tobytes() == b.tobytes() for a, b in zip(whole, parts, strict=True))


@every_step
@every_dtype
def test_bytes_and_bits_give_the_same_bits(
    cpu: ModuleType, step: str, dtype: str, rng: np.random.Generator
) -> None:
    for problem in MAKERS[step]((3, 70, 129, 16), dtype, rng):
        for level in range(cpu.best_level + 1):
            results = [
                run(cpu, level, replace(problem, layouts=np.full(4, layout)))
                for layout in (BYTES, BITS)
            ]
            assert all(a.tobytes() == b.tobytes() for a, b in zip(*results, strict=True))


def test_nan_in_free_gradients_reaches_the_state(cpu: ModuleType, rng: np.random.Generator) -> None:
    problem = adam((33, 40), "float32", rng)[1]
    free = np.flatnonzero(~problem.kept())
    problem.grads[free[5]] = np.nan
    for level in range(cpu.best_level + 1):
        for got in run(cpu, level, problem):
            assert np.flatnonzero(np.isnan(got)).tolist() == [free[5]]
