"""The CUDA text of the masked steps in the SIMT emulator; see ``test_cuda_kernels.py``."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from cuda_orders import in_every_order
from guarded_arrays import Array
from kernel_problems import assert_near
from optimizer_problems import BITS, BYTES, MAKERS, Problem, adam, assert_reserved_stay

every_step = pytest.mark.parametrize("step", MAKERS)


def run(cuda: ModuleType, problem: Problem) -> list[Array]:
    kernel = getattr(cuda, problem.kernel)
    return in_every_order(cuda, problem.outputs(), lambda *out: kernel(problem, *out))


def assert_right(cuda: ModuleType, problem: Problem) -> None:
    got = run(cuda, problem)
    assert_near(problem, got, problem.oracle())
    assert_reserved_stay(problem, got)


@every_step
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 31, 257, 4097])
def test_tensors_of_any_size(
    cuda: ModuleType, step: str, dtype: str, size: int, rng: np.random.Generator
) -> None:
    for problem in MAKERS[step]((3, size, size, 0), dtype, rng):
        assert_right(cuda, problem)


@every_step
@pytest.mark.parametrize("tensors", [53, 54, 161])
def test_lists_of_several_launches(
    cuda: ModuleType, step: str, tensors: int, rng: np.random.Generator
) -> None:
    sizes = rng.integers(0, 30, tensors).tolist()
    for problem in MAKERS[step](sizes, "float32", rng):
        assert_right(cuda, problem)
    sizes[:54] = [0] * len(sizes[:54])  # a launch with nothing to do is none
    assert_right(cuda, MAKERS[step](sizes, "float32", rng)[0])


@every_step
def test_bytes_and_bits_give_the_same_bits(
    cuda: ModuleType, step: str, rng: np.random.Generator
) -> None:
    for problem in MAKERS[step]((3, 300, 16), "float32", rng):
        results = [
            run(cuda, replace(problem, layouts=np.full(3, layout))) for layout in (BYTES, BITS)
        ]
        assert all(a.tobytes() == b.tobytes() for a, b in zip(*results, strict=True))


def test_nan_in_free_gradients_reaches_the_state(
    cuda: ModuleType, rng: np.random.Generator
) -> None:
    problem = adam((33, 40), "float32", rng)[1]
    free = np.flatnonzero(~problem.kept())
    problem.grads[free[5]] = np.nan
    for got in run(cuda, problem):
        assert np.flatnonzero(np.isnan(got)).tolist() == [free[5]]
