"""Every way in which knn searches a memory, on data that defeats it or the ways before it: the same
bits as one pair after another, which is how one query is searched."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from guarded_arrays import Array, call_guarded
from kernel_problems import Knn, stored

Maker = Callable[[np.random.Generator, int, int, int], tuple[Array, Array]]


def knn(cpu: ModuleType, level: int, problem: Knn, threads: int = 1) -> list[Array]:
    return call_guarded(problem.outputs(), lambda *out: cpu.knn(level, problem, threads, *out))


def assert_as_pairs(cpu: ModuleType, level: int, problem: Knn, threads: int = 1) -> None:
    alone = [
        knn(cpu, level, Knn(problem.queries[i : i + 1], problem.keys, problem.k))
        for i in range(len(problem.queries))
    ]
    got = knn(cpu, level, problem, threads)
    for ours, theirs in zip(got, zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(ours, np.concatenate(theirs))


def gaussian(rng: np.random.Generator, rows: int, dim: int, batch: int) -> tuple[Array, Array]:
    return rng.standard_normal((rows, dim)), rng.standard_normal((batch, dim))


def relu(rng: np.random.Generator, rows: int, dim: int, batch: int) -> tuple[Array, Array]:
    keys, queries = gaussian(rng, rows, dim, batch)
    return np.maximum(keys, 0), np.maximum(queries, 0)


def clusters(count: int, spread: float, in_order: bool = False) -> Maker:
    def make(rng: np.random.Generator, rows: int, dim: int, batch: int) -> tuple[Array, Array]:
        centres = rng.standard_normal((count, dim))
        of_key, of_query = rng.integers(count, size=rows), rng.integers(count, size=batch)
        if in_order:
            of_key = np.sort(of_key)
        keys, queries = gaussian(rng, rows, dim, batch)
        return centres[of_key] + spread * keys, centres[of_query] + spread * queries

    return make


def half_in_a_cluster(
    rng: np.random.Generator, rows: int, dim: int, batch: int
) -> tuple[Array, Array]:
    keys, queries = gaussian(rng, rows, dim, batch)
    close, near = clusters(1, 1e-4)(rng, rows // 2, dim, batch // 2)
    keys[: rows // 2], queries[: batch // 2] = close, near
    return keys, queries


def few_different_keys(
    rng: np.random.Generator, rows: int, dim: int, batch: int
) -> tuple[Array, Array]:
    """Ties without number: the smaller rows win."""
    keys, queries = gaussian(rng, rows, dim, batch)
    return np.resize(keys[:3], keys.shape), queries


def sorted_by_distance(
    rng: np.random.Generator, rows: int, dim: int, batch: int
) -> tuple[Array, Array]:
    keys, queries = gaussian(rng, rows, dim, batch)
    return keys[np.square(keys - queries[0]).sum(1).argsort()], queries


def sampled_keys_are_near(
    rng: np.random.Generator, rows: int, dim: int, batch: int
) -> tuple[Array, Array]:
    """A dozen keys in sampled blocks lie by the queries, all others far away: no guess from the
    sample holds 20 keys. The blocks' places are those of Knn::sampled_block."""
    blocks, size = min(max(rows // 32, 1024), rows // 4) // 36, 36
    keys, queries = gaussian(rng, rows, dim, batch)
    keys += 100
    for block in range(min(12, blocks)):
        begin, end = block * rows // blocks, (block + 1) * rows // blocks
        at = begin + (block * 40503 % 65536 * (end - begin - size) >> 16)
        keys[at + 7] = 0.1 * rng.standard_normal(dim)
    return keys, queries


def extremes(scale: float) -> Maker:
    def make(rng: np.random.Generator, rows: int, dim: int, batch: int) -> tuple[Array, Array]:
        keys, queries = gaussian(rng, rows, dim, batch)
        return scale * keys, scale * queries

    return make


def some(value: float) -> Maker:
    def make(rng: np.random.Generator, rows: int, dim: int, batch: int) -> tuple[Array, Array]:
        keys, queries = gaussian(rng, rows, dim, batch)
        keys[rng.integers(rows, size=30), rng.integers(dim, size=30)] = value
        queries[1, dim // 2] = value
        return keys, queries

    return make


def opposite_ends_of_the_range(
    rng: np.random.Generator, rows: int, dim: int, batch: int
) -> tuple[Array, Array]:
    """|q|^2 and |k|^2 are half of the largest number: some products and distances overflow."""
    ends = np.sqrt(float(np.finfo(np.float32).max) / 2 / dim)
    keys, queries = gaussian(rng, rows, dim, batch)
    return tuple(
        ends * rng.choice([-1, 1], size=(len(x), 1)) * (1 + 1e-3 * x) for x in (keys, queries)
    )


def mostly_outside(value: float) -> Maker:
    """More rows than a shortlist may hold have no finite distance, and one begins a block."""

    def make(rng: np.random.Generator, rows: int, dim: int, batch: int) -> tuple[Array, Array]:
        keys, queries = gaussian(rng, rows, dim, batch)
        keys[rng.random(rows) < 0.6, 0] = value
        keys[0, 0] = value
        return keys, queries

    return make


def one_huge(rng: np.random.Generator, rows: int, dim: int, batch: int) -> tuple[Array, Array]:
    """Its bound is as wide as the distances of all others; another's norm overflows."""
    keys, queries = gaussian(rng, rows, dim, batch)
    keys[0], keys[rows // 2] = 1e12, 1e30
    return keys, queries


DATA: dict[str, Maker] = {
    "gaussian": gaussian,
    "relu": relu,
    "one far cluster": clusters(1, 1e-5),
    "two clusters": clusters(2, 1e-4),
    "ten clusters in order": clusters(10, 1e-4, in_order=True),
    "a hundred clusters in order": clusters(100, 0.1, in_order=True),
    "half in a cluster": half_in_a_cluster,
    "few different keys": few_different_keys,
    "sorted by distance": sorted_by_distance,
    "sampled keys are near": sampled_keys_are_near,
    "tiny": extremes(1e-22),
    "subnormal": extremes(1e-38),
    "huge": extremes(3e18),
    "opposite ends of the range": opposite_ends_of_the_range,
    "many nan": mostly_outside(np.nan),
    "many inf": mostly_outside(np.inf),
    "one huge": one_huge,
    "some nan": some(np.nan),
    "some inf": some(np.inf),
    "some large": some(3e38),
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(
    ("batch", "rows", "k", "dim", "threads"),
    [
        (40, 14_000, 20, 33, 1),  # a sample, one range of keys
        (20, 17_000, 20, 7, 2),  # ranges of keys that share a sample
        (20, 3_000, 20, 33, 1),  # scores are kept
        (8, 3_000, 20, 33, 1),  # so few queries that vectors of AVX-512 would be half empty
        (8, 17_000, 20, 7, 2),
        (40, 3_000, 20, 33, 3),  # a small memory
        (12, 3_000, 20, 350, 1),  # pairs, two queries and two keys at a time
        (17, 3_000, 1_600, 7, 1),  # pairs, since most keys are neighbours
        (8, 9_000, 20, 33, 3),  # scores are kept, of ranges of keys
        (200, 1_000, 20, 33, 1),  # a small memory, and blocks of queries
    ],
)
def test_as_one_pair_after_another(
    cpu: ModuleType,
    knn_level: int,
    batch: int,
    rows: int,
    k: int,
    dim: int,
    threads: int,
    data: str,
    rng: np.random.Generator,
) -> None:
    with np.errstate(over="ignore"):
        keys, queries = (x.astype(np.float32) for x in DATA[data](rng, rows, dim, batch))
    assert_as_pairs(cpu, knn_level, Knn(queries, keys, k), threads)


@pytest.mark.parametrize(
    "data",
    [
        "gaussian",
        "two clusters",
        "few different keys",
        "some nan",
        "some inf",
        "many nan",
        "one huge",
    ],
)
@pytest.mark.parametrize(("batch", "rows"), [(40, 14_000), (40, 1_000), (4, 1_000)])
def test_in_float64(
    cpu: ModuleType, knn_level: int, data: str, batch: int, rows: int, rng: np.random.Generator
) -> None:
    keys, queries = DATA[data](rng, rows, 9, batch)
    assert_as_pairs(cpu, knn_level, Knn(queries, keys, 20))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("data", ["relu", "two clusters"])
@pytest.mark.parametrize(("batch", "rows"), [(40, 14_000), (40, 900), (5, 901), (8, 5_000)])
def test_keys_of_16_bits(
    cpu: ModuleType,
    knn_level: int,
    kind: str,
    data: str,
    batch: int,
    rows: int,
    rng: np.random.Generator,
) -> None:
    keys, queries = DATA[data](rng, rows, 33, batch)
    assert_as_pairs(cpu, knn_level, Knn(queries.astype(np.float32), stored(keys, kind), 20))


@pytest.mark.parametrize("k", [1, 200])
@pytest.mark.parametrize(
    ("batch", "rows"), [(40, 13_107), (40, 13_108), (32, 16_383), (32, 16_384), (7, 9_000)]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_around_the_largest_memory_whose_scores_are_kept(
    cpu: ModuleType,
    knn_level: int,
    batch: int,
    rows: int,
    k: int,
    threads: int,
    rng: np.random.Generator,
) -> None:
    queries, keys = (x.astype(np.float32) for x in gaussian(rng, batch, 33, rows))
    assert_as_pairs(cpu, knn_level, Knn(queries, keys, k), threads)


@pytest.mark.parametrize("rows", [5, 100, 20_000])
def test_without_features(cpu: ModuleType, knn_level: int, rows: int) -> None:
    """All keys are at distance 0."""
    problem = Knn(np.empty((40, 0), np.float32), np.empty((rows, 0), np.float32), 3)
    distances, indices = knn(cpu, knn_level, problem)
    np.testing.assert_array_equal(distances, 0)
    np.testing.assert_array_equal(indices, np.tile([0, 1, 2], (40, 1)))


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("dim", [1, 15, 16, 17, 64, 65, 100, 1040])
@pytest.mark.parametrize(("rows", "k"), [(1, 1), (3, 2), (31, 7), (33, 30), (97, 1), (240, 50)])
def test_small_memories(
    cpu: ModuleType,
    knn_level: int,
    batch: int,
    rows: int,
    dim: int,
    k: int,
    rng: np.random.Generator,
) -> None:
    queries, keys = (x.astype(np.float32) for x in gaussian(rng, batch, dim, rows))
    assert_as_pairs(cpu, knn_level, Knn(queries, keys, k), threads=2)


@pytest.mark.parametrize(
    ("batch", "rows", "dim"),
    [
        *((41, rows, dim) for rows in (4_096, 4_097) for dim in (64, 65)),  # 1 MiB of keys
        *((9, rows, 33) for rows in (900, 901)),  # a hundred keys a query
        *((40, 300, dim) for dim in (1_023, 1_024, 1_025)),  # queries where they lie, or copied
        *((20, 5_000, dim) for dim in (255, 256, 257)),  # keys where they lie, or copied
        (5, 20_000, 16),  # pairs, in ranges of keys
    ],
)
def test_around_what_decides_the_way(
    cpu: ModuleType, knn_level: int, batch: int, rows: int, dim: int, rng: np.random.Generator
) -> None:
    queries, keys = (x.astype(np.float32) for x in gaussian(rng, batch, dim, rows))
    assert_as_pairs(cpu, knn_level, Knn(queries, keys, 11), threads=3)


@pytest.mark.parametrize("batch", [2, 5, 40])
def test_more_threads_than_ranges_of_keys(
    cpu: ModuleType, knn_level: int, batch: int, rng: np.random.Generator
) -> None:
    """Few wide keys are shared out by ranges, of which most are empty."""
    queries, keys = (x.astype(np.float32) for x in gaussian(rng, batch, 7_000, 40))
    assert_as_pairs(cpu, knn_level, Knn(queries, keys, 3), threads=16)
