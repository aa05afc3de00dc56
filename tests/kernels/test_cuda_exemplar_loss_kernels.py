"""The CUDA text of losses and heads of learners with exemplars in the SIMT emulator; see
``test_cuda_kernels.py``."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cuda_orders import in_every_order
from exemplar_loss_problems import KERNELS, all_variants, make
from guarded_arrays import Array
from kernel_problems import Sizes, assert_near

every_loss_kernel = pytest.mark.parametrize("kernel", KERNELS)


def run(cuda: ModuleType, problem: Any) -> list[Array]:
    kernel = getattr(cuda, problem.kernel)
    return in_every_order(cuda, problem.outputs(), lambda *out: kernel(problem, *out))


def assert_right(cuda: ModuleType, problem: Any) -> None:
    assert_near(problem, run(cuda, problem), problem.oracle())


@every_loss_kernel
@pytest.mark.parametrize(
    ("axis", "size"),
    [
        *(("batch", size) for size in (1, 7, 8, 9, 300)),
        *(("classes", size) for size in (2, 31, 32, 33, 255, 256, 257)),
        *(("dim", size) for size in (1, 31, 33, 130)),
    ],
)
def test_tails(
    cuda: ModuleType, kernel: str, axis: str, size: int, rng: np.random.Generator
) -> None:
    assert_right(cuda, make(kernel, replace(Sizes(batch=2), **{axis: size}), "float32", rng))


@every_loss_kernel
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_path(cuda: ModuleType, kernel: str, dtype: str, rng: np.random.Generator) -> None:
    for problem in all_variants(make(kernel, Sizes(batch=5, classes=40), dtype, rng)):
        assert_right(cuda, problem)


def test_rows_without_a_direction(cuda: ModuleType, rng: np.random.Generator) -> None:
    problem = make("cosine_rows", Sizes(batch=3), "float32", rng)
    problem.rows[0], problem.rows[1] = 0, 1e-20
    for row in range(3):
        alone = slice(row, row + 1)
        one = replace(problem, rows=problem.rows[alone], slopes=problem.slopes[alone], factor=None)
        assert_right(cuda, one)


def test_labels_and_classes_out_of_range_are_left_out(
    cuda: ModuleType, rng: np.random.Generator
) -> None:
    ranking = make("margin_ranking", Sizes(batch=6, classes=9), "float32", rng)
    labels, listed = np.array([1, -1, 2, 9, 4, 2**40]), np.array([3, -7, 0, 9, 2**40])
    got = run(cuda, replace(ranking, labels=labels, new_classes=listed, k=2))
    kept = [0, 2, 4]
    good = replace(
        ranking, cosines=ranking.cosines[kept], labels=labels[kept], new_classes=listed[[0, 2]], k=2
    )
    wanted = good.oracle()
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-6)
    np.testing.assert_allclose(got[1][kept], wanted[1], rtol=1e-6)
    assert not got[1][[1, 3, 5]].any()
    correction = make("bias_correct", Sizes(batch=2, classes=9), "float32", rng)
    for ours, theirs in zip(
        run(cuda, replace(correction, new_classes=listed)),
        replace(correction, new_classes=listed[[0, 2]]).oracle(),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_nan_travels_on(cuda: ModuleType, rng: np.random.Generator) -> None:
    problem = make("margin_ranking", Sizes(batch=3, classes=9), "float32", rng)
    problem.labels[:] = 1
    for column in (0, 1, 3):  # a new class, the own one, a new class
        cosines = problem.cosines.copy()
        cosines[2, column] = np.nan
        assert np.isnan(run(cuda, replace(problem, cosines=cosines))[0]).all()
    cosines = problem.cosines.copy()
    cosines[2, 2] = np.nan  # of another old class: does not count
    assert not np.isnan(run(cuda, replace(problem, cosines=cosines))[0]).any()
