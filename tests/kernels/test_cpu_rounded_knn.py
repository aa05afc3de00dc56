"""knn where keys and queries are rounded to bfloat16 first: the same bits as without."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from cpu_cases import without_rounding
from guarded_arrays import Array, call_guarded
from kernel_problems import KINDS, Knn, stored

LARGE = 4100  # rows of a memory too large for the search of small ones, which does not round


@pytest.fixture
def level(rounding_level: int) -> int:
    return rounding_level


def found(cpu: ModuleType, level: int, problem: Knn, threads: int = 1) -> list[Array]:
    return call_guarded(problem.outputs(), lambda *out: cpu.knn(level, problem, threads, *out))


def assert_same(cpu: ModuleType, level: int, problem: Knn) -> None:
    for threads in (1, 3):
        wanted = found(cpu, without_rounding(cpu, level), problem, threads)
        for ours, theirs in zip(found(cpu, level, problem, threads), wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("batch", [31, 32, 33, 130])
@pytest.mark.parametrize("dim", [31, 32, 33, 34, 63, 65, 129])
def test_tails(cpu: ModuleType, level: int, batch: int, dim: int, rng: np.random.Generator) -> None:
    assert_same(cpu, level, Knn(normal(rng, batch, dim), normal(rng, LARGE, dim), 7))


@pytest.mark.parametrize("dim", [32, 33, 48, 65])
def test_ordinary_data_is_answered_by_rounding(
    cpu: ModuleType, level: int, dim: int, rng: np.random.Generator
) -> None:
    """Else the next way answers, and tests that compare with that see nothing."""
    problem = Knn(normal(rng, 40, dim), normal(rng, LARGE, dim), 20)
    assert cpu.answered_at_once(level, problem) == (True, 40)
    assert not cpu.answered_at_once(without_rounding(cpu, level), problem)[0]


@pytest.mark.parametrize("rows", [LARGE, 4999, 9000, 17001])
@pytest.mark.parametrize("k", [1, 2, 40])
def test_rows(cpu: ModuleType, level: int, rows: int, k: int, rng: np.random.Generator) -> None:
    assert_same(cpu, level, Knn(normal(rng, 40, 48), normal(rng, rows, 48), k))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "float64"])
def test_keys_of_all_types(
    cpu: ModuleType, level: int, kind: str, rng: np.random.Generator
) -> None:
    keys = stored(rng.standard_normal((LARGE, 65)), kind)
    assert_same(cpu, level, Knn(normal(rng, 40, 65), keys, 20))


@pytest.mark.parametrize("spread", [0.5, 0.1, 1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("clusters", [1, 20])
def test_clusters_defeat_the_rounded_sweep_but_not_the_result(
    cpu: ModuleType, level: int, clusters: int, spread: float, rng: np.random.Generator
) -> None:
    """In narrow clusters the bounds of all keys overlap: the next way decides."""
    centres = normal(rng, clusters, 64)
    keys = centres[np.sort(rng.integers(clusters, size=6000))] + spread * normal(rng, 6000, 64)
    queries = centres[rng.integers(clusters, size=50)] + spread * normal(rng, 50, 64)
    assert_same(cpu, level, Knn(queries.astype(np.float32), keys.astype(np.float32), 30))


def test_features_behind_a_relu(cpu: ModuleType, level: int, rng: np.random.Generator) -> None:
    keys, queries = np.maximum(normal(rng, 5000, 80), 0), np.maximum(normal(rng, 60, 80), 0)
    assert_same(cpu, level, Knn(queries, keys, 25))


def test_every_key_many_times(cpu: ModuleType, level: int, rng: np.random.Generator) -> None:
    assert_same(cpu, level, Knn(normal(rng, 40, 48), np.tile(normal(rng, 100, 48), (50, 1)), 120))


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-23, 1e-20, 1e-10, 1e10, 1e17, 3e18])
@pytest.mark.parametrize("key_scale", [1.0, 1e-6, 1e6])
def test_scales(
    cpu: ModuleType, level: int, scale: float, key_scale: float, rng: np.random.Generator
) -> None:
    """Squares and products underflow or overflow; no bound may be lost with them."""
    with np.errstate(over="ignore", under="ignore"):
        keys = (normal(rng, LARGE, 40) * np.float32(scale)) * np.float32(key_scale)
    assert_same(cpu, level, Knn(normal(rng, 40, 40) * np.float32(scale), keys, 9))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-40])
@pytest.mark.parametrize("where", ["keys", "queries", "both"])
def test_special_values(
    cpu: ModuleType, level: int, value: float, where: str, rng: np.random.Generator
) -> None:
    keys, queries = normal(rng, LARGE, 40), normal(rng, 40, 40)
    if where != "queries":
        keys[[0, 7, 1100, LARGE - 1], [0, 39, 5, 5]] = value
    if where != "keys":
        queries[[0, 3, 39], [1, 0, 39]] = value
    assert_same(cpu, level, Knn(queries, keys, 11))
