"""The recall kernels' CUDA text in the SIMT emulator; see ``test_cuda_kernels.py``."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cuda_orders import in_every_order
from guarded_arrays import Array
from kernel_problems import Sizes, assert_near
from recall_problems import RECALL, all_variants, make

every_recall_kernel = pytest.mark.parametrize("kernel", RECALL)


def run(cuda: ModuleType, problem: Any) -> list[Array]:
    kernel = getattr(cuda, problem.kernel)
    return in_every_order(cuda, problem.outputs(), lambda *out: kernel(problem, *out))


def assert_right(cuda: ModuleType, problem: Any) -> None:
    assert_near(problem, run(cuda, problem), problem.oracle())


@every_recall_kernel
@pytest.mark.parametrize(
    ("axis", "size"),
    [
        *(("batch", size) for size in (1, 33)),
        *(("classes", size) for size in (2, 31, 32, 33, 255, 256, 257, 600)),
        *((axis, size) for axis in ("k", "dim") for size in (1, 31, 33, 130)),
    ],
)
def test_recall_tails(
    cuda: ModuleType, kernel: str, axis: str, size: int, rng: np.random.Generator
) -> None:
    assert_right(cuda, make(kernel, replace(Sizes(batch=2), **{axis: size}), "float32", rng))


@every_recall_kernel
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_recall_on_every_path(
    cuda: ModuleType, kernel: str, dtype: str, rng: np.random.Generator
) -> None:
    for problem in all_variants(make(kernel, Sizes(batch=3), dtype, rng)):
        assert_right(cuda, problem)


@pytest.mark.parametrize("kernel", ["image_prior", "recall_step"])
def test_images_of_several_parts(cuda: ModuleType, kernel: str, rng: np.random.Generator) -> None:
    assert_right(cuda, make(kernel, Sizes(batch=2, dim=70, k=65), "float32", rng))


@pytest.mark.parametrize(
    "kernel", ["recall_gradients", "divergence", "soft_cross_entropy", "distillation"]
)
def test_nan_reaches_what_recall_makes_of_it(
    cuda: ModuleType, kernel: str, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(), "float32", rng)
    next(iter(problem.__dict__.values()))[1, 3] = np.nan
    for ours, theirs in zip(run(cuda, problem), problem.oracle(), strict=True):
        assert bool(np.isnan(ours).any()) == bool(np.isnan(theirs).any())


def test_classes_and_copies_out_of_range_are_left_out(
    cuda: ModuleType, rng: np.random.Generator
) -> None:
    problem = make("recall_gradients", Sizes(), "float32", rng)
    bad = replace(
        problem,
        present=np.array([0, 3, 7, -1, 2**40]),
        multiplicity=np.array([0, 2, -5]),
        not_local_old=2.5,
        not_local_new=0.0,
    )
    # Two of five listed classes are there: their share stays a fifth each.
    good = replace(
        bad, present=np.array([0, 3]), multiplicity=np.array([1, 2, 1]), not_local_old=0.0
    )
    got, without = run(cuda, bad), good.oracle()
    here = good.old_logits.astype(np.float64)
    shares = np.exp(here - here.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    weights = np.array([0.25, 0.5, 0.25])
    present = np.zeros(7)
    present[[0, 3]] = 0.2
    wanted = without[1] - 2.5 * weights[:, None] * (shares - present)
    np.testing.assert_allclose(got[1], wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(got[2], without[2], rtol=0, atol=1e-5)
