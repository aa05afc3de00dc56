"""Products in the tiles of AMX against float64, on the processor's own AMX and on the emulator."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from cpu_cases import EMULATED_AMX, level_called
from guarded_arrays import Array, call_guarded


@pytest.fixture(params=["amx", EMULATED_AMX])
def level(request: pytest.FixtureRequest, cpu: ModuleType) -> int:
    return level_called(cpu, request.param)


def rounded(rng: np.random.Generator, rows: int, features: int, scale: float = 1.0) -> Array:
    """Float32 whose lower halves are zero: what bfloat16 holds."""
    values = (scale * rng.standard_normal((rows, features))).astype(np.float32)
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def pairs(values: Array) -> Array:
    bits = values.view(np.uint32) >> 16
    return np.ascontiguousarray(bits[:, 0::2] | bits[:, 1::2] << 16)


def product(cpu: ModuleType, level: int, rows: Array, columns: Array) -> Array:
    left, panel = pairs(rows), np.ascontiguousarray(pairs(columns).T)
    out = [((len(rows), len(columns)), np.float32)]
    (found,) = call_guarded(out, lambda array: cpu.amx_product(level, left, panel, array))
    return found


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 31, 32])
@pytest.mark.parametrize("columns", [16, 32])
@pytest.mark.parametrize("features", [32, 64, 96, 512])
def test_product(
    cpu: ModuleType, level: int, rows: int, columns: int, features: int, rng: np.random.Generator
) -> None:
    left, right = rounded(rng, rows, features), rounded(rng, columns, features)
    wanted = left.astype(np.float64) @ right.astype(np.float64).T
    terms = np.abs(left).astype(np.float64) @ np.abs(right).astype(np.float64).T
    error = np.abs(product(cpu, level, left, right) - wanted)
    assert (error <= 2.0**-24 * (18 + features / 32) * terms).all()


def test_numbers_below_the_normal_range_count_as_zero(
    cpu: ModuleType, level: int, rng: np.random.Generator
) -> None:
    small, ones = rounded(rng, 16, 32, 1e-39), np.ones((16, 32), np.float32)
    assert (product(cpu, level, small, ones) == 0).all()
    left, right = rounded(rng, 16, 32, 1e-20), rounded(rng, 16, 32, 1e-20)
    assert (product(cpu, level, left, right) == 0).all()


def test_special_values(cpu: ModuleType, level: int, rng: np.random.Generator) -> None:
    left, right = rounded(rng, 20, 32), rounded(rng, 16, 32)
    left[3, 5], left[18, 0], right[7] = np.inf, np.nan, np.abs(right[7])
    found = product(cpu, level, left, right)
    assert found[3, 7] == np.inf
    assert np.isnan(found[18]).all()
    others = np.delete(found, [3, 18], axis=0)
    assert np.isfinite(others).all()
