"""The consolidation kernels' CUDA text in the SIMT emulator; see ``test_cuda_kernels.py``."""

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
from cuda_orders import in_every_order
from guarded_arrays import Array
from kernel_problems import assert_near

Problem: TypeAlias = Projection | Gem | Penalty | PathIntegral


def run(cuda: ModuleType, problem: Problem) -> list[Array]:
    kernel = getattr(cuda, problem.kernel)
    return in_every_order(cuda, problem.outputs(), lambda *out: kernel(problem, *out))


def assert_right(cuda: ModuleType, problem: Problem) -> None:
    assert_near(problem, run(cuda, problem), problem.oracle())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 31, 32, 255, 256, 257, 4095, 4097])
def test_tensors_of_any_size(
    cuda: ModuleType, dtype: str, size: int, rng: np.random.Generator
) -> None:
    for sizes in ((size,), (3, 0, size, 1)):
        assert_right(cuda, opposed(sizes, dtype, rng))


@pytest.mark.parametrize("tensors", [127, 128, 129, 300])
def test_lists_of_several_launches(
    cuda: ModuleType, tensors: int, rng: np.random.Generator
) -> None:
    sizes = rng.integers(0, 40, tensors).tolist()
    assert_right(cuda, opposed(sizes, "float32", rng))
    sizes[:128] = [0] * len(sizes[:128])  # a launch with nothing to do is none
    assert_right(cuda, opposed(sizes, "float32", rng))


@pytest.mark.parametrize("bad", [None, np.nan])
def test_gradients_that_do_not_disagree_are_left(
    cuda: ModuleType, bad: float | None, rng: np.random.Generator
) -> None:
    problem = opposed((5, 40), "float32", rng)
    if bad is not None:
        problem.reference[7] = bad
        assert run(cuda, problem)[0].tobytes() == problem.grads.tobytes()
        return
    for other in (-problem.reference, 0 * problem.reference, problem.grads):
        left = run(cuda, replace(problem, reference=other))
        assert left[0].tobytes() == problem.grads.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("tasks", "columns"), [(1, 1), (1, 300), (3, 255), (4, 256), (5, 257), (9, 4100)]
)
def test_gem_of_any_size(
    cuda: ModuleType, dtype: str, tasks: int, columns: int, rng: np.random.Generator
) -> None:
    for margin in (0.0, 0.5):
        assert_right(cuda, conflicting(tasks, columns, dtype, rng, margin))


def test_gem_without_a_conflict(cuda: ModuleType, rng: np.random.Generator) -> None:
    problem = conflicting(5, 300, "float32", rng)
    signs = np.sign(problem.memory_grads @ problem.grad)[:, None]
    agreeing = replace(problem, memory_grads=signs * problem.memory_grads)
    assert run(cuda, agreeing)[0].tobytes() == problem.grad.tobytes()


def test_nan_reaches_what_gem_makes_of_it(cuda: ModuleType, rng: np.random.Generator) -> None:
    problem = conflicting(5, 300, "float32", rng)
    problem.memory_grads[2, 7] = np.nan
    assert np.isnan(run(cuda, problem)[0]).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 31, 255, 256, 257, 4095, 4097])
def test_penalties_of_any_size(
    cuda: ModuleType, dtype: str, size: int, rng: np.random.Generator
) -> None:
    for sizes in ((size,), (3, 0, size, 1)):
        for problem in penalties(sizes, dtype, rng):
            assert_right(cuda, problem)


@pytest.mark.parametrize("tensors", [95, 96, 97, 200])
def test_penalties_of_several_launches(
    cuda: ModuleType, tensors: int, rng: np.random.Generator
) -> None:
    sizes = rng.integers(0, 40, tensors).tolist()
    for problem in penalties(sizes, "float32", rng):
        assert_right(cuda, problem)
    sizes[:96] = [0] * len(sizes[:96])  # a launch with nothing to do is none
    for problem in penalties(sizes, "float32", rng):
        assert_right(cuda, problem)


def test_nan_of_a_penalty_reaches_its_value(cuda: ModuleType, rng: np.random.Generator) -> None:
    for problem in penalties((33, 40), "float32", rng):
        problem.anchors[5] = np.nan
        *values, grads = run(cuda, problem)
        assert np.flatnonzero(np.isnan(grads)).tolist() == [5]
        assert all(np.isnan(value).all() for value in values)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 31, 255, 256, 257, 4095, 4097])
def test_path_integrals_of_any_size(
    cuda: ModuleType, dtype: str, size: int, rng: np.random.Generator
) -> None:
    for sizes in ((size,), (3, 0, size, 1)):
        for problem in path_integrals(sizes, dtype, rng):
            assert_right(cuda, problem)


@pytest.mark.parametrize("tensors", [95, 96, 97, 200])
def test_path_integrals_of_several_launches(
    cuda: ModuleType, tensors: int, rng: np.random.Generator
) -> None:
    sizes = rng.integers(0, 40, tensors).tolist()
    for problem in path_integrals(sizes, "float32", rng):
        assert_right(cuda, problem)
    sizes[:96] = [0] * len(sizes[:96])  # a launch with nothing to do is none
    for problem in path_integrals(sizes, "float32", rng):
        assert_right(cuda, problem)
