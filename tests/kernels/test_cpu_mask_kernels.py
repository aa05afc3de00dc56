"""The raw CPU kernels of the masks at every SIMD level, in buffers of exactly their size."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cpu_cases import TAILS, every_dtype
from guarded_arrays import Array, call_guarded
from mask_problems import Reserved, blocked, compensated, layers, reserved

packed_or_not = pytest.mark.parametrize("packed", [False, True])
STEPS = [64, 192, 1 << 40]


def run(cpu: ModuleType, level: int, problem: Any, step: int) -> list[Array]:
    kernel = getattr(cpu, problem.kernel)
    return call_guarded(problem.outputs(), lambda *out: kernel(level, problem, step, *out))


def assert_right(cpu: ModuleType, problem: Any, units: float) -> None:
    """Rounding is measured against the largest entry: products and sums of products."""
    wanted = problem.oracle()
    for level in range(cpu.best_level + 1):
        for step in STEPS:
            for ours, theirs in zip(run(cpu, level, problem, step), wanted, strict=True):
                eps = np.finfo(ours.dtype).eps if ours.dtype.kind == "f" else 0
                atol = units * float(eps) * np.abs(theirs[np.isfinite(theirs)]).max(initial=0)
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=f"{level}")


@every_dtype
@packed_or_not
@pytest.mark.parametrize("size", [*TAILS, 1000])
def test_layers_of_any_size(
    cpu: ModuleType, dtype: str, packed: bool, size: int, rng: np.random.Generator
) -> None:
    shapes = [(1, size, 1), (2, size, 1), (1, 3, size), (3, size, 2), (size, 5, 4), (2, 2, 17)]
    for max_scale in (None, 5.0):
        assert_right(cpu, layers(shapes, dtype, packed, rng, max_scale), 32)


@every_dtype
def test_layers_without_elements(cpu: ModuleType, dtype: str, rng: np.random.Generator) -> None:
    shapes = [(0, 5, 1), (1, 0, 1), (3, 4, 0), (1, 7, 1)]
    assert_right(cpu, layers(shapes, dtype, False, rng), 32)


@every_dtype
@packed_or_not
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_blocked_tensors_of_any_size(
    cpu: ModuleType, dtype: str, packed: bool, share: float, rng: np.random.Generator
) -> None:
    problem = blocked((*TAILS, 0, 128, 1000), dtype, packed, rng, share)
    problem.grads[::7] = np.nan
    assert_right(cpu, problem, 0)


@every_dtype
@pytest.mark.parametrize("clamp", [math.inf, 50.0])
def test_compensated_tensors_of_any_size(
    cpu: ModuleType, dtype: str, clamp: float, rng: np.random.Generator
) -> None:
    # float32 rounds scale e, up to 80, and the power of e takes that over.
    assert_right(cpu, compensated((*TAILS, 0, 1000), dtype, rng, clamp), 128)


@every_dtype
@packed_or_not
@pytest.mark.parametrize("size", [*TAILS, 7, 8, 9, 1000])
def test_masks_packed_and_joined(
    cpu: ModuleType, dtype: str, packed: bool, size: int, rng: np.random.Generator
) -> None:
    given: Reserved = reserved(size, dtype, packed, rng)
    # Any byte but 0 is a mark.
    of_all_bytes = replace(given, mask=given.mask * rng.integers(1, 256, size).astype(np.uint8))
    outputs = [*given.outputs(), ((1,), np.int64)]
    for problem in (given, of_all_bytes):
        for step in (8, 24, *STEPS):
            *got, before = call_guarded(
                outputs, lambda *out, p=problem, s=step: cpu.reserve(p, s, *out)
            )
            assert [g.tolist() for g in got] == [w.tolist() for w in problem.oracle()]
            assert before[0] == np.count_nonzero(problem.mask)
