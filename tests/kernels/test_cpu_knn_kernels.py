"""The raw CPU kernels of knn at every SIMD level, in buffers of exactly their size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from cpu_cases import TAILS, every_dtype, every_kind
from guarded_arrays import Array, Guarded, call_guarded
from kernel_problems import (
    Knn,
    Sizes,
    assert_nearest,
    make_knn,
    unit,
)

# Of a sum of non-negative terms, as rows.h promises: 2e-6 in float32.
SUM_UNITS = 16
SEARCHES = ["pairs", "small", "sweep"]  # of few queries, of small and of large memories


def run_knn(cpu: ModuleType, level: int, problem: Knn, threads: int = 1) -> list[Array]:
    return call_guarded(problem.outputs(), lambda *out: cpu.knn(level, problem, threads, *out))


# ---- Parts ----


VALUES: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, count: rng.standard_normal(count),
    "ties": lambda rng, count: rng.integers(-2, 3, count) / 4,
    "zeros of both signs": lambda rng, count: rng.choice([0.0, -0.0], count),
    "all infinite": lambda rng, count: np.full(count, np.inf),
    "some infinite": lambda rng, count: np.where(rng.random(count) < 0.5, np.inf, -1.5),
    "of all sizes": lambda rng, count: rng.choice([-1, 1], count)
    * 10.0 ** rng.integers(-44, 38, count),
}


@every_dtype
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("count", [16, 48, 528])
def test_knn_cut(
    cpu: ModuleType, level: int, dtype: str, values: str, count: int, rng: np.random.Generator
) -> None:
    array = VALUES[values](rng, count).astype(dtype)
    for rank in {1, 2, 15, count // 2, count - 1, count}:
        cut = cpu.knn_cut(level, array, rank)
        within = int((array <= cut).sum())
        exact = np.sort(array)[rank - 1]
        assert within >= rank
        # No more than a sixteenth too many, but for those that tie with the last.
        assert within <= rank + rank // 16 or cut == exact


@every_dtype
@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("count", [1, 7, 16, 17, 65])
@pytest.mark.parametrize("limit", [-np.inf, 0.0, 0.25, np.inf, np.nan])
def test_knn_select(
    cpu: ModuleType,
    level: int,
    dtype: str,
    values: str,
    count: int,
    limit: float,
    rng: np.random.Generator,
) -> None:
    """Whatever is not above the limit, NaN among it."""
    array = VALUES[values](rng, count).astype(dtype)
    array[count // 2] = np.nan
    selected = Guarded((count,), "int32")
    found = cpu.knn_select(level, array, limit, selected.array)
    selected.check_margins()
    wanted = np.flatnonzero(~(array > np.array(limit, dtype)))
    np.testing.assert_array_equal(selected.array[:found], wanted)


# ---- Searches ----


@every_kind
@every_dtype
@pytest.mark.parametrize("batch", [1, 3, 4, 33])
def test_knn_of_all_types(
    cpu: ModuleType, knn_level: int, dtype: str, kind: str, batch: int, rng: np.random.Generator
) -> None:
    problem = make_knn(Sizes(batch, rows=300, k=9, dim=17), dtype, kind, rng)
    assert_nearest(problem, run_knn(cpu, knn_level, problem), SUM_UNITS)


@every_dtype
@pytest.mark.parametrize("size", [*TAILS, 95, 96, 97, 127, 128, 129, 257])
@pytest.mark.parametrize("axis", ["batch", "rows", "k", "dim"])
@pytest.mark.parametrize(("batch", "rows"), [(5, 260), (40, 260), (12, 1300)], ids=SEARCHES)
def test_knn_tails(
    cpu: ModuleType,
    knn_level: int,
    dtype: str,
    batch: int,
    rows: int,
    axis: str,
    size: int,
    rng: np.random.Generator,
) -> None:
    problem = make_knn(replace(Sizes(batch, rows), **{axis: size}), dtype, dtype, rng)
    assert_nearest(problem, run_knn(cpu, knn_level, problem), SUM_UNITS)


@every_dtype
@pytest.mark.parametrize("k", [1, 2, 40, 200, 300])
@pytest.mark.parametrize("rows", [1023, 1025, 1700, 2500, 5000])
def test_knn_opens_with_a_bound_from_groups(
    cpu: ModuleType, knn_level: int, dtype: str, rows: int, k: int, rng: np.random.Generator
) -> None:
    """Around the number of opening keys, and with keys whose order is the worst or the best."""
    for sign in (-1, 0, 1):
        problem = make_knn(Sizes(batch=7, rows=rows, k=k, dim=5), dtype, dtype, rng)
        order = np.argsort(
            sign * np.square(problem.keys - problem.queries[0]).sum(1), kind="stable"
        )
        problem = replace(problem, keys=problem.keys[order])
        assert_nearest(problem, run_knn(cpu, knn_level, problem), SUM_UNITS)


@every_dtype
def test_knn_at_the_end_of_the_range(
    cpu: ModuleType, knn_level: int, dtype: str, rng: np.random.Generator
) -> None:
    """|q|^2 and |k|^2 are half of the largest number: some products overflow, no distance does."""
    largest = float(np.finfo(dtype).max)
    for dim, rows, k in ((200, 1500, 3), (16, 300, 7), (7, 3000, 1), (33, 200, 20)):
        steps = 1e-6 * rng.standard_normal((rows, dim))
        keys = (np.sqrt(largest / 2 / dim) * (1 + steps)).astype(dtype)
        problem = Knn(keys[:12].copy(), keys, k)
        assert_nearest(problem, run_knn(cpu, knn_level, problem), SUM_UNITS)


@every_dtype
def test_knn_with_one_key_of_huge_norm(
    cpu: ModuleType, knn_level: int, dtype: str, rng: np.random.Generator
) -> None:
    """Its bound is as wide as the distances of all others."""
    problem = make_knn(Sizes(batch=7, rows=3000, k=20, dim=7), dtype, dtype, rng)
    problem.keys[17] = 1e12
    assert_nearest(problem, run_knn(cpu, knn_level, problem), SUM_UNITS)


@pytest.mark.parametrize("batch", [2, 5, 40])
@pytest.mark.parametrize("k", [1, 249, 250, 251, 500])
def test_knn_of_one_and_of_all(
    cpu: ModuleType, knn_level: int, batch: int, k: int, rng: np.random.Generator
) -> None:
    problem = make_knn(Sizes(batch, rows=500, k=k), "float32", "float32", rng)
    assert_nearest(problem, run_knn(cpu, knn_level, problem), SUM_UNITS)


@every_dtype
@pytest.mark.parametrize("k", [1, 20])
@pytest.mark.parametrize("shift", [0, 30, 1000])
@pytest.mark.parametrize("spread", [1e-5, 1e-3, 1])
@pytest.mark.parametrize(("batch", "rows"), [(5, 700), (7, 700), (7, 1400)], ids=SEARCHES)
def test_knn_where_products_cancel(
    cpu: ModuleType,
    knn_level: int,
    dtype: str,
    shift: float,
    spread: float,
    batch: int,
    rows: int,
    k: int,
    rng: np.random.Generator,
) -> None:
    """|k|^2 - 2 <k, q> has few digits left, or none: bounds must be wide enough."""
    keys = (shift + unit(rng, 1, 33) + spread * unit(rng, rows, 33)).astype(dtype)
    queries = keys[100 : 100 + batch] + (spread / 8 * unit(rng, batch, 33)).astype(dtype)
    problem = Knn(queries, keys, k)
    assert_nearest(problem, run_knn(cpu, knn_level, problem), SUM_UNITS)


@pytest.mark.parametrize("rows", [4500, 17000])
@pytest.mark.parametrize("batch", [2, 7, 140])
@every_dtype
def test_knn_does_not_depend_on_threads(
    cpu: ModuleType, knn_level: int, rows: int, batch: int, dtype: str, rng: np.random.Generator
) -> None:
    """More threads, more blocks of queries or ranges of keys: each has shortlists of its own."""
    problem = make_knn(Sizes(batch, rows=rows, k=40, dim=3), dtype, dtype, rng)
    wanted = run_knn(cpu, knn_level, problem)
    assert_nearest(problem, wanted, SUM_UNITS)
    for threads in (2, 3, 16):
        got = run_knn(cpu, knn_level, problem, threads)
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("batch", [2, 9])
def test_knn_puts_the_smaller_row_first_among_equals(
    cpu: ModuleType, knn_level: int, batch: int, rng: np.random.Generator
) -> None:
    keys = np.tile(rng.integers(-1, 2, (11, 4)), (40, 1)).astype(np.float32)
    queries = rng.integers(-1, 2, (batch, 4)).astype(np.float32)
    for k in (1, 45, 440):
        problem = Knn(queries, keys, k)
        distances, indices = run_knn(cpu, knn_level, problem)
        order = np.argsort(problem.true_distances(), axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(indices, order)
        np.testing.assert_array_equal(
            distances, np.take_along_axis(problem.true_distances(), order, 1)
        )


@every_dtype
@pytest.mark.parametrize("batch", [2, 9])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_knn_puts_infinity_and_then_nan_last(
    cpu: ModuleType, knn_level: int, dtype: str, batch: int, k: int
) -> None:
    keys = np.zeros((6, 4), dtype)
    keys[0], keys[5], keys[3] = np.nan, np.nan, 2
    keys[1, 2], keys[4, 0] = np.inf, -np.inf
    problem = Knn(np.ones((batch, 4), dtype), keys, k)
    distances, indices = run_knn(cpu, knn_level, problem)
    wanted = [4, 4, np.inf, np.inf, np.nan, np.nan][:k]
    np.testing.assert_array_equal(distances, np.tile(wanted, (batch, 1)))
    np.testing.assert_array_equal(indices, np.tile([2, 3, 1, 4, 0, 5][:k], (batch, 1)))


def test_knn_without_queries(cpu: ModuleType, knn_level: int, rng: np.random.Generator) -> None:
    problem = make_knn(Sizes(batch=0), "float32", "float32", rng)
    assert all(output.size == 0 for output in run_knn(cpu, knn_level, problem))


@every_dtype
def test_levels_find_the_same_rows(cpu: ModuleType, dtype: str, rng: np.random.Generator) -> None:
    problem = make_knn(Sizes(batch=20, rows=2000, k=50, dim=33), dtype, dtype, rng)
    base, *others = (run_knn(cpu, level, problem) for level in range(cpu.best_level + 1))
    rtol = SUM_UNITS * float(np.finfo(dtype).eps)
    for distances, indices in others:
        np.testing.assert_array_equal(indices, base[1])
        np.testing.assert_allclose(distances, base[0], rtol=rtol)


@every_kind
@every_dtype
@pytest.mark.parametrize(("count", "k"), [(0, 2), (1, 1), (20, 5), (20, 30), (400, 9), (400, 90)])
def test_rerank(
    cpu: ModuleType,
    level: int,
    dtype: str,
    kind: str,
    count: int,
    k: int,
    rng: np.random.Generator,
) -> None:
    """Candidates in no order, several of them twice, and some none."""
    problem = make_knn(Sizes(batch=1, rows=300, k=k, dim=17), dtype, kind, rng)
    candidates = rng.integers(-30, 300, count).clip(-1)
    distances, rows = call_guarded(
        [((k,), dtype), ((k,), "int64")],
        lambda *out: cpu.rerank(level, problem.queries[0], problem.keys, candidates, *out),
    )
    known = np.unique(candidates[candidates >= 0])
    found = min(k, len(known))
    np.testing.assert_array_equal(rows[found:], -1)
    np.testing.assert_array_equal(distances[found:], np.inf)
    if found:
        among = replace(problem, keys=problem.keys[known], k=found)
        places = np.searchsorted(known, rows[:found])
        np.testing.assert_array_equal(known[places], rows[:found])
        assert_nearest(among, [distances[None, :found], places[None]], SUM_UNITS)
