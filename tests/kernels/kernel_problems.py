"""Problems for the raw kernels in numpy arrays, and what the reference makes of them in float64.

The bindings read a problem's fields by their names. Numbers are of a size at which errors show:
rows have length 1 or so, distances are about 2 and closenesses about 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from guarded_arrays import Array, Shapes
from torch import Tensor

from clfast import reference
from clfast.ops import Neighbors

ADAPTATION = ("hebbian_update", "mbpa_update", "hebb_logits", "mixture_log_probs")
KINDS = ("float32", "float64", "float16", "bfloat16")
# Arithmetic and element types that the ops combine.
PAIRS = (
    ("float32", "float32"),
    ("float32", "float16"),
    ("float32", "bfloat16"),
    ("float64", "float64"),
)


def stored(values: Array, kind: str) -> Array:
    """The rows in an element type; bfloat16 as its bits, in uint16."""
    if kind != "bfloat16":
        return values.astype(kind)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def widened(rows: Array) -> Array:
    """In float64, without rounding."""
    if rows.dtype == np.uint16:
        rows = (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float64)


def tensor(array: Array) -> Tensor:
    return torch.from_numpy(widened(array) if array.dtype.kind in "fu" else array)


def tensor_or_none(array: Array | None) -> Tensor | None:
    return None if array is None else tensor(array)


@dataclass(frozen=True)
class Neighbourhood:
    kernel: ClassVar[str]
    chunked: ClassVar[bool] = False  # the CUDA launcher takes some queries at a time
    # What rounding is measured against where results are smaller than what they are differences of.
    scale: ClassVar[float] = 0.0

    keys: Array  # [M, d]
    labels: Array  # [M]
    sq_distances: Array  # [B, K]
    indices: Array  # [B, K]
    num_classes: int
    eps: float
    closeness: Array | None  # [B, K]

    @property
    def batch(self) -> int:
        return len(self.indices)

    @property
    def units(self) -> float:
        """Roundings of the largest entry that a result may be off."""
        return 64

    def memory(self) -> tuple[Tensor, Tensor, Neighbors]:
        neighbours = Neighbors(tensor(self.sq_distances), tensor(self.indices))
        return tensor(self.keys), tensor(self.labels), neighbours

    def outputs(self) -> Shapes:
        return [((self.batch, self.num_classes), self.sq_distances.dtype)]

    def layer_outputs(self) -> Shapes:
        classes, dtype = (self.batch, self.num_classes), self.sq_distances.dtype
        return [((*classes, self.keys.shape[1]), dtype), (classes, dtype)]

    def oracle(self) -> list[Array]:
        raise NotImplementedError

    def fine(self, query: int) -> Array:
        """Which neighbours have a row, a distance, a closeness and a class."""
        rows, distances = self.indices[query], self.sq_distances[query]
        positive = distances >= 0
        if self.closeness is not None:
            positive &= self.closeness[query] >= 0
        there = (rows >= 0) & (rows < len(self.keys))
        labels = np.append(self.labels, -1)[np.where(there, rows, -1)]
        return there & positive & (labels >= 0) & (labels < self.num_classes)

    def of_query(self, query: int) -> Any:
        """One query and those of its neighbours that are fine: what a CUDA kernel computes."""
        per_query = ("queries", "logits", "base_logits")
        fine = self.fine(query)
        return replace(
            self,
            indices=self.indices[query : query + 1, fine],
            sq_distances=self.sq_distances[query : query + 1, fine],
            closeness=None if self.closeness is None else self.closeness[query : query + 1, fine],
            **{name: getattr(self, name)[[query]] for name in per_query if hasattr(self, name)},
        )


@dataclass(frozen=True)
class HebbianUpdate(Neighbourhood):
    kernel: ClassVar[str] = "hebbian_update"

    select: Array | None  # [C]

    def outputs(self) -> Shapes:
        return self.layer_outputs()

    def oracle(self) -> list[Array]:
        results = reference.adaptation.hebbian_update(
            *self.memory(),
            self.num_classes,
            eps=self.eps,
            select=tensor_or_none(self.select),
            closeness=tensor_or_none(self.closeness),
        )
        return [result.numpy() for result in results]


@dataclass(frozen=True)
class MbpaUpdate(Neighbourhood):
    kernel: ClassVar[str] = "mbpa_update"
    chunked: ClassVar[bool] = True
    scale: ClassVar[float] = 1.0

    weight: Array  # [C, d]
    bias: Array | None  # [C]
    steps: int
    lr: float
    optimizer: str

    def outputs(self) -> Shapes:
        return self.layer_outputs()

    @property
    def units(self) -> float:
        """torch's RMSprop divides by |g| and so magnifies the rounding of a small gradient g."""
        return 1024 if self.optimizer == "rmsprop" else 64

    def oracle(self) -> list[Array]:
        results = reference.adaptation.mbpa_update(
            tensor(self.weight),
            tensor_or_none(self.bias),
            *self.memory(),
            steps=self.steps,
            lr=self.lr,
            optimizer=self.optimizer,
            eps=self.eps,
            closeness=tensor_or_none(self.closeness),
        )
        return [result.numpy() for result in results]

    def of_query(self, query: int) -> Any:
        """The mean stays one over all K: what remains counts K / remaining times as much."""
        one = super().of_query(query)
        ratio = self.indices.shape[1] / max(1, one.indices.shape[1])
        if one.closeness is not None:
            return replace(one, closeness=widened(one.closeness) / ratio)
        return replace(one, sq_distances=(self.eps + widened(one.sq_distances)) * ratio - self.eps)


@dataclass(frozen=True)
class HebbLogits(MbpaUpdate):
    kernel: ClassVar[str] = "hebb_logits"
    scale: ClassVar[float] = 0.0

    queries: Array  # [B, d]
    base_logits: Array  # [B, C]
    base_bias: Array | None  # [C]
    interpolation: Array  # [C]
    eta: float
    select: Array | None  # [C]
    key_sq_norms: Array | None  # [M]

    def outputs(self) -> Shapes:
        return [((self.batch, self.num_classes), self.sq_distances.dtype)]

    def oracle(self) -> list[Array]:
        base = tensor(self.base_logits)
        result = reference.adaptation.hebb_logits(
            tensor(self.queries),
            tensor(self.weight),
            tensor_or_none(self.bias),
            *self.memory(),
            interpolation=tensor(self.interpolation),
            eta=self.eta,
            steps=self.steps,
            lr=self.lr,
            optimizer=self.optimizer,
            eps=self.eps,
            select=tensor_or_none(self.select),
            base_logits=base if self.base_bias is None else base + tensor(self.base_bias),
            closeness=tensor_or_none(self.closeness),
        )
        return [result.numpy()]

    def of_query(self, query: int) -> Any:
        """The Hebbian part takes the mean of a class, which eta keeps as it was."""
        one = super().of_query(query)
        return replace(one, eta=self.eta * self.indices.shape[1] / max(1, one.indices.shape[1]))


@dataclass(frozen=True)
class MixtureLogProbs(Neighbourhood):
    kernel: ClassVar[str] = "mixture_log_probs"
    scale: ClassVar[float] = 1.0

    logits: Array  # [B, C]
    queries: Array  # [B, d]
    theta: float
    gamma: float
    joint: bool
    key_sq_norms: Array | None  # [M]

    def oracle(self) -> list[Array]:
        result = reference.adaptation.mixture_log_probs(
            tensor(self.logits),
            tensor(self.queries),
            *self.memory(),
            theta=self.theta,
            gamma=self.gamma,
            form="joint" if self.joint else "normalized",
        )
        return [result.numpy()]


def assert_near(
    problem: Neighbourhood, got: list[Array], wanted: list[Array], where: str = ""
) -> None:
    """Rounding is measured against the largest entry, not each entry: terms cancel."""
    assert len(got) == len(wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.shape == theirs.shape
        largest = max(problem.scale, np.abs(theirs[np.isfinite(theirs)]).max(initial=0))
        atol = problem.units * float(np.finfo(ours.dtype).eps) * largest
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=where)


@dataclass(frozen=True)
class Knn:
    queries: Array  # [B, d]
    keys: Array  # [M, d]
    k: int
    rounded: tuple[Array, Array] | None = None  # rows in bfloat16, and the offset

    def outputs(self) -> Shapes:
        shape = (len(self.queries), self.k)
        return [(shape, self.queries.dtype), (shape, np.dtype(np.int64))]

    def true_distances(self) -> Array:
        keys = widened(self.keys)
        rows = [np.square(keys - query).sum(axis=1) for query in widened(self.queries)]
        return np.array(rows).reshape(len(self.queries), len(keys))


def assert_nearest(problem: Knn, found: list[Array], units: float) -> None:
    """The k nearest rows in order, ties by the smaller row, distances within `units` roundings."""
    sq_distances, indices = found
    truth = problem.true_distances()
    rtol = units * float(np.finfo(sq_distances.dtype).eps)
    np.testing.assert_allclose(
        sq_distances, np.take_along_axis(truth, indices, 1), rtol=rtol, atol=1e-30
    )
    here, behind = sq_distances[:, :-1], sq_distances[:, 1:]
    tie = (here == behind) & (indices[:, :-1] < indices[:, 1:])
    assert ((here < behind) | tie).all()
    kth = np.sort(truth, axis=1)[:, problem.k - 1 : problem.k]
    assert (sq_distances <= kth * (1 + rtol) + 1e-30).all()
    assert all(len(set(rows)) == problem.k for rows in indices.tolist())


# ---- Makers ----


@dataclass(frozen=True)
class Sizes:
    """B queries, M memory rows, K neighbours, d features, C classes."""

    batch: int = 3
    rows: int = 37
    k: int = 9
    dim: int = 17
    classes: int = 7


def unit(rng: np.random.Generator, *shape: int) -> Array:
    """Rows of length 1 or so, exact in float32."""
    values = rng.standard_normal(shape) / np.sqrt(max(1, shape[-1]))
    return values.astype(np.float32).astype(np.float64)


def make_knn(s: Sizes, dtype: str, kind: str, rng: np.random.Generator) -> Knn:
    keys = stored(unit(rng, s.rows, s.dim), kind)
    return Knn(unit(rng, s.batch, s.dim).astype(dtype), keys, min(s.k, s.rows))


def make(
    kernel: str, s: Sizes, dtype: str, kind: str, rng: np.random.Generator, **changes: Any
) -> Any:
    """A problem of adaptation. Neighbours are any rows, some of them twice."""
    keys = stored(unit(rng, s.rows, s.dim), kind)
    queries = unit(rng, s.batch, s.dim).astype(dtype)
    indices = rng.integers(0, s.rows, (s.batch, s.k))
    true = np.square(widened(keys)[indices] - widened(queries)[:, None]).sum(axis=2)
    memory: dict[str, Any] = {
        "keys": keys,
        # The last class has no member, unless it is the only one.
        "labels": rng.integers(0, max(1, s.classes - 1), s.rows),
        "sq_distances": true.astype(dtype),
        "indices": indices,
        "num_classes": s.classes,
        "eps": 0.1,
        "closeness": None,
    }
    layer: dict[str, Any] = {
        "weight": (unit(rng, s.classes, s.dim) * 2).astype(dtype),
        "bias": rng.standard_normal(s.classes).astype(dtype),
        "steps": 2,
        "lr": 0.5,
        "optimizer": "sgd",
    }
    # The class before the last has no update of Hebb's.
    select = np.arange(s.classes) != s.classes - 2
    logits = rng.standard_normal((s.batch, s.classes)).astype(dtype)
    problem: Any
    if kernel == "hebbian_update":
        problem = HebbianUpdate(**memory, select=select)
    elif kernel == "mbpa_update":
        problem = MbpaUpdate(**memory, **layer)
    elif kernel == "hebb_logits":
        problem = HebbLogits(
            **memory,
            **layer,
            queries=queries,
            base_logits=logits,
            base_bias=rng.standard_normal(s.classes).astype(dtype),
            interpolation=rng.uniform(0, 1, s.classes).astype(dtype),
            eta=0.7,
            select=select,
            key_sq_norms=None,
        )
    else:
        assert kernel == "mixture_log_probs"
        problem = MixtureLogProbs(
            **memory,
            logits=logits,
            queries=queries,
            theta=3.0,
            gamma=0.4,
            joint=False,
            key_sq_norms=None,
        )
    return replace(problem, **changes)


def variants(problem: Any, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Changes of a problem that lead to every path of its kernel."""
    kernel, dtype = problem.kernel, problem.sq_distances.dtype
    classes: int = problem.num_classes
    closeness = rng.uniform(0, 2, problem.sq_distances.shape).astype(dtype)
    closeness[:, 1] = 0
    given: list[dict[str, Any]] = [{"closeness": closeness}]
    all_classes: list[dict[str, Any]] = [{"select": None}, {"select": np.zeros(classes, bool)}]
    optimisers: list[dict[str, Any]] = [
        {"optimizer": optimizer, "steps": steps, "lr": lr, "bias": bias}
        for optimizer, lr in (("rmsprop", 0.02), ("rmsprop_tf", 0.3), ("sgd", 0.5))
        for steps in (0, 1, 4)
        for bias in (None, rng.standard_normal(classes).astype(dtype))
    ]
    if kernel == "hebbian_update":
        return [*all_classes, *given]
    if kernel == "mbpa_update":
        return [*optimisers, *given]
    if kernel == "hebb_logits":
        edges = [{"interpolation": np.full(classes, e, dtype)} for e in (0, 1)]
        return [*optimisers, *all_classes, *edges, *given, {"base_bias": None}]
    gammas: list[dict[str, Any]] = [{"gamma": gamma} for gamma in (0.0, 1.0)]
    return [*gammas, {"joint": True}, {"theta": 0.0}, *({**g, "joint": True} for g in gammas)]


def make_huge_mixture(rng: np.random.Generator, *, joint: bool) -> Any:
    """Exponentials of its scores and logits overflow; some logits are minus infinity."""
    problem = make("mixture_log_probs", Sizes(), "float32", "float32", rng, joint=joint)
    problem.logits[0] *= 1e4
    problem.logits[1, 2:] = -np.inf
    problem.keys[::2] *= 300
    return problem


def make_far_mixture(which: str, rng: np.random.Generator, *, joint: bool) -> Any:
    """All logits, or all scores, are large numbers whose differences are exact."""
    problem = make("mixture_log_probs", Sizes(dim=1), "float32", "float32", rng, joint=joint)
    if which == "logits":
        problem.logits[:] = np.round(problem.logits * 8) + 2**22
    else:
        problem.keys[:] = np.round(problem.keys * 4) + 2**22
        problem.queries[:] = 1
    return replace(problem, theta=1.0)
