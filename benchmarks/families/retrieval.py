"""Cases of `clfast.ops.retrieval`."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from clfast import ops, reference

from .. import oracle
from ..case import Case, Variant, Work, forms, largest, relative_error
from ..opponents import retrieval as opponents

FLOAT, INDEX = 4, 8  # bytes

Data = Literal["gaussian", "clusters"]


class Search(NamedTuple):
    queries: Tensor  # [B, d]
    keys: Tensor  # [M, d]
    key_sq_norms: Tensor  # [M]


def search_inputs(generator: Generator, B: int, M: int, d: int, data: Data) -> Search:
    """Gaussian, or 100 clusters of spread 0.1 whose keys stand one cluster after another."""
    if data == "gaussian":
        keys = torch.randn(M, d, generator=generator)
        queries = torch.randn(B, d, generator=generator)
    else:
        centres = torch.randn(100, d, generator=generator)
        cluster = torch.randint(100, (M,), generator=generator).sort().values
        keys = centres[cluster].add_(torch.randn(M, d, generator=generator), alpha=0.1)
        cluster = torch.randint(100, (B,), generator=generator)
        queries = centres[cluster] + 0.1 * torch.randn(B, d, generator=generator)
    return Search(queries, keys, keys.square().sum(1))


def knn_error(output: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], x: Search) -> float:
    """Relative, the largest of both: how far the found keys are behind the true neighbours, and
    how far the returned distances are from those of the found keys. 1 for a row found twice."""
    distances, indices = output
    twice = indices.sort(1).values.diff(dim=1) == 0
    if bool(twice.any()):
        return 1.0
    true = oracle.distances_to(x.queries, x.keys, indices)
    behind = (true.sort(1).values - expected[0]) / expected[0]
    wrong = (distances - true).abs() / true
    return largest(behind.abs().max(), wrong.max())


def knn(B: int, M: int, d: int, k: int, data: Data = "gaussian", *, small: bool = False) -> Case:
    def search(queries: Tensor, keys: Tensor, key_sq_norms: Tensor, k: int) -> object:
        return ops.knn(queries, keys, k, key_sq_norms=key_sq_norms)

    def search_rounded(queries: Tensor, keys: Tensor, rounded: ops.RoundedKeys, k: int) -> object:
        return ops.knn(queries, keys, k, rounded=rounded)

    with_norms = lambda x: (x.queries, x.keys, x.key_sq_norms, k)  # noqa: E731
    variants = [
        Variant("clfast", "clfast", search, with_norms),
        Variant("loop", "loop", opponents.knn_loop, lambda x: (x.queries, x.keys, k)),
        *forms("cdist + topk", opponents.knn_cdist, lambda x: (x.queries, x.keys, k)),
        *forms("addmm + topk", opponents.knn_addmm, with_norms, chunk=100 if B > 100 else None),
    ]
    if M > 2 * _KEY_BLOCK:
        variants.append(
            Variant(
                "clfast, bf16 index",
                "clfast",
                search_rounded,
                lambda x: (x.queries, x.keys, ops.RoundedKeys.of(x.keys), k),
                devices=("cpu",),
            )
        )
        variants.append(
            Variant(
                "bfloat16 mm + re-rank" + (", chunks of 10" if B > 10 else ""),
                "torch",
                opponents.knn_rounded,
                lambda x: (x.queries, x.keys, x.keys.bfloat16(), x.key_sq_norms, k),
                chunk=10 if B > 10 else None,
                devices=("cpu",),
            )
        )
        variants.append(
            Variant(
                f"addmm + topk, blocks of {_KEY_BLOCK} keys",
                "torch",
                opponents.knn_addmm_key_blocks,
                lambda x: (*with_norms(x), _KEY_BLOCK),
            )
        )
    variants.append(
        Variant(
            "faiss IndexFlatL2",
            "library",
            opponents.knn_faiss,
            lambda x: (x.queries.numpy(), opponents.faiss_index(x.keys), k),
            module="faiss",
            devices=("cpu",),
        )
    )
    work = Work(FLOAT * (B * d + M * d + M), (FLOAT + INDEX) * B * k, 2 * B * M * d)
    return Case(
        op="knn",
        size={"B": B, "M": M, "d": d, "k": k, "data": data},
        inputs=lambda generator: search_inputs(generator, B, M, d, data),
        oracle=lambda x: oracle.neighbors(x.queries, x.keys, k),
        error=knn_error,
        tolerance=1e-3,
        work=lambda _: work,
        variants=tuple(variants),
        small=small,
    )


_KEY_BLOCK = 8192


class Labelled(NamedTuple):
    features: Tensor  # [N, d]
    labels: Tensor  # [N]


def class_means(N: int, d: int, C: int, *, small: bool = False) -> Case:
    def inputs(generator: Generator) -> Labelled:
        features = torch.randn(N, d, generator=generator)
        return Labelled(features, torch.randint(C, (N,), generator=generator))

    def expected(x: Labelled) -> Tensor:
        return reference.retrieval.class_means(x.features.double(), x.labels, C)

    arguments = lambda x: (x.features, x.labels, C)  # noqa: E731
    return Case(
        op="class_means",
        size={"N": N, "d": d, "C": C},
        inputs=inputs,
        oracle=expected,
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-4,
        # A square and an addition for the length of every feature, one addition for the sum.
        work=lambda _: Work(FLOAT * N * d + INDEX * N, FLOAT * C * d, 3 * N * d),
        variants=(
            Variant("clfast", "clfast", ops.class_means, arguments),
            Variant("loop", "loop", opponents.class_means_loop, arguments),
            *forms("index_add", opponents.class_means_index_add, arguments),
            *forms("membership matmul", opponents.class_means_matmul, arguments),
        ),
        small=small,
    )


class Means(NamedTuple):
    features: Tensor  # [N, d]
    means: Tensor  # [C, d]; the last row is an empty class
    mean_sq_norms: Tensor  # [C]; infinite for the empty class, so that it is never nearest


def nearest_class_mean(
    N: int,
    d: int,
    C: int,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    *,
    small: bool = False,
) -> Case:
    def inputs(generator: Generator) -> Means:
        means = torch.randn(C, d, generator=generator)
        means[-1] = 0
        norms = means.square().sum(1)
        norms[-1] = torch.inf
        features = means[torch.randint(C, (N,), generator=generator)]
        return Means(features + 2 * torch.randn(N, d, generator=generator), means, norms)

    def costs(x: Means) -> Tensor:  # [N, C], smallest for the right label
        features, means = x.features.double(), x.means[:-1].double()
        if metric == "cosine":
            return 1 - F.normalize(features, dim=1) @ F.normalize(means, dim=1).t()
        return oracle.sq_distances(features, means)

    def error(labels: Tensor, costs: Tensor, _: Means) -> float:
        if int(labels.max()) >= costs.shape[1]:
            return 1.0  # the empty class
        chosen, best = costs.gather(1, labels[:, None])[:, 0], costs.min(1).values
        return float(((chosen - best) / best).max())

    raw = lambda x: (x.features, x.means, x.mean_sq_norms)  # noqa: E731
    if metric == "euclidean":
        rivals = [
            Variant("loop", "loop", opponents.nearest_mean_loop, raw),
            *forms("cdist + argmin", opponents.nearest_mean_cdist, raw),
            *forms("addmm + argmin", opponents.nearest_mean_addmm, raw),
            Variant(
                "faiss IndexFlatL2",
                "library",
                opponents.nearest_mean_faiss,
                lambda x: (x.features.numpy(), opponents.faiss_index(x.means[:-1])),
                module="faiss",
                devices=("cpu",),
            ),
        ]
    else:
        unit = lambda x: (  # noqa: E731
            x.features,
            F.normalize(x.means, dim=1),
            torch.where(x.mean_sq_norms.isinf(), -torch.inf, 0.0),
        )
        rivals = [
            Variant("loop", "loop", opponents.nearest_mean_cosine_loop, unit),
            *forms("addmm + argmax", opponents.nearest_mean_cosine, unit),
        ]

    def predict(features: Tensor, means: Tensor) -> Tensor:
        return ops.nearest_class_mean(features, means, metric=metric)

    return Case(
        op="nearest_class_mean",
        size={"N": N, "d": d, "C": C, "metric": metric},
        inputs=inputs,
        oracle=costs,
        error=error,
        tolerance=1e-4,
        work=lambda _: Work(FLOAT * (N * d + C * d), INDEX * N, 2 * N * C * d),
        variants=(
            Variant("clfast", "clfast", predict, lambda x: (x.features, x.means)),
            *rivals,
        ),
        small=small,
    )


CASES = [
    knn(100, 60_000, 512, 200),
    knn(100, 60_000, 512, 200, "clusters"),
    knn(100, 60_000, 2048, 200),
    knn(1000, 60_000, 64, 200),
    knn(1, 60_000, 512, 200),
    knn(1, 60_000, 2048, 200),
    knn(5, 5000, 64, 50),
    knn(5, 60_000, 512, 200),
    knn(100, 500, 512, 200),
    knn(1000, 100, 512, 5),
    knn(200, 50, 2048, 5),
    knn(10, 100, 512, 5),
    knn(1, 1000, 64, 10, small=True),
    knn(3, 1003, 33, 7, small=True),
    class_means(50_000, 512, 100),
    class_means(50_000, 64, 10),
    class_means(103, 33, 7, small=True),
    nearest_class_mean(10_000, 512, 100),
    nearest_class_mean(1000, 2048, 1000),
    nearest_class_mean(10_000, 512, 100, "cosine"),
    nearest_class_mean(3, 33, 7, small=True),
    nearest_class_mean(3, 33, 7, "cosine", small=True),
]
