"""The CUDA kernels' own text in the SIMT emulator: right, and the same in every order of threads.

Scratch memory has exactly the size that a launcher asks for and starts as NaN. What the emulator
cannot show is listed in ``simt_emulator.h``.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from cuda_orders import in_every_order
from guarded_arrays import Array
from kernel_problems import (
    ADAPTATION,
    PAIRS,
    Knn,
    Neighbourhood,
    Sizes,
    assert_near,
    assert_nearest,
    make,
    make_far_mixture,
    make_huge_mixture,
    make_knn,
    stored,
    tensor,
    unit,
    variants,
    widened,
)

from clfast import reference

# Of a sum of squares, as product_tile.cuh promises.
DISTANCE_UNITS = 20

every_kernel = pytest.mark.parametrize("kernel", ADAPTATION)
every_pair = pytest.mark.parametrize(("dtype", "kind"), PAIRS)


def run(cuda: ModuleType, problem: Neighbourhood, chunk: int | None = None) -> list[Array]:
    how_many = (chunk or max(1, problem.batch),) if problem.chunked else ()
    kernel = getattr(cuda, problem.kernel)
    return in_every_order(cuda, problem.outputs(), lambda *out: kernel(problem, *how_many, *out))


def assert_right(cuda: ModuleType, problem: Neighbourhood) -> None:
    assert_near(problem, run(cuda, problem), problem.oracle())


def run_knn(cuda: ModuleType, problem: Knn, chunk: int | None = None) -> list[Array]:
    at_a_time = chunk or max(1, len(problem.queries))
    return in_every_order(cuda, problem.outputs(), lambda *out: cuda.knn(problem, at_a_time, *out))


# ---- Nearest neighbours ----


@every_pair
@pytest.mark.parametrize("size", [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129])
@pytest.mark.parametrize("axis", ["batch", "rows", "k", "dim"])
def test_knn_tails(
    cuda: ModuleType, dtype: str, kind: str, axis: str, size: int, rng: np.random.Generator
) -> None:
    problem = make_knn(replace(Sizes(rows=130), **{axis: size}), dtype, kind, rng)
    assert_nearest(problem, run_knn(cuda, problem), DISTANCE_UNITS)


@pytest.mark.parametrize("rows", [255, 256, 257, 600])
@pytest.mark.parametrize("k", [1, 2, 250, 255])
def test_knn_of_more_rows_than_threads(
    cuda: ModuleType, rows: int, k: int, rng: np.random.Generator
) -> None:
    problem = make_knn(Sizes(batch=2, rows=rows, k=k, dim=5), "float32", "float32", rng)
    assert_nearest(problem, run_knn(cuda, problem), DISTANCE_UNITS)


@pytest.mark.parametrize("rows", [256, 257, 300, 513])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_knn_of_all_rows(cuda: ModuleType, rows: int, dtype: str, rng: np.random.Generator) -> None:
    problem = make_knn(Sizes(batch=2, rows=rows, k=rows, dim=5), dtype, dtype, rng)
    assert_nearest(problem, run_knn(cuda, problem), DISTANCE_UNITS)


@pytest.mark.parametrize("chunk", [1, 2, 64, 70, 100])
def test_knn_in_chunks(cuda: ModuleType, chunk: int, rng: np.random.Generator) -> None:
    batch = 5 if chunk < 64 else 70
    problem = make_knn(Sizes(batch, rows=70, k=7, dim=5), "float32", "float32", rng)
    whole = run_knn(cuda, problem)
    assert_nearest(problem, whole, DISTANCE_UNITS)
    for got, wanted in zip(run_knn(cuda, problem, chunk), whole, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("k", [1, 44, 256, 300])
def test_knn_puts_the_smaller_row_first_among_equals(
    cuda: ModuleType, k: int, rng: np.random.Generator
) -> None:
    keys = np.tile(rng.integers(-1, 2, (11, 4)), (28, 1)).astype(np.float32)
    problem = Knn(rng.integers(-1, 2, (3, 4)).astype(np.float32), keys, k)
    distances, indices = run_knn(cuda, problem)
    order = np.argsort(problem.true_distances(), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(problem.true_distances(), order, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_knn_puts_infinity_and_then_nan_last(cuda: ModuleType, dtype: str, k: int) -> None:
    keys = np.zeros((6, 4), dtype)
    keys[0], keys[5], keys[3] = np.nan, np.nan, 2
    keys[1, 2], keys[4, 0] = np.inf, -np.inf
    distances, indices = run_knn(cuda, Knn(np.ones((2, 4), dtype), keys, k))
    wanted = [4, 4, np.inf, np.inf, np.nan, np.nan][:k]
    np.testing.assert_array_equal(distances, np.tile(wanted, (2, 1)))
    np.testing.assert_array_equal(indices, np.tile([2, 3, 1, 4, 0, 5][:k], (2, 1)))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_knn_widens_every_magnitude(cuda: ModuleType, kind: str) -> None:
    """Zeros, subnormals, ordinary numbers and infinity, each as a key of its own."""
    bits = np.arange(0, 2**15, 31, dtype=np.uint16)
    keys = bits.view(np.float16) if kind == "float16" else bits
    with np.errstate(all="ignore"):
        squares = np.square(widened(keys).astype(np.float32))
    problem = Knn(np.zeros((1, 1), np.float32), keys[:, None], len(keys))
    distances, indices = run_knn(cuda, problem)
    np.testing.assert_array_equal(indices[0], np.argsort(squares, kind="stable"))
    np.testing.assert_array_equal(distances[0], np.sort(squares))


# ---- Class means ----


def run_class_means(
    cuda: ModuleType, features: Array, labels: Array, classes: int, normalize: bool, dtype: str
) -> Array:
    (means,) = in_every_order(
        cuda,
        [((classes, features.shape[1]), dtype)],
        lambda out: cuda.class_means(features, labels, normalize, out),
    )
    return means


@every_pair
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("samples", "dim"),
    [(0, 5), (1, 1), (7, 33), (8, 32), (9, 31), (255, 3), (256, 2), (257, 3), (20, 255), (20, 257)],
)
def test_class_means(
    cuda: ModuleType,
    dtype: str,
    kind: str,
    normalize: bool,
    samples: int,
    dim: int,
    rng: np.random.Generator,
) -> None:
    features = stored(unit(rng, samples, dim) + 0.5, kind)
    features[samples // 2 : samples // 2 + 1] = 0
    labels = rng.integers(0, 4, samples)  # the last of five classes is empty
    means = run_class_means(cuda, features, labels, 5, normalize, dtype)
    wanted = reference.retrieval.class_means(
        tensor(features), torch.from_numpy(labels), 5, normalize=normalize
    ).numpy()
    atol = 8 * float(np.finfo(dtype).eps) * np.abs(wanted).max()
    np.testing.assert_allclose(means, wanted, rtol=0, atol=atol)
    # Labels outside of the classes are left out.
    labels[::3] = rng.choice([-1, 5, 2**40, -(2**40)], len(labels[::3]))
    means = run_class_means(cuda, features, labels, 5, normalize, dtype)
    fine = (labels >= 0) & (labels < 5)
    wanted = reference.retrieval.class_means(
        tensor(features[fine]), torch.from_numpy(labels[fine]), 5, normalize=normalize
    ).numpy()
    np.testing.assert_allclose(means, wanted, rtol=0, atol=atol)


def test_class_means_of_many_classes(cuda: ModuleType, rng: np.random.Generator) -> None:
    features = unit(rng, 300, 3).astype(np.float32)
    labels = rng.permutation(300)
    means = run_class_means(cuda, features, labels, 300, False, "float32")
    np.testing.assert_array_equal(means[labels], features)


# ---- Nearest class mean ----


def run_nearest_class_mean(
    cuda: ModuleType, features: Array, means: Array, cosine: bool, chunk: int
) -> Array:
    (labels,) = in_every_order(
        cuda,
        [((len(features),), np.int64)],
        lambda out: cuda.nearest_class_mean(features, means, cosine, chunk, out),
    )
    return labels


@every_pair
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize(
    ("samples", "classes", "dim", "chunk"),
    [
        *((0, 3, 4, 1), (1, 1, 1, 1), (9, 8, 33, 4), (65, 7, 5, 64), (7, 9, 32, 100)),
        *((5, 63, 31, 2), (5, 64, 16, 5), (5, 65, 17, 5), (3, 300, 9, 2), (300, 2, 2, 300)),
    ],
)
def test_nearest_class_mean(
    cuda: ModuleType,
    dtype: str,
    kind: str,
    cosine: bool,
    samples: int,
    classes: int,
    dim: int,
    chunk: int,
    rng: np.random.Generator,
) -> None:
    features = stored(unit(rng, samples, dim), kind)
    means = (unit(rng, classes, dim) * rng.uniform(0.5, 2, (classes, 1))).astype(dtype)
    means[1:-1:3] = 0  # empty classes
    labels = run_nearest_class_mean(cuda, features, means, cosine, chunk)
    wanted = reference.retrieval.nearest_class_mean(
        tensor(features), tensor(means), metric="cosine" if cosine else "euclidean"
    )
    np.testing.assert_array_equal(labels, wanted.numpy())


@pytest.mark.parametrize("cosine", [False, True])
def test_nearest_class_mean_of_ties_and_of_nothing(cuda: ModuleType, cosine: bool) -> None:
    features = np.array([[1, 0], [0, 1], [3, 0]], np.float32)
    means = np.array([[0, 0], [2, 0], [0, 1], [2, 0], [0, 1]], np.float32)
    assert run_nearest_class_mean(cuda, features, means, cosine, 2).tolist() == [1, 2, 1]
    none = np.zeros((4, 2), np.float32)
    assert run_nearest_class_mean(cuda, features, none, cosine, 2).tolist() == [-1, -1, -1]


def test_nearest_class_mean_of_features_without_a_direction(cuda: ModuleType) -> None:
    means = np.array([[0, 0], [0.1, 0.3], [0.7, 0.1], [-1, 0]], np.float32)
    features = np.array([[0, 0], [0, 1], [0, 0], [-2, 0]], np.float32)
    assert run_nearest_class_mean(cuda, features, means, True, 3).tolist() == [1, 1, 1, 3]


def test_nearest_class_mean_of_features_that_are_not_numbers(cuda: ModuleType) -> None:
    """All distances are NaN, or infinite: the first class that is not empty, as on the CPU."""
    features = np.array([[np.nan, 0], [np.inf, 0], [1, 0]], np.float32)
    means = np.array([[0, 0], [2, 0], [1, 1]], np.float32)
    assert run_nearest_class_mean(cuda, features, means, False, 3).tolist() == [1, 1, 1]


# ---- Adaptation ----


@every_kernel
@every_pair
def test_adaptation_of_all_types(
    cuda: ModuleType, kernel: str, dtype: str, kind: str, rng: np.random.Generator
) -> None:
    assert_right(cuda, make(kernel, Sizes(), dtype, kind, rng))


@every_kernel
@pytest.mark.parametrize("size", [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 300])
@pytest.mark.parametrize("axis", ["k", "dim", "classes"])
def test_adaptation_tails(
    cuda: ModuleType, kernel: str, axis: str, size: int, rng: np.random.Generator
) -> None:
    sizes = replace(Sizes(batch=2, dim=5), **{axis: size})
    assert_right(cuda, make(kernel, sizes, "float32", "float32", rng))


@every_kernel
@pytest.mark.parametrize("sizes", [Sizes(1, 50, 300, 5, 257), Sizes(1, 5, 70, 65, 66)])
def test_adaptation_of_several_blocks_on_every_axis(
    cuda: ModuleType, kernel: str, sizes: Sizes, rng: np.random.Generator
) -> None:
    assert_right(cuda, make(kernel, sizes, "float64", "float64", rng))


@every_kernel
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adaptation_on_every_path(
    cuda: ModuleType, kernel: str, dtype: str, rng: np.random.Generator
) -> None:
    given = make(kernel, Sizes(batch=2), dtype, dtype, rng)
    for changes in variants(given, rng):
        assert_right(cuda, replace(given, **changes))


@pytest.mark.parametrize("kernel", ["hebb_logits", "mixture_log_probs"])
@every_pair
def test_dot_products_from_norms(
    cuda: ModuleType, kernel: str, dtype: str, kind: str, rng: np.random.Generator
) -> None:
    given = make(kernel, Sizes(), dtype, kind, rng)
    norms = np.square(widened(given.keys)).sum(axis=1).astype(dtype)
    assert_right(cuda, replace(given, key_sq_norms=norms))


@every_kernel
def test_zero_and_infinite_distances(
    cuda: ModuleType, kernel: str, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(batch=3), "float32", "float32", rng)
    problem.sq_distances[:, 0] = 0
    problem.sq_distances[1, 2:5] = np.inf
    problem.sq_distances[2] = np.inf
    assert_right(cuda, problem)


@pytest.mark.parametrize("joint", [False, True])
def test_mixture_of_huge_scores_and_logits(
    cuda: ModuleType, joint: bool, rng: np.random.Generator
) -> None:
    assert_right(cuda, make_huge_mixture(rng, joint=joint))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("which", ["logits", "scores"])
def test_mixture_of_numbers_far_from_zero(
    cuda: ModuleType, which: str, joint: bool, rng: np.random.Generator
) -> None:
    assert_right(cuda, make_far_mixture(which, rng, joint=joint))


@every_kernel
@pytest.mark.parametrize("name", ["queries", "weight", "bias", "logits", "base_logits"])
def test_nan_reaches_the_results_that_depend_on_it(
    cuda: ModuleType, kernel: str, name: str, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(), "float32", "float32", rng)
    if hasattr(problem, name):
        getattr(problem, name)[1] = np.nan
        assert any(np.isnan(wanted).any() for wanted in problem.oracle())
    assert_right(cuda, problem)


@every_kernel
def test_rows_without_features(cuda: ModuleType, kernel: str, rng: np.random.Generator) -> None:
    assert_right(cuda, make(kernel, Sizes(dim=0), "float32", "float32", rng))


@pytest.mark.parametrize("kernel", ["mbpa_update", "hebb_logits"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 9])
def test_adaptation_in_chunks(
    cuda: ModuleType, kernel: str, chunk: int, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(batch=5), "float32", "float32", rng)
    whole = run(cuda, problem)
    for got, wanted in zip(run(cuda, problem, chunk), whole, strict=True):
        np.testing.assert_array_equal(got, wanted)


@every_kernel
def test_no_queries(cuda: ModuleType, kernel: str, rng: np.random.Generator) -> None:
    problem = make(kernel, Sizes(batch=0), "float32", "float32", rng)
    assert all(output.size == 0 for output in run(cuda, problem))


def test_knn_without_queries(cuda: ModuleType, rng: np.random.Generator) -> None:
    problem = make_knn(Sizes(batch=0), "float32", "float32", rng)
    assert all(output.size == 0 for output in run_knn(cuda, problem))


def spoil(problem: Any, rng: np.random.Generator) -> None:
    """Neighbours at fault of every kind; all of query 0, none of the last.

    Rows whose labels are at fault, row 0 among them, hold NaN: nothing of them may be used.
    """
    indices, distances, last = problem.indices, problem.sq_distances, problem.batch - 1
    rows, beyond = len(problem.keys), [-1, 2**40, -(2**40)]
    stranger = np.setdiff1d(np.arange(rows), indices[last])[0]
    per_row = [problem.keys, problem.labels]
    if getattr(problem, "key_sq_norms", None) is not None:
        per_row.append(problem.key_sq_norms)
    for array in per_row:
        array[[0, stranger]] = array[[stranger, 0]]
    indices[:] = np.where(indices == 0, stranger, np.where(indices == stranger, 0, indices))
    strangers = np.setdiff1d(np.arange(rows), indices[last])
    problem.labels[strangers] = rng.choice([*beyond, problem.num_classes], len(strangers))
    problem.keys[strangers] = 0x7FC0 if problem.keys.dtype == np.uint16 else np.nan
    indices[0, ::2], distances[0, 1::2] = -1, np.nan
    indices[1:last, 0::9] = rng.choice([*beyond, rows], indices[1:last, 0::9].shape)
    bad = distances[1:last, 4::9]
    distances[1:last, 4::9] = rng.choice([-1.0, -np.inf, np.nan], bad.shape)
    if problem.closeness is not None:
        problem.closeness[1:last, 5::9] = rng.choice([-1.0, np.nan], bad.shape)


@pytest.mark.parametrize(
    ("kernel", "norms"),
    [*((kernel, False) for kernel in ADAPTATION), *((kernel, True) for kernel in ADAPTATION[2:])],
)
@pytest.mark.parametrize("given", [False, True], ids=["", "closeness given"])
@every_pair
def test_neighbours_at_fault_are_left_out(
    cuda: ModuleType,
    kernel: str,
    dtype: str,
    kind: str,
    given: bool,
    norms: bool,
    rng: np.random.Generator,
) -> None:
    problem = make(kernel, Sizes(batch=4, k=40), dtype, kind, rng)
    if given:
        closeness = rng.uniform(0.1, 2, problem.sq_distances.shape).astype(dtype)
        problem = replace(problem, closeness=closeness)
    if norms:
        squares = np.square(widened(problem.keys)).sum(axis=1)
        problem = replace(problem, key_sq_norms=squares.astype(dtype))
    spoil(problem, rng)
    assert [problem.fine(query).any() for query in range(4)] == [False, True, True, True]
    assert [problem.fine(query).all() for query in range(4)] == [False, False, False, True]
    for changes in ({}, {"select": None}) if hasattr(problem, "select") else ({},):
        changed = replace(problem, **changes)
        by_query = [changed.of_query(query).oracle() for query in range(4)]
        wanted = [np.concatenate(results) for results in zip(*by_query, strict=True)]
        assert_near(problem, run(cuda, changed), wanted)


@every_kernel
@every_pair
def test_an_empty_memory(
    cuda: ModuleType, kernel: str, dtype: str, kind: str, rng: np.random.Generator
) -> None:
    """Whatever the neighbours are, there is no row that could be read."""
    full = make(kernel, Sizes(), dtype, kind, rng)
    problem = replace(full, keys=full.keys[:0].copy(), labels=full.labels[:0].copy())
    assert not any(problem.fine(query).any() for query in range(problem.batch))
    by_query = [problem.of_query(query).oracle() for query in range(problem.batch)]
    wanted = [np.concatenate(results) for results in zip(*by_query, strict=True)]
    assert_near(problem, run(cuda, problem), wanted)


# ---- Interpolation weights ----


def exact_weight(count: int, beta: float) -> float:
    with localcontext() as context:
        context.prec = 60
        b = Decimal(beta)
        return 1.0 if count <= 1 else float((1 - b) / (1 - b**count))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.999, 1 - 1e-9])
@pytest.mark.parametrize("classes", [0, 1, 255, 256, 257])
def test_interpolation_weights(
    cuda: ModuleType, dtype: str, beta: float, classes: int, rng: np.random.Generator
) -> None:
    counts = rng.integers(0, 4, classes) * 10 ** rng.integers(0, 9, classes)
    (got,) = in_every_order(
        cuda, [((classes,), dtype)], lambda out: cuda.interpolation_weights(counts, beta, out)
    )
    wanted = [exact_weight(int(count), beta) for count in counts]
    np.testing.assert_allclose(got, wanted, rtol=2 * float(np.finfo(dtype).eps))


# ---- Types that do not go together ----


def test_half_keys_do_not_go_with_float64(cuda: ModuleType, rng: np.random.Generator) -> None:
    problem = make_knn(Sizes(), "float64", "float16", rng)
    with pytest.raises(RuntimeError, match="invalid argument"):
        run_knn(cuda, problem)
    for kernel in ADAPTATION:
        problem = make(kernel, Sizes(), "float64", "float16", rng)
        with pytest.raises(RuntimeError, match="invalid argument"):
            run(cuda, problem)
