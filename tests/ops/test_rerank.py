"""`rerank`, which indexes use: what ops share, an oracle of its own, and its errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sizes import TAILS
from torch import Tensor

import clfast
from clfast import reference
from clfast.ops import knn
from clfast.ops.retrieval import rerank

M = 60


def given(
    rng: torch.Generator,
    batch: int = 5,
    dim: int = 17,
    count: int = 23,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers, so that ties are many and distances exact; a quarter of candidates is none."""
    queries, keys = (torch.randint(-2, 3, (n, dim), generator=rng).to(dtype) for n in (batch, M))
    return queries, keys, torch.randint(-M // 4, M, (batch, count), generator=rng).clamp_min(-1)


def plain(queries: Tensor, keys: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    distances, indices = [], []
    for query, rows in zip(queries.double(), candidates.tolist(), strict=True):
        near = sorted(
            (float((keys[row].double() - query).square().sum()), row) for row in set(rows) - {-1}
        )
        near = (near + [(math.inf, -1)] * k)[:k]
        distances.append([distance for distance, _ in near])
        indices.append([row for _, row in near])
    shape = len(queries), k
    found = torch.tensor(distances, dtype=torch.float64).view(shape)
    return found, torch.tensor(indices, dtype=torch.int64).view(shape)


def agree(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(found[0].double(), expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize(
    ("dtype", "of_result"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_the_nearest_candidates_at_every_level(
    dtype: torch.dtype, of_result: torch.dtype, simd_level: str, rng: torch.Generator
) -> None:
    for k in (1, 7, 40):
        arguments = given(rng, dtype=dtype)
        found = rerank(*arguments, k)
        assert found.sq_distances.dtype == of_result
        assert agree(found, plain(*arguments, k))


@pytest.mark.parametrize("size", [0, *TAILS])
@pytest.mark.parametrize("axis", ["batch", "dim", "count"])
def test_tails(axis: str, size: int, simd_level: str, rng: torch.Generator) -> None:
    arguments = given(rng, **{axis: size})
    assert agree(rerank(*arguments, 5), plain(*arguments, 5))


def test_distances_are_those_of_knn(rng: torch.Generator) -> None:
    queries, keys = (torch.randn(n, 100, generator=rng) for n in (9, M))
    every = torch.stack([torch.randperm(M, generator=rng) for _ in queries])
    exact = knn(queries, keys, 31)
    found = rerank(queries, keys, every, 31)
    assert torch.equal(found.indices, exact.indices)
    assert torch.equal(found.sq_distances, exact.sq_distances)


def test_nan_comes_last_and_before_none() -> None:
    keys = torch.tensor([[math.nan], [math.inf], [2.0], [1.0]])
    found = rerank(torch.zeros(1, 1), keys, torch.tensor([[0, -1, 1, 2, 3]]), 5)
    assert found.indices.tolist() == [[3, 2, 1, 0, -1]]
    assert found.sq_distances[0, [0, 1, 2, 4]].tolist() == [1, 4, math.inf, math.inf]
    assert found.sq_distances[0, 3].isnan()


def test_no_keys_and_no_candidates() -> None:
    found = rerank(torch.zeros(2, 3), torch.empty(0, 3), torch.full((2, 4), -1), 2)
    assert found.indices.eq(-1).all()
    assert found.sq_distances.eq(math.inf).all()


def _transposed(t: Tensor) -> Tensor:
    return t.t().contiguous().t()


def _offset(t: Tensor) -> Tensor:
    whole = torch.cat([t.new_zeros(3), t.flatten()])
    return whole[3:].view(t.shape)


@pytest.mark.parametrize("layout", [_transposed, _offset, lambda t: t[:1].expand_as(t)])
def test_layouts_do_not_matter(layout: Any, rng: torch.Generator) -> None:
    arguments = tuple(map(layout, given(rng)))
    kept = tuple(t.clone() for t in arguments)
    found = rerank(*arguments, 6)
    assert agree(found, plain(*arguments, 6))
    assert all(t.is_contiguous() for t in found)
    assert all(map(torch.equal, arguments, kept))


def test_same_bits_twice_and_on_one_thread(rng: torch.Generator) -> None:
    queries, keys = (torch.randn(n, 64, generator=rng) for n in (150, 900))
    candidates = torch.randint(0, 900, (150, 300), generator=rng)
    first, threads = rerank(queries, keys, candidates, 20), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        second = rerank(queries, keys, candidates, 20)
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, first, second))


def test_reference_and_tracing(rng: torch.Generator) -> None:
    arguments = (*given(rng), 7)
    with clfast.backend("reference"):
        assert agree(rerank(*arguments), plain(*arguments))
    assert agree(reference.retrieval.rerank(*arguments), plain(*arguments))
    torch.library.opcheck(torch.ops.clfast.rerank, arguments)
    compiled = torch.compile(rerank, fullgraph=True, backend="aot_eager")
    assert agree(compiled(*arguments), plain(*arguments))


WRONG: list[tuple[str, int, Any]] = [
    ("queries must be 2-D, got 1-D", 0, lambda t: t[0]),
    ("queries must be float16, bfloat16, float32 or float64", 0, Tensor.long),
    ("keys must be 2-D, got 3-D", 1, lambda t: t[None]),
    ("float64 does not mix", 1, Tensor.double),
    ("queries have 17 features but keys have 16", 1, lambda t: t[:, 1:]),
    ("candidates must be 2-D, got 1-D", 2, lambda t: t[0]),
    ("candidates must be of dtype", 2, Tensor.int),
    ("candidates must have shape [5, 23], got [4, 23]", 2, lambda t: t[1:]),
    ("k must be at least 1, got 0", 3, lambda k: 0),
]
OUTSIDE: list[tuple[str, int, Any]] = [
    (f"candidates[1][2] is {row}; it must be -1 or in [0, 60)", 2, lambda t, row=row: put(t, row))
    for row in (-2, M)
]


def put(candidates: Tensor, row: int) -> Tensor:
    candidates = candidates.clone()
    candidates[1, 2] = row
    return candidates


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize(("message", "at", "change"), WRONG)
def test_wrong_use(message: str, at: int, change: Any, backend: Any, rng: torch.Generator) -> None:
    arguments: list[Any] = [*given(rng), 3]
    arguments[at] = change(arguments[at])
    with clfast.backend(backend), pytest.raises(RuntimeError) as caught:
        rerank(*arguments)
    assert str(caught.value).startswith("clfast::rerank: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(("message", "at", "change"), OUTSIDE)
def test_rows_outside(message: str, at: int, change: Any, rng: torch.Generator) -> None:
    arguments: list[Any] = [*given(rng), 3]
    arguments[at] = change(arguments[at])
    with pytest.raises(RuntimeError) as caught:
        rerank(*arguments)
    assert str(caught.value).startswith("clfast::rerank: ")
    assert message in str(caught.value)


def test_no_gradient(rng: torch.Generator) -> None:
    queries, keys, candidates = given(rng)
    with pytest.raises(RuntimeError, match=r"rerank: queries requires grad"):
        rerank(queries.requires_grad_(), keys, candidates, 3)
    with torch.no_grad():
        rerank(queries, keys, candidates, 3)
