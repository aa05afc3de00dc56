"""knn is exact: whatever the data, the blocking, the threads or the rest of the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clfast.experiments.run_folder import SIMD_LEVELS
from clfast.ops import Neighbors, RoundedKeys, knn, nearest_class_mean


def true_distances(queries: Tensor, keys: Tensor) -> Tensor:
    return torch.stack([(keys.double() - q).square().sum(1) for q in queries.double()])


def assert_exact(found: Neighbors, queries: Tensor, keys: Tensor) -> None:
    """The k smallest distances up to float32 rounding in difference form, ordered, with ties by
    the smaller row."""
    distances, rows = found
    k = distances.shape[1]
    truth = true_distances(queries, keys)
    tolerance = 2e-6 if distances.dtype == torch.float32 else 1e-14
    torch.testing.assert_close(
        distances.double(), truth.gather(1, rows), rtol=tolerance, atol=1e-30
    )
    ordered = (distances[:, 1:] > distances[:, :-1]) | (
        (distances[:, 1:] == distances[:, :-1]) & (rows[:, 1:] > rows[:, :-1])
    )
    assert bool(ordered.all())
    kth = truth.topk(k, largest=False).values[:, -1:]
    assert bool((distances.double() <= kth * (1 + tolerance) + 1e-30).all())


def clusters(rows: int, dim: int, spread: float, rng: torch.Generator) -> Tensor:
    """100 classes, sorted by class."""
    centres = torch.randn(100, dim, generator=rng)
    labels = torch.arange(rows) * 100 // rows
    return centres[labels] + spread * torch.randn(rows, dim, generator=rng)


def data(kind: str, rows: int, dim: int, rng: torch.Generator) -> Tensor:
    if kind == "gaussian":
        return torch.randn(rows, dim, generator=rng)
    if kind == "clusters":
        return clusters(rows, dim, 0.1, rng)
    if kind == "tight clusters":
        return clusters(rows, dim, 1e-3, rng)
    if kind == "relu":
        return torch.randn(rows, dim, generator=rng).relu()
    if kind == "duplicates":
        return torch.randn(rows // 50 + 1, dim, generator=rng).repeat(50, 1)[:rows]
    if kind == "far from the origin":
        return 1000 + torch.randn(rows, dim, generator=rng)
    assert kind == "near equal"
    return torch.randn(dim, generator=rng) + 1e-5 * torch.randn(rows, dim, generator=rng)


KINDS = [
    "gaussian",
    "clusters",
    "tight clusters",
    "relu",
    "duplicates",
    "far from the origin",
    "near equal",
]


every_level = pytest.mark.parametrize("simd_level", SIMD_LEVELS, indirect=True)


@every_level
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 4, 130])
def test_exact_on(kind: str, batch: int, simd_level: str, rng: torch.Generator) -> None:
    keys = data(kind, 2999, 48, rng)
    queries = keys[torch.randint(0, len(keys), (batch,), generator=rng)]
    queries = queries + 0.01 * torch.randn(batch, 48, generator=rng)
    norms = keys.square().sum(1)
    assert_exact(knn(queries, keys, 50), queries, keys)
    assert_exact(knn(queries, keys, 50, key_sq_norms=norms), queries, keys)


@every_level
@pytest.mark.parametrize("batch", [4, 40])
def test_exact_where_most_keys_are_near_equal(
    batch: int, simd_level: str, rng: torch.Generator
) -> None:
    near, others = data("near equal", 50_000, 24, rng), data("gaussian", 10_000, 24, rng)
    order = torch.randperm(60_000, generator=rng)
    keys = torch.cat([near, others])[order]
    queries = data("gaussian", batch, 24, rng)
    queries[::2] = near[:1] + 1e-5 * queries[::2]
    assert_exact(knn(queries, keys, 200), queries, keys)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_exact_in(dtype: torch.dtype, rng: torch.Generator) -> None:
    keys = data("clusters", 1500, 33, rng).to(dtype)
    queries = data("gaussian", 20, 33, rng).to(dtype)
    assert_exact(knn(queries, keys, 40), queries, keys)


def test_float32_queries_of_bfloat16_keys(rng: torch.Generator) -> None:
    keys = data("clusters", 1500, 33, rng).bfloat16()
    queries = data("gaussian", 20, 33, rng)
    found = knn(queries, keys, 40)
    assert found.sq_distances.dtype == torch.float32
    assert_exact(found, queries, keys)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 40),
    rows=st.integers(1, 300),
    dim=st.integers(1, 70),
    share=st.floats(0, 1),
    values=st.sampled_from(["gaussian", "small integers"]),
    seed=st.integers(0, 2**20),
)
def test_exact_at_any_size(
    batch: int, rows: int, dim: int, share: float, values: str, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    if values == "gaussian":
        keys = torch.randn(rows, dim, generator=rng)
        queries = torch.randn(batch, dim, generator=rng)
    else:  # many exact ties
        keys = torch.randint(-1, 2, (rows, dim), generator=rng).float()
        queries = torch.randint(-1, 2, (batch, dim), generator=rng).float()
    k = max(1, round(share * rows))
    assert_exact(knn(queries, keys, k), queries, keys)


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_does_not_notice_the_rest_of_the_batch(kind: str, rng: torch.Generator) -> None:
    keys = data(kind, 3000, 40, rng)
    queries = keys[:200] + 0.1 * torch.randn(200, 40, generator=rng)
    together = knn(queries, keys, 20)
    for batch in (queries[:1], queries[:7], queries[:129]):
        apart = knn(batch, keys, 20)
        assert torch.equal(apart.indices, together.indices[: len(batch)])
        assert torch.equal(apart.sq_distances, together.sq_distances[: len(batch)])


def test_identical_keys_come_in_the_order_of_their_rows() -> None:
    keys = torch.ones(500, 8)
    found = knn(torch.zeros(5, 8), keys, 77)
    assert torch.equal(found.indices, torch.arange(77).expand(5, -1))
    assert torch.equal(found.sq_distances, torch.full((5, 77), 8.0))


@pytest.mark.parametrize("batch", [2, 9])
def test_infinite_and_nan_distances_come_last(batch: int) -> None:
    keys = torch.zeros(6, 4)
    keys[0] = float("nan")
    keys[1, 2] = float("inf")
    keys[3] = 2.0
    keys[4, 0] = float("-inf")
    keys[5] = float("nan")
    found = knn(torch.ones(batch, 4), keys, 6)
    inf, nan = float("inf"), float("nan")
    expected = torch.tensor([4.0, 4.0, inf, inf, nan, nan]).expand(batch, -1)
    torch.testing.assert_close(found.sq_distances, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found.indices, torch.tensor([2, 3, 1, 4, 0, 5]).expand(batch, -1))


@pytest.mark.parametrize("batch", [2, 9])
def test_a_nan_query_leaves_the_others_alone(batch: int, rng: torch.Generator) -> None:
    keys = torch.randn(300, 16, generator=rng)
    queries = torch.randn(batch, 16, generator=rng)
    wanted = knn(queries, keys, 10)
    queries[0, 3] = float("nan")
    found = knn(queries, keys, 10)
    assert bool(found.sq_distances[0].isnan().all())
    assert torch.equal(found.indices[0], torch.arange(10))
    assert torch.equal(found.sq_distances[1:], wanted.sq_distances[1:])
    assert torch.equal(found.indices[1:], wanted.indices[1:])


@pytest.mark.parametrize("batch", [2, 9])
@pytest.mark.parametrize("size", [1e19, 4.6e18, 1e-18, 1e-22])
def test_norms_that_overflow_or_underflow(batch: int, size: float, rng: torch.Generator) -> None:
    """|k|^2 leaves the range of float32, or nearly, and squares of differences may underflow."""
    keys = size * (1 + 0.001 * torch.randn(400, 16, generator=rng))
    queries = keys[:batch].clone()
    found = knn(queries, keys, 5)
    # In difference form, in the arithmetic that is promised: underflow and all.
    truth = torch.stack([(keys - query).square().sum(1) for query in queries])
    nearest = truth.sort(dim=1).values[:, :5]
    torch.testing.assert_close(found.sq_distances, nearest, rtol=2e-6, atol=3e-44)
    torch.testing.assert_close(
        found.sq_distances, truth.gather(1, found.indices), rtol=2e-6, atol=3e-44
    )


def test_all_keys_are_returned_in_order(rng: torch.Generator) -> None:
    keys = torch.randn(1000, 12, generator=rng)
    queries = torch.randn(6, 12, generator=rng)
    found = knn(queries, keys, 1000)
    assert torch.equal(found.indices.sort(1).values, torch.arange(1000).expand(6, -1))
    assert_exact(found, queries, keys)


def test_low_matmul_precision_of_torch_does_not_reach_knn(rng: torch.Generator) -> None:
    keys, queries = data("tight clusters", 3000, 64, rng), torch.randn(20, 64, generator=rng)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert_exact(knn(queries, keys, 50), queries, keys)
    finally:
        torch.set_float32_matmul_precision(before)


def test_nearest_class_mean_skips_empty_classes_and_breaks_ties_downwards() -> None:
    means = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    features = torch.tensor([[0.1, 0.0], [-0.1, 5.0], [0.0, 3.0]])
    assert nearest_class_mean(features, means).tolist() == [1, 2, 1]
    assert nearest_class_mean(features, means, metric="cosine").tolist() == [1, 2, 1]


def test_cosine_ignores_the_length_of_means() -> None:
    means = torch.tensor([[10.0, 0.0], [0.7, 0.7]])
    features = torch.tensor([[1.0, 0.9]])
    assert nearest_class_mean(features, means).item() == 1
    assert nearest_class_mean(features * 100, means).item() == 0
    assert nearest_class_mean(features * 100, means, metric="cosine").item() == 1


def test_wrong_norms_do_not_change_the_result(rng: torch.Generator) -> None:
    """What a user hands over as norms may be rounded, stale or plain wrong."""
    keys, queries = 10 + torch.randn(3000, 64, generator=rng), torch.randn(30, 64, generator=rng)
    wanted = knn(queries, keys, 20)
    for norms in (torch.zeros(3000), torch.full((3000,), -50.0), keys.square().sum(1).bfloat16()):
        found = knn(queries, keys, 20, key_sq_norms=norms)
        assert torch.equal(found.indices, wanted.indices)
        assert torch.equal(found.sq_distances, wanted.sq_distances)


@every_level
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [3, 40])
def test_exact_with_rounded_keys_on(
    kind: str, batch: int, simd_level: str, rng: torch.Generator
) -> None:
    keys = data(kind, 1 + 2**23 // (batch * 96), 96, rng)
    queries = keys[torch.randperm(len(keys), generator=rng)[:batch]] * 1.01
    found = knn(queries, keys, 50, rounded=RoundedKeys.of(keys))
    assert_exact(found, queries, keys)
    plain = knn(queries, keys, 50)
    assert torch.equal(found.indices, plain.indices)
    assert torch.equal(found.sq_distances, plain.sq_distances)


def test_rounded_rows_depend_on_their_key_and_the_offset_alone(rng: torch.Generator) -> None:
    keys = 2 + torch.randn(5000, 70, generator=rng)
    rows, offset = RoundedKeys.of(keys)
    torch.testing.assert_close(offset, keys.mean(0), rtol=0, atol=0.6)
    assert not bool(RoundedKeys.of(keys - 2).offset.any())  # nothing in common
    for part in (slice(0, 1), slice(17, 4999), slice(3, 3)):
        again = RoundedKeys.of(keys[part], offset=offset)
        assert torch.equal(again.rows.view(torch.int16), rows[part].view(torch.int16))
    assert len(RoundedKeys.of(keys[:0]).rows) == 0


@pytest.mark.parametrize("bad", [torch.inf, torch.nan, 1e30])
def test_one_bad_key_does_not_spoil_the_others(bad: float, rng: torch.Generator) -> None:
    keys = 2 + torch.randn(5000, 70, generator=rng)
    keys[0, 0] = bad
    rows, offset = RoundedKeys.of(keys)
    assert bool(offset.isfinite().all())
    exact = keys[1:] - offset
    torch.testing.assert_close(rows[1:, :70].float(), exact, rtol=2**-8, atol=0)


def test_a_given_offset_is_copied(rng: torch.Generator) -> None:
    given = torch.ones(7)
    rounded = RoundedKeys.of(torch.randn(3, 7, generator=rng), offset=given)
    given.zero_()
    assert torch.equal(rounded.offset, torch.ones(7))


def test_rounded_rows_hold_what_bounds_the_error(rng: torch.Generator) -> None:
    keys = 3 + torch.randn(100, 33, generator=rng)
    rows, offset = RoundedKeys.of(keys)
    exact = (keys - offset).double()
    lost = (exact - rows[:, :33].double()).square().sum(1).sqrt()
    norms, bounds = rows.view(torch.float32)[:, -2:].double().T
    torch.testing.assert_close(norms, exact.square().sum(1), rtol=1e-6, atol=0)
    assert bool((bounds >= lost).all())
    assert bool((bounds <= 1.001 * lost).all())
    assert bool((rows[:, 33:-4] == 0).all())


def test_shortlists_that_would_hold_everything_are_given_up(rng: torch.Generator) -> None:
    """Identical keys: no bound tells them apart, and every key is looked at instead."""
    queries = torch.randn(40, 16, generator=rng)
    keys = torch.zeros(20000, 16)
    keys[17_000] = queries[5]
    found = knn(queries, keys, 10)
    assert found.indices[5, 0] == 17_000
    assert torch.equal(found.indices[0], torch.arange(10))


def test_empty_batch_of_features_needs_no_class() -> None:
    assert nearest_class_mean(torch.ones(0, 4), torch.zeros(5, 4)).shape == (0,)


@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_threads_that_share_the_keys(spread: float, rng: torch.Generator) -> None:
    """Each has a range of the keys; queries that defeat the first sweep are swept again."""
    centres = torch.randn(2, 40, generator=rng)
    keys = centres[torch.arange(20_000) % 2] + spread * torch.randn(20_000, 40, generator=rng)
    queries = centres[torch.arange(70) % 2] + spread * torch.randn(70, 40, generator=rng)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(knn(queries, keys, 30))
    finally:
        torch.set_num_threads(threads)
    one_by_one = [knn(query[None], keys, 30) for query in queries]
    for sq_distances, indices in found:
        assert torch.equal(sq_distances, torch.cat([n.sq_distances for n in one_by_one]))
        assert torch.equal(indices, torch.cat([n.indices for n in one_by_one]))


def test_more_queries_than_are_searched_at_a_time(rng: torch.Generator) -> None:
    keys = torch.randn(300, 5, generator=rng)
    queries = torch.randn(4097 + 30, 5, generator=rng)
    sq_distances, indices = knn(queries, keys, 3)
    expected = torch.cdist(queries.double(), keys.double()).square().topk(3, largest=False)
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(sq_distances.double(), expected.values, rtol=2e-6, atol=0)
