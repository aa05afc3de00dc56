"""knn with keys that were rounded before: the same bits as without them."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from cpu_cases import EMULATED_AMX_SLOWLY, PRODUCTS_OF_BFLOAT16, level_called, without_rounding
from guarded_arrays import Array, call_guarded
from kernel_problems import KINDS, Knn, stored, widened

from clfast.ops import RoundedKeys

# Products of queries, rows and features from which on rounded keys are read.
PRODUCTS = 1 << 23


@pytest.fixture
def level(rounding_level: int) -> int:
    return rounding_level


@pytest.fixture(params=[*PRODUCTS_OF_BFLOAT16, EMULATED_AMX_SLOWLY])
def costly_level(request: pytest.FixtureRequest, cpu: ModuleType) -> int:
    """For tests of so many products that the emulator takes seconds."""
    return level_called(cpu, request.param)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def of(keys: Array, offset: Array | None) -> tuple[Array, Array]:
    exact = torch.from_numpy(widened(keys).astype(np.float32))
    rows, offset_ = RoundedKeys.of(
        exact, offset=None if offset is None else torch.from_numpy(offset)
    )
    return rows.view(torch.uint16).numpy(), offset_.numpy()


def assert_same(
    cpu: ModuleType, level: int, queries: Array, keys: Array, k: int, offset: Array | None = None
) -> None:
    assert queries.size * len(keys) >= PRODUCTS
    plain, rounded = Knn(queries, keys, k), Knn(queries, keys, k, of(keys, offset))
    without = without_rounding(cpu, level)
    wanted = call_guarded(plain.outputs(), lambda *out: cpu.knn(without, plain, 1, *out))
    for threads in (1, 3):
        found = call_guarded(
            rounded.outputs(), lambda *out, t=threads: cpu.knn(level, rounded, t, *out)
        )
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("batch", [*range(1, 11), 16, 17, 31, 32, 33, 64, 65])
@pytest.mark.parametrize("dim", [64, 95, 97, 512])
def test_batches(
    cpu: ModuleType, costly_level: int, batch: int, dim: int, rng: np.random.Generator
) -> None:
    rows = max(4100, PRODUCTS // (batch * dim) + 1)
    assert_same(cpu, costly_level, normal(rng, batch, dim), normal(rng, rows, dim), 7)


@pytest.mark.parametrize("dim", [*range(32, 37), 62, 63, 64, 65, 66, 127, 129])
@pytest.mark.parametrize("batch", [2, 40])
def test_features(
    cpu: ModuleType, costly_level: int, batch: int, dim: int, rng: np.random.Generator
) -> None:
    rows = PRODUCTS // (batch * dim) + 1
    assert_same(cpu, costly_level, normal(rng, batch, dim), normal(rng, rows, dim), 11)


@pytest.mark.parametrize("rows", [16383, 16384, 16385, 17001, 20011])
@pytest.mark.parametrize("batch", [1, 8, 9])
def test_rows(
    cpu: ModuleType, costly_level: int, batch: int, rows: int, rng: np.random.Generator
) -> None:
    dim = PRODUCTS // (batch * rows) + 33
    assert_same(cpu, costly_level, normal(rng, batch, dim), normal(rng, rows, dim), 40)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "float64"])
@pytest.mark.parametrize("batch", [3, 40])
def test_keys_of_all_types(
    cpu: ModuleType, level: int, kind: str, batch: int, rng: np.random.Generator
) -> None:
    keys = stored(rng.standard_normal((PRODUCTS // (batch * 65) + 1, 65)), kind)
    assert_same(cpu, level, normal(rng, batch, 65), keys, 20)


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 100.0, 1e15, 3e38])
@pytest.mark.parametrize("batch", [3, 40])
def test_any_offset(
    cpu: ModuleType, level: int, size: float, batch: int, rng: np.random.Generator
) -> None:
    keys, queries = normal(rng, PRODUCTS // (batch * 64) + 1, 64), normal(rng, batch, 64)
    offset = np.sign(normal(rng, 64)) * np.float32(size)
    assert_same(cpu, level, queries, keys, 20, offset)


@pytest.mark.parametrize("spread", [0.5, 1e-2, 1e-5])
@pytest.mark.parametrize("clusters", [1, 20])
@pytest.mark.parametrize("batch", [4, 50])
def test_clusters(
    cpu: ModuleType, level: int, batch: int, clusters: int, spread: float, rng: np.random.Generator
) -> None:
    rows = PRODUCTS // (batch * 64) + 1
    centres = normal(rng, clusters, 64)
    keys = centres[np.sort(rng.integers(clusters, size=rows))] + spread * normal(rng, rows, 64)
    queries = centres[rng.integers(clusters, size=batch)] + spread * normal(rng, batch, 64)
    assert_same(cpu, level, queries.astype(np.float32), keys.astype(np.float32), 30)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e10, 1e17, 3e18])
@pytest.mark.parametrize("batch", [4, 50])
def test_scales(
    cpu: ModuleType, level: int, batch: int, scale: float, rng: np.random.Generator
) -> None:
    """Squares and products underflow or overflow; no bound may be lost with them."""
    keys = normal(rng, PRODUCTS // (batch * 40) + 1, 40) * np.float32(scale)
    assert_same(cpu, level, normal(rng, batch, 40) * np.float32(scale), keys, 9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38, 1e-40])
@pytest.mark.parametrize("where", ["keys", "queries", "both"])
@pytest.mark.parametrize("batch", [4, 40])
def test_special_values(
    cpu: ModuleType,
    costly_level: int,
    batch: int,
    value: float,
    where: str,
    rng: np.random.Generator,
) -> None:
    keys, queries = normal(rng, PRODUCTS // (batch * 40) + 1, 40), normal(rng, batch, 40)
    if where != "queries":
        keys[[0, 7, 1100, len(keys) - 1], [0, 39, 5, 5]] = value
    if where != "keys":
        queries[[0, batch // 2, batch - 1], [1, 0, 39]] = value
    assert_same(cpu, costly_level, queries, keys, 11, np.zeros(40, np.float32))
    assert_same(cpu, costly_level, queries, keys, 11)
