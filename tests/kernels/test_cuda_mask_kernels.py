"""The masks kernels' CUDA text in the SIMT emulator; see ``test_cuda_kernels.py``."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cuda_orders import in_every_order
from mask_problems import blocked, compensated, layers, reserved

packed_or_not = pytest.mark.parametrize("packed", [False, True])
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def assert_right(cuda: ModuleType, problem: Any, units: float) -> None:
    kernel = getattr(cuda, problem.kernel)
    got = in_every_order(cuda, problem.outputs(), lambda *out: kernel(problem, *out))
    for ours, theirs in zip(got, problem.oracle(), strict=True):
        eps = np.finfo(ours.dtype).eps if ours.dtype.kind == "f" else 0
        atol = units * float(eps) * np.abs(theirs[np.isfinite(theirs)]).max(initial=0)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


@every_dtype
@packed_or_not
@pytest.mark.parametrize("size", [1, 31, 32, 257, 4097])
def test_layers_of_any_size(
    cuda: ModuleType, dtype: str, packed: bool, size: int, rng: np.random.Generator
) -> None:
    shapes = [(1, size, 1), (1, 3, size), (2, 9, 3), (0, 5, 1), (1, 0, 1), (3, 4, 0)]
    for max_scale in (None, 5.0):
        assert_right(cuda, layers(shapes, dtype, packed, rng, max_scale), 32)


def test_layers_of_several_launches(cuda: ModuleType, rng: np.random.Generator) -> None:
    sizes = rng.integers(0, 20, 150)
    shapes = [(1 + int(s) % 2, int(s), 1) for s in sizes]
    assert_right(cuda, layers(shapes, "float32", True, rng), 32)


@every_dtype
@packed_or_not
def test_blocked_tensors(
    cuda: ModuleType, dtype: str, packed: bool, rng: np.random.Generator
) -> None:
    sizes = [1, 0, 255, 256, 4097, *rng.integers(0, 30, 200).tolist()]
    problem = blocked(sizes, dtype, packed, rng)
    problem.grads[::7] = np.nan
    assert_right(cuda, problem, 0)


@every_dtype
@pytest.mark.parametrize("clamp", [math.inf, 50.0])
def test_compensated_tensors(
    cuda: ModuleType, dtype: str, clamp: float, rng: np.random.Generator
) -> None:
    sizes = [1, 0, 255, 4097, *rng.integers(0, 30, 250).tolist()]
    assert_right(cuda, compensated(sizes, dtype, rng, clamp), 128)


@every_dtype
@packed_or_not
@pytest.mark.parametrize("size", [1, 7, 8, 9, 255, 2047, 2048, 2049, 5000])
def test_masks_packed_and_joined(
    cuda: ModuleType, dtype: str, packed: bool, size: int, rng: np.random.Generator
) -> None:
    assert_right(cuda, reserved(size, dtype, packed, rng), 0)
