"""The raw CPU kernels of retrieval at every SIMD level, in buffers of exactly their size."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from cpu_cases import TAILS, every_dtype, every_kind
from guarded_arrays import Array, Guarded, call_guarded
from kernel_problems import (
    stored,
    unit,
    widened,
)

# Of a sum of non-negative terms, as rows.h promises: 2e-6 in float32.
SUM_UNITS = 16


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
