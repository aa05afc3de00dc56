"""The raw CPU kernels of recall at every SIMD level, in buffers of exactly their size."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cpu_cases import TAILS, every_dtype
from guarded_arrays import Array, call_guarded
from kernel_problems import Sizes, assert_near
from recall_problems import RECALL, all_variants, make

every_recall_kernel = pytest.mark.parametrize("kernel", RECALL)


def run(cpu: ModuleType, level: int, problem: Any, pieces: int = 1) -> list[Array]:
    kernel = getattr(cpu, problem.kernel)
    return call_guarded(problem.outputs(), lambda *out: kernel(level, problem, pieces, *out))


def assert_right(cpu: ModuleType, problem: Any) -> None:
    wanted = problem.oracle()
    for level in range(cpu.best_level + 1):
        assert_near(problem, run(cpu, level, problem), wanted, f"at level {level}")


@every_recall_kernel
@every_dtype
@pytest.mark.parametrize(
    ("axis", "size"),
    [
        *(("batch", size) for size in (1, 2, 33)),
        *(("classes", size) for size in (2, *TAILS, 300, 1001)),
        *((axis, size) for axis in ("k", "dim") for size in TAILS),
    ],
)
def test_recall_tails(
    cpu: ModuleType, kernel: str, dtype: str, axis: str, size: int, rng: np.random.Generator
) -> None:
    assert_right(cpu, make(kernel, replace(Sizes(), **{axis: size}), dtype, rng))


@every_recall_kernel
@every_dtype
def test_recall_on_every_path(
    cpu: ModuleType, kernel: str, dtype: str, rng: np.random.Generator
) -> None:
    for problem in all_variants(make(kernel, Sizes(), dtype, rng)):
        assert_right(cpu, problem)


@every_recall_kernel
@pytest.mark.parametrize("pieces", [2, 5, 9])
def test_recall_in_pieces(
    cpu: ModuleType, level: int, kernel: str, pieces: int, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(batch=7, classes=20), "float32", rng)
    for whole, parts in zip(
        run(cpu, level, problem), run(cpu, level, problem, pieces), strict=True
    ):
        assert whole.tobytes() == parts.tobytes()


@pytest.mark.parametrize(
    "kernel", ["recall_gradients", "divergence", "soft_cross_entropy", "distillation"]
)
def test_recall_of_large_and_of_equal_logits(
    cpu: ModuleType, kernel: str, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(), "float32", rng)
    names = [name for name in problem.__dict__ if name.endswith("logits")]
    for shift, spread in ((1e4, 1.0), (-1e4, 1.0), (0.0, 0.0), (0.0, 30.0)):
        changed = {
            name: (spread * getattr(problem, name) + shift).astype(np.float32) for name in names
        }
        assert_right(cpu, replace(problem, **changed))


@every_recall_kernel
def test_nan_reaches_what_recall_makes_of_it(
    cpu: ModuleType, kernel: str, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(), "float32", rng)
    next(iter(problem.__dict__.values()))[1, 3] = np.nan
    wanted = problem.oracle()
    assert any(np.isnan(each).any() for each in wanted)
    for level in range(cpu.best_level + 1):
        got = run(cpu, level, problem)
        assert all(
            bool(np.isnan(ours).any()) == bool(np.isnan(theirs).any())
            for ours, theirs in zip(got, wanted, strict=True)
        )


@pytest.mark.parametrize("kernel", ["image_prior", "recall_step"])
def test_images_of_zeros(cpu: ModuleType, kernel: str, rng: np.random.Generator) -> None:
    problem = make(kernel, Sizes(), "float32", rng)
    problem.images[:] = 0
    assert_right(cpu, problem)
