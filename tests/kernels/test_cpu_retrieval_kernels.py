"""The raw CPU kernels of retrieval at every SIMD level, in buffers of exactly their size."""

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
    stored,
    unit,
    widened,
)

# Of a sum of non-negative terms, as rows.h promises: 2e-6 in float32.
SUM_UNITS = 16


def run_knn(cpu: ModuleType, level: int, problem: Knn, threads: int = 1) -> list[Array]:
    return call_guarded(problem.outputs(), lambda *out: cpu.knn(level, problem, threads, *out))


# ---- Rows ----


def row_results(
    cpu: ModuleType, level: int, dtype: str, rows: Array, query: Array, indices: Array | None
) -> list[Array]:
    """sq_distances, dots and sq_norms of some rows: `indices`, or [2, 2 + 5)."""
    count = 5 if indices is None else len(indices)

    def call(distances: Array, dots: Array, norms: Array) -> None:
        cpu.sq_distances(level, query, rows, indices, 2, distances)
        cpu.dots(level, query, rows, indices, 2, dots)
        cpu.sq_norms(level, rows, indices, 2, norms)

    return call_guarded(3 * [((count,), np.dtype(dtype))], call)


@every_kind
@every_dtype
@pytest.mark.parametrize("dim", [*TAILS, 127, 128, 129, 1025, 4100])
def test_sums_over_rows(
    cpu: ModuleType, level: int, dtype: str, kind: str, dim: int, rng: np.random.Generator
) -> None:
    rows = stored(unit(rng, 7, dim), kind)
    query = unit(rng, dim).astype(dtype)
    for indices in (None, np.array([6, 0, 3, 3])):
        got = row_results(cpu, level, dtype, rows, query, indices)
        chosen = widened(rows)[2:7] if indices is None else widened(rows)[indices]
        differences = np.square(chosen - widened(query)).sum(axis=1)
        norms = np.square(chosen).sum(axis=1)
        rtol = SUM_UNITS * float(np.finfo(dtype).eps)
        np.testing.assert_allclose(got[0], differences, rtol=rtol)
        np.testing.assert_allclose(got[2], norms, rtol=rtol)
        sizes = np.abs(chosen * widened(query)).sum(axis=1)
        assert (np.abs(got[1] - (chosen * widened(query)).sum(axis=1)) <= rtol * sizes).all()


@every_dtype
def test_every_16_bit_number_is_widened_exactly(cpu: ModuleType, level: int, dtype: str) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    halves, bfloats = bits.view(np.float16), (bits.astype(np.uint32) << 16).view(np.float32)
    for rows, wanted in ((halves, halves), (bits, bfloats)):
        matrix = rows.reshape(-1, 2**9)
        (got,) = call_guarded(
            [(matrix.shape, dtype)],
            lambda out, m=matrix: cpu.copy_rows(level, m, 0, None, out, np.empty(len(m), dtype)),
        )
        with np.errstate(invalid="ignore"):  # NaN that signals
            np.testing.assert_array_equal(got, wanted.reshape(-1, 2**9).astype(dtype))
        assert (np.signbit(got).ravel() == np.signbit(wanted)).all()


@every_kind
@every_dtype
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("dim", TAILS)
def test_copied_rows_leave_the_gap_between_them(
    cpu: ModuleType,
    level: int,
    dtype: str,
    kind: str,
    dim: int,
    shifted: bool,
    rng: np.random.Generator,
) -> None:
    rows = stored(unit(rng, 7, dim), kind)
    offset = rng.standard_normal(dim).astype(dtype)
    copies, norms = Guarded((5, dim + 3), dtype), Guarded((5,), dtype)
    cpu.copy_rows(level, rows, 2, offset if shifted else None, copies.array, norms.array)
    copies.check_margins()
    norms.check_margins()
    assert copies.written()[:, :dim].all()
    assert not copies.written()[:, dim:].any()
    wanted = widened(rows[2:7]).astype(dtype) - (offset if shifted else 0)
    np.testing.assert_array_equal(copies.array[:, :dim], wanted.astype(dtype))
    np.testing.assert_allclose(
        norms.array,
        np.square(wanted.astype(np.float64)).sum(1),
        rtol=SUM_UNITS * np.finfo(dtype).eps,
    )


@every_dtype
@pytest.mark.parametrize("dim", TAILS)
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65])
def test_packed_panels(
    cpu: ModuleType, level: int, dtype: str, dim: int, count: int, rng: np.random.Generator
) -> None:
    rows, width = unit(rng, count, dim).astype(dtype), cpu.panel_columns(level, dtype)
    panels = -(-count // width)
    (packed,) = call_guarded(
        [((panels, dim, width), dtype)], lambda out: cpu.pack_panels(level, rows, out)
    )
    columns = packed.transpose(0, 2, 1).reshape(-1, dim)
    np.testing.assert_array_equal(columns[:count], rows)
    assert not columns[count:].any()


@every_dtype
@pytest.mark.parametrize("dim", TAILS)
@pytest.mark.parametrize(("batch", "count"), [(1, 1), (2, 2), (3, 5), (6, 4)])
def test_all_sq_distances(
    cpu: ModuleType,
    level: int,
    dtype: str,
    dim: int,
    batch: int,
    count: int,
    rng: np.random.Generator,
) -> None:
    """The bits of sq_distances, and nothing between one query's distances and the next's."""
    queries, rows = (unit(rng, n, dim).astype(dtype) for n in (batch, count))
    out = Guarded((batch, count + 3), dtype)
    cpu.all_sq_distances(level, queries, rows, out.array)
    out.check_margins()
    assert not out.written()[:, count:].any()
    for query, distances in zip(queries, out.array, strict=True):
        (wanted,) = call_guarded(
            [((count,), dtype)], lambda w, q=query: cpu.sq_distances(level, q, rows, None, 0, w)
        )
        np.testing.assert_array_equal(distances[:count], wanted)


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


# ---- Class means ----


@every_kind
@every_dtype
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dim", TAILS)
def test_class_mean(
    cpu: ModuleType,
    level: int,
    dtype: str,
    kind: str,
    dim: int,
    normalize: bool,
    rng: np.random.Generator,
) -> None:
    features = stored(unit(rng, 40, dim) + 0.5, kind)
    features[3] = 0
    for members in (np.array([3, 17, 0, 39, 5]), np.array([], np.int64), np.array([3])):
        (got,) = call_guarded(
            [((dim,), dtype)],
            lambda out, m=members: cpu.class_mean(level, features, m, normalize, out),
        )
        chosen = widened(features)[members]
        if normalize:
            lengths = np.linalg.norm(chosen, axis=1, keepdims=True)
            chosen = chosen / np.maximum(lengths, 1e-12)
        mean = chosen.sum(axis=0) / max(1, len(members))
        if normalize:
            mean /= max(float(np.linalg.norm(mean)), 1e-12)
        atol = SUM_UNITS * float(np.finfo(dtype).eps) * np.abs(mean).max()
        np.testing.assert_allclose(got, mean, rtol=0, atol=atol)


@every_kind
@every_dtype
@pytest.mark.parametrize("dim", TAILS)
def test_unit_rows(
    cpu: ModuleType, level: int, dtype: str, kind: str, dim: int, rng: np.random.Generator
) -> None:
    rows = stored(unit(rng, 9, dim), kind)
    rows[4] = 0
    guard = Guarded((9, dim), dtype)
    cpu.unit_rows(level, rows, 2, 7, guard.array)
    guard.check_margins()
    assert guard.written()[2:7].all()
    assert not guard.written()[[0, 1, 7, 8]].any()
    wide = widened(rows)[2:7]
    wanted = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    atol = SUM_UNITS * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(guard.array[2:7], wanted, rtol=0, atol=atol)


def run_nearest_class_mean(
    cpu: ModuleType,
    level: int,
    features: Array,
    means: Array,
    *,
    classes: Array | None = None,
    unit_length: bool = False,
    packed: bool = True,
    ranges: list[tuple[int, int]] | None = None,
) -> list[int]:
    chosen = np.arange(len(means)) if classes is None else classes

    def call(labels: Array) -> None:
        for begin, end in ranges or [(0, len(features))]:
            cpu.nearest_class_mean(
                level, features, means, chosen, unit_length, packed, begin, end, labels
            )

    (labels,) = call_guarded([((len(features),), np.int64)], call)
    return labels.tolist()


def nearest_by_distances(features: Array, means: Array) -> list[int]:
    differences = widened(features)[:, None] - widened(means)
    return np.square(differences).sum(axis=2).argmin(axis=1).tolist()


@every_kind
@every_dtype
@pytest.mark.parametrize(
    ("samples", "classes", "dim"),
    [
        *((samples, 7, 17) for samples in (0, 1, 5, 6, 11, 12, 13, 95, 96, 97, 193)),
        *((9, classes, 17) for classes in (1, 2, 3, 4, 5, *TAILS[1:], 300)),
        *((9, 7, dim) for dim in (*TAILS, 300)),
        (13, 5, 1025),  # rows of 4 KiB and more are copied
    ],
)
def test_nearest_class_mean(
    cpu: ModuleType,
    level: int,
    dtype: str,
    kind: str,
    samples: int,
    classes: int,
    dim: int,
    rng: np.random.Generator,
) -> None:
    features, means = stored(unit(rng, samples, dim), kind), unit(rng, classes, dim).astype(dtype)
    wanted = nearest_by_distances(features, means)
    half = samples // 2
    assert run_nearest_class_mean(cpu, level, features, means) == wanted
    assert run_nearest_class_mean(cpu, level, features, means, packed=False) == wanted
    ranges = [(half, samples), (0, half)]
    assert run_nearest_class_mean(cpu, level, features, means, ranges=ranges) == wanted


@every_dtype
@pytest.mark.parametrize("packed", [False, True])
def test_nearest_class_mean_at_unit_length(
    cpu: ModuleType, level: int, dtype: str, packed: bool, rng: np.random.Generator
) -> None:
    lengths = np.array([[1e-8], [1.0], [1e8]])
    features = (unit(rng, 3, 33) * lengths).astype(dtype)
    means = (unit(rng, 40, 33) * rng.choice(lengths[:, 0], (40, 1))).astype(dtype)
    scaled = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, means)]
    labels = run_nearest_class_mean(cpu, level, features, means, unit_length=True, packed=packed)
    assert labels == nearest_by_distances(*(rows.astype(np.float64) for rows in scaled))


@every_dtype
@pytest.mark.parametrize("packed", [False, True])
def test_nearest_class_mean_among_some_classes(
    cpu: ModuleType, level: int, dtype: str, packed: bool, rng: np.random.Generator
) -> None:
    features, means = unit(rng, 30, 9).astype(dtype), unit(rng, 50, 9).astype(dtype)
    classes = np.arange(3, 50, 2)
    means[::2] = np.nan
    labels = run_nearest_class_mean(cpu, level, features, means, classes=classes, packed=packed)
    assert labels == classes[nearest_by_distances(features, means[classes])].tolist()


@every_dtype
@pytest.mark.parametrize("shift", [0, 30, 1000])
@pytest.mark.parametrize("spread", [1e-5, 1e-3, 1])
def test_nearest_class_mean_where_products_cancel(
    cpu: ModuleType, level: int, dtype: str, shift: float, spread: float, rng: np.random.Generator
) -> None:
    """|m|^2 - 2 <x, m> has few digits left, or none: distances in difference form must decide."""
    means = (shift + unit(rng, 1, 33) + spread * unit(rng, 40, 33)).astype(dtype)
    features = means[10:30] + (spread / 8 * unit(rng, 20, 33)).astype(dtype)
    wanted = nearest_by_distances(features, means)
    assert run_nearest_class_mean(cpu, level, features, means) == wanted


@every_dtype
@pytest.mark.parametrize("packed", [False, True])
def test_nearest_class_mean_of_ties(cpu: ModuleType, level: int, dtype: str, packed: bool) -> None:
    """Ties go to the smaller class, as do features without a direction where that is compared."""
    means = np.array([[2, 0], [0, 1], [2, 0], [np.inf, 0], [0, 1]], dtype)
    features = np.array([[1, 0], [0, 1], [3, 0], [0, 0]], dtype)
    assert run_nearest_class_mean(cpu, level, features, means, packed=packed) == [0, 1, 0, 1]
    labels = run_nearest_class_mean(
        cpu, level, features, means[[1, 0, 2, 4]], unit_length=True, packed=packed
    )
    assert labels == [1, 0, 1, 0]


@every_dtype
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 40])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nearest_class_mean_of_what_is_not_a_number(
    cpu: ModuleType, level: int, dtype: str, packed: bool, classes: int, bad: float
) -> None:
    means = np.arange(1.0, 2 * classes + 1).reshape(-1, 2).astype(dtype)
    features = np.array([[1, 2], [bad, 0], [1, bad]], dtype)
    for unit_length in (False, True):
        labels = run_nearest_class_mean(
            cpu, level, features, means, unit_length=unit_length, packed=packed
        )
        assert labels == [0, -1, -1]
    means[-1, 0] = np.nan
    labels = run_nearest_class_mean(cpu, level, features, means, packed=packed)
    assert labels == [-1, -1, -1]


@pytest.mark.parametrize("packed", [False, True])
def test_nearest_class_mean_of_lengths_whose_squares_overflow(
    cpu: ModuleType, level: int, packed: bool
) -> None:
    features = np.array([[0, 2e19], [3e37, 0]], np.float32)
    means = np.array([[1, 0], [0, 1e20]], np.float32)
    labels = run_nearest_class_mean(cpu, level, features, means, unit_length=True, packed=packed)
    assert labels == [1, 0]


# ---- Nearest neighbours ----

SEARCHES = ["pairs", "small", "sweep"]  # of few queries, of small and of large memories


@every_kind
@every_dtype
@pytest.mark.parametrize("batch", [1, 3, 4, 33])
def test_knn_of_all_types(
    cpu: ModuleType, level: int, dtype: str, kind: str, batch: int, rng: np.random.Generator
) -> None:
    problem = make_knn(Sizes(batch, rows=300, k=9, dim=17), dtype, kind, rng)
    assert_nearest(problem, run_knn(cpu, level, problem), SUM_UNITS)


@every_dtype
@pytest.mark.parametrize("size", [*TAILS, 95, 96, 97, 127, 128, 129, 257])
@pytest.mark.parametrize("axis", ["batch", "rows", "k", "dim"])
@pytest.mark.parametrize(("batch", "rows"), [(5, 260), (40, 260), (12, 1300)], ids=SEARCHES)
def test_knn_tails(
    cpu: ModuleType,
    level: int,
    dtype: str,
    batch: int,
    rows: int,
    axis: str,
    size: int,
    rng: np.random.Generator,
) -> None:
    problem = make_knn(replace(Sizes(batch, rows), **{axis: size}), dtype, dtype, rng)
    assert_nearest(problem, run_knn(cpu, level, problem), SUM_UNITS)


@every_dtype
@pytest.mark.parametrize("k", [1, 2, 40, 200, 300])
@pytest.mark.parametrize("rows", [1023, 1025, 1700, 2500, 5000])
def test_knn_opens_with_a_bound_from_groups(
    cpu: ModuleType, level: int, dtype: str, rows: int, k: int, rng: np.random.Generator
) -> None:
    """Around the number of opening keys, and with keys whose order is the worst or the best."""
    for sign in (-1, 0, 1):
        problem = make_knn(Sizes(batch=7, rows=rows, k=k, dim=5), dtype, dtype, rng)
        order = np.argsort(
            sign * np.square(problem.keys - problem.queries[0]).sum(1), kind="stable"
        )
        problem = replace(problem, keys=problem.keys[order])
        assert_nearest(problem, run_knn(cpu, level, problem), SUM_UNITS)


@every_dtype
def test_knn_at_the_end_of_the_range(
    cpu: ModuleType, level: int, dtype: str, rng: np.random.Generator
) -> None:
    """|q|^2 and |k|^2 are half of the largest number: some products overflow, no distance does."""
    largest = float(np.finfo(dtype).max)
    for dim, rows, k in ((200, 1500, 3), (16, 300, 7), (7, 3000, 1), (33, 200, 20)):
        steps = 1e-6 * rng.standard_normal((rows, dim))
        keys = (np.sqrt(largest / 2 / dim) * (1 + steps)).astype(dtype)
        problem = Knn(keys[:12].copy(), keys, k)
        assert_nearest(problem, run_knn(cpu, level, problem), SUM_UNITS)


@every_dtype
def test_knn_with_one_key_of_huge_norm(
    cpu: ModuleType, level: int, dtype: str, rng: np.random.Generator
) -> None:
    """Its bound is as wide as the distances of all others."""
    problem = make_knn(Sizes(batch=7, rows=3000, k=20, dim=7), dtype, dtype, rng)
    problem.keys[17] = 1e12
    assert_nearest(problem, run_knn(cpu, level, problem), SUM_UNITS)


@pytest.mark.parametrize("batch", [2, 5, 40])
@pytest.mark.parametrize("k", [1, 249, 250, 251, 500])
def test_knn_of_one_and_of_all(
    cpu: ModuleType, level: int, batch: int, k: int, rng: np.random.Generator
) -> None:
    problem = make_knn(Sizes(batch, rows=500, k=k), "float32", "float32", rng)
    assert_nearest(problem, run_knn(cpu, level, problem), SUM_UNITS)


@every_dtype
@pytest.mark.parametrize("k", [1, 20])
@pytest.mark.parametrize("shift", [0, 30, 1000])
@pytest.mark.parametrize("spread", [1e-5, 1e-3, 1])
@pytest.mark.parametrize(("batch", "rows"), [(5, 700), (7, 700), (7, 1400)], ids=SEARCHES)
def test_knn_where_products_cancel(
    cpu: ModuleType,
    level: int,
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
    assert_nearest(problem, run_knn(cpu, level, problem), SUM_UNITS)


@pytest.mark.parametrize("rows", [4500, 17000])
@pytest.mark.parametrize("batch", [2, 7, 140])
@every_dtype
def test_knn_does_not_depend_on_threads(
    cpu: ModuleType, level: int, rows: int, batch: int, dtype: str, rng: np.random.Generator
) -> None:
    """More threads, more blocks of queries or ranges of keys: each has shortlists of its own."""
    problem = make_knn(Sizes(batch, rows=rows, k=40, dim=3), dtype, dtype, rng)
    wanted = run_knn(cpu, level, problem)
    assert_nearest(problem, wanted, SUM_UNITS)
    for threads in (2, 3, 16):
        got = run_knn(cpu, level, problem, threads)
        assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("batch", [2, 9])
def test_knn_puts_the_smaller_row_first_among_equals(
    cpu: ModuleType, level: int, batch: int, rng: np.random.Generator
) -> None:
    keys = np.tile(rng.integers(-1, 2, (11, 4)), (40, 1)).astype(np.float32)
    queries = rng.integers(-1, 2, (batch, 4)).astype(np.float32)
    for k in (1, 45, 440):
        problem = Knn(queries, keys, k)
        distances, indices = run_knn(cpu, level, problem)
        order = np.argsort(problem.true_distances(), axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(indices, order)
        np.testing.assert_array_equal(
            distances, np.take_along_axis(problem.true_distances(), order, 1)
        )


@every_dtype
@pytest.mark.parametrize("batch", [2, 9])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_knn_puts_infinity_and_then_nan_last(
    cpu: ModuleType, level: int, dtype: str, batch: int, k: int
) -> None:
    keys = np.zeros((6, 4), dtype)
    keys[0], keys[5], keys[3] = np.nan, np.nan, 2
    keys[1, 2], keys[4, 0] = np.inf, -np.inf
    problem = Knn(np.ones((batch, 4), dtype), keys, k)
    distances, indices = run_knn(cpu, level, problem)
    wanted = [4, 4, np.inf, np.inf, np.nan, np.nan][:k]
    np.testing.assert_array_equal(distances, np.tile(wanted, (batch, 1)))
    np.testing.assert_array_equal(indices, np.tile([2, 3, 1, 4, 0, 5][:k], (batch, 1)))


def test_knn_without_queries(cpu: ModuleType, level: int, rng: np.random.Generator) -> None:
    problem = make_knn(Sizes(batch=0), "float32", "float32", rng)
    assert all(output.size == 0 for output in run_knn(cpu, level, problem))


@every_dtype
def test_levels_find_the_same_rows(cpu: ModuleType, dtype: str, rng: np.random.Generator) -> None:
    problem = make_knn(Sizes(batch=20, rows=2000, k=50, dim=33), dtype, dtype, rng)
    base, *others = (run_knn(cpu, level, problem) for level in range(cpu.best_level + 1))
    rtol = SUM_UNITS * float(np.finfo(dtype).eps)
    for distances, indices in others:
        np.testing.assert_array_equal(indices, base[1])
        np.testing.assert_allclose(distances, base[0], rtol=rtol)
