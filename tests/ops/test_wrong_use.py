"""What users do wrong: the same message from the compiled op, the reference and the fake kernel."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import wrong_consolidation
import wrong_exemplar_losses
import wrong_exemplars
import wrong_masks
import wrong_optimizers
import wrong_recall
from changes import Arguments, Change, first, put, set_at
from op_samples import CASES, map_tensors
from sizes import Sizes
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import clfast
from clfast.ops import Neighbors, RoundedKeys

FAMILIES = (
    *(wrong_recall, wrong_consolidation, wrong_masks, wrong_optimizers),
    *(wrong_exemplars, wrong_exemplar_losses),
)


def _neighbours(position: int, **changes: Callable[[Tensor], Tensor]) -> Change:
    return set_at(
        position, lambda n: n._replace(**{name: f(getattr(n, name)) for name, f in changes.items()})
    )


def _rounded(rows: int, dim: int) -> Change:
    return put("rounded", RoundedKeys.of(torch.ones(rows, dim)))


def _with(row_of_neighbour: int, label: int, position: int) -> Change:
    def apply(args: list[Any], kwargs: dict[str, Any]) -> None:
        neighbors = args[position]
        args[position - 1] = args[position - 1].clone()
        args[position - 1][neighbors.indices[0, row_of_neighbour]] = label

    return apply


# op, what is wrong, expected message (after "clfast::<op>: "), the change
WRONG: list[tuple[str, str, Change]] = [
    ("knn", "queries must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    ("knn", "queries must be float16, bfloat16, float32 or float64", set_at(0, Tensor.long)),
    ("knn", "keys must be 2-D, got 3-D", set_at(1, lambda t: t[None])),
    ("knn", "float64 does not mix", set_at(1, Tensor.double)),
    ("knn", "queries have 17 features but keys have 16", set_at(1, lambda t: t[:, 1:])),
    ("knn", "k must be in [1, 37], the number of keys, got 0", put(2, 0)),
    ("knn", "k must be in [1, 37], the number of keys, got 38", put(2, 38)),
    ("knn", "keys must have at least one row", set_at(1, lambda t: t[:0])),
    ("knn", "key_sq_norms must have shape [37], got [36]", put("key_sq_norms", torch.ones(36))),
    ("knn", "rounded.rows must have shape [37, 64], got [36, 64]", _rounded(36, 17)),
    ("knn", "rounded.rows must have shape [37, 64], got [37, 96]", _rounded(37, 40)),
    ("knn", "rounded.offset must have shape [17], got [16]", _rounded(37, 16)),
    ("knn", "rounded.rows must be of dtype", put("rounded", (torch.ones(37, 64), torch.ones(17)))),
    ("knn", "go together", put("rounded", (None, torch.ones(17)))),
    ("class_means", "features must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    ("class_means", "features must be float16", set_at(0, Tensor.int)),
    ("class_means", "labels must be of dtype", set_at(1, Tensor.int)),
    ("class_means", "labels must have shape [37], got [36]", set_at(1, lambda t: t[1:])),
    ("class_means", "num_classes must be in [1, 2**31), got 0", put(2, 0)),
    ("class_means", "num_classes must be in [1, 2**31), got 1099511627776", put(2, 2**40)),
    ("nearest_class_mean", "features must be 2-D", set_at(0, lambda t: t[0])),
    ("nearest_class_mean", "means must be 2-D", set_at(1, lambda t: t[0])),
    (
        "nearest_class_mean",
        "features have 17 columns but means have 16",
        set_at(1, lambda t: t[:, 1:]),
    ),
    (
        "nearest_class_mean",
        "metric must be euclidean or cosine, got manhattan",
        put("metric", "manhattan"),
    ),
    ("interpolation_weights", "counts must be 1-D, got 2-D", set_at(0, lambda t: t[None])),
    ("interpolation_weights", "counts must be of dtype", set_at(0, Tensor.int)),
    ("interpolation_weights", "beta must be in [0, 1), got 1", put(1, 1.0)),
    ("interpolation_weights", "beta must be in [0, 1), got -0.5", put(1, -0.5)),
    ("interpolation_weights", "beta must be in [0, 1), got nan", put(1, math.nan)),
    ("interpolation_weights", "dtype must be float32 or float64", put("dtype", torch.float16)),
    ("hebbian_update", "num_classes must be in [1, 2**31), got 0", put(3, 0)),
    ("hebbian_update", "eps must be positive and finite, got 0", put("eps", 0.0)),
    ("hebbian_update", "eps must be positive and finite, got 1e-46", put("eps", 1e-46)),
    ("hebb_logits", "eps must be positive and finite, got 1e+39", put("eps", 1e39)),
    ("hebb_logits", "eta must be finite, got 1e+300", put("eta", 1e300)),
    ("mbpa_update", "lr must be finite and >= 0, got 1e+39", put("lr", 1e39)),
    ("mixture_log_probs", "theta must be finite, got -1e+39", put("theta", -1e39)),
    ("hebbian_update", "select must be of dtype", set_at("select", Tensor.int)),
    ("hebbian_update", "select must have shape [7], got [6]", set_at("select", lambda t: t[1:])),
    ("mbpa_update", "weight must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    ("mbpa_update", "weight must have at least one class", set_at(0, lambda t: t[:0])),
    ("hebb_logits", "weight must have at least one class", set_at(1, lambda t: t[:0])),
    ("mixture_log_probs", "logits must have at least one class", set_at(0, lambda t: t[:, :0])),
    ("mbpa_update", "weight must have shape [7, 17], got [7, 16]", set_at(0, lambda t: t[:, 1:])),
    ("mbpa_update", "weight is", set_at(0, Tensor.double)),
    ("mbpa_update", "bias must have shape [7], got [6]", set_at(1, lambda t: t[1:])),
    ("mbpa_update", "steps must be >= 0, got -1", put("steps", -1)),
    ("mbpa_update", "lr must be finite and >= 0, got nan", put("lr", math.nan)),
    ("mbpa_update", "lr must be finite and >= 0, got -1", put("lr", -1.0)),
    ("mbpa_update", "eps must be positive and finite, got -1", put("eps", -1.0)),
    (
        "mbpa_update",
        "optimizer must be rmsprop, rmsprop_tf or sgd, got adam",
        put("optimizer", "adam"),
    ),
    ("hebb_logits", "queries must have shape [5, 17], got [4, 17]", set_at(0, lambda t: t[1:])),
    ("hebb_logits", "weight must be 2-D, got 3-D", set_at(1, lambda t: t[None])),
    ("hebb_logits", "bias must have shape [7]", set_at(2, lambda t: t[1:])),
    (
        "hebb_logits",
        "interpolation must have shape [7], got [6]",
        set_at("interpolation", lambda t: t[1:]),
    ),
    ("hebb_logits", "interpolation must be float16", set_at("interpolation", Tensor.long)),
    ("hebb_logits", "eta must be finite, got inf", put("eta", math.inf)),
    ("hebb_logits", "steps must be >= 0", put("steps", -3)),
    ("hebb_logits", "optimizer must be", put("optimizer", "")),
    ("hebb_logits", "eps must be positive and finite, got inf", put("eps", math.inf)),
    ("hebb_logits", "select must have shape [7]", set_at("select", lambda t: t[1:])),
    ("hebb_logits", "key_sq_norms must have shape [37]", put("key_sq_norms", torch.ones(3))),
    (
        "hebb_logits",
        "base_logits must have shape [5, 7], got [5, 6]",
        put("base_logits", torch.ones(5, 6)),
    ),
    ("mixture_log_probs", "logits must be 2-D, got 1-D", set_at(0, lambda t: t[0])),
    ("mixture_log_probs", "logits must have shape [5, 7], got [4, 7]", set_at(0, lambda t: t[1:])),
    ("mixture_log_probs", "queries must have shape [5, 17]", set_at(1, lambda t: t[:, 1:])),
    ("mixture_log_probs", "theta must be finite, got inf", put("theta", math.inf)),
    ("mixture_log_probs", "gamma must be in [0, 1], got 1.5", put("gamma", 1.5)),
    (
        "mixture_log_probs",
        "form must be normalized or joint, got product",
        put("form", "product"),
    ),
    ("mixture_log_probs", "key_sq_norms must have shape [37]", put("key_sq_norms", torch.ones(3))),
]

# The arguments that all adaptation ops share; the positions of keys, labels and neighbours differ.
POSITION = {"hebbian_update": 0, "mbpa_update": 2, "hebb_logits": 3, "mixture_log_probs": 2}
for _op, _at in POSITION.items():
    WRONG += [
        (_op, "keys must be 2-D, got 1-D", set_at(_at, lambda t: t[0])),
        (_op, "keys must be float16", set_at(_at, Tensor.int)),
        (_op, "labels must be of dtype", set_at(_at + 1, Tensor.int)),
        (_op, "labels must have shape [37], got [36]", set_at(_at + 1, lambda t: t[1:])),
        (
            _op,
            "neighbors.sq_distances must be 2-D, got 1-D",
            _neighbours(_at + 2, sq_distances=lambda t: t[0]),
        ),
        (_op, "float64 does not mix", _neighbours(_at + 2, sq_distances=Tensor.double)),
        (
            _op,
            "neighbors must hold at least one neighbour a query",
            _neighbours(_at + 2, sq_distances=lambda t: t[:, :0], indices=lambda t: t[:, :0]),
        ),
        (_op, "neighbors.indices must be of dtype", _neighbours(_at + 2, indices=Tensor.int)),
        (
            _op,
            "neighbors.indices must have shape [5, 9], got [5, 8]",
            _neighbours(_at + 2, indices=lambda t: t[:, 1:]),
        ),
    ]

_WITH_CLOSENESS = ("hebbian_update", "mbpa_update", "hebb_logits")
for _op in _WITH_CLOSENESS:
    WRONG += [
        (
            _op,
            "closeness must have shape [5, 9], got [5, 8]",
            put("closeness", torch.ones(5, 8)),
        ),
        (_op, "closeness is", put("closeness", torch.ones(5, 9, dtype=torch.float64))),
    ]

# Found by looking at values: on real CPU tensors only.
WRONG_VALUES: list[tuple[str, str, Change]] = [
    ("class_means", "labels", set_at(1, first(8))),
    ("class_means", "labels", set_at(1, first(-1))),
    ("nearest_class_mean", "every row of means is zero", set_at(1, torch.zeros_like)),
    ("nearest_class_mean", "features", set_at(0, first(math.nan))),
    ("nearest_class_mean", "features", set_at(0, first(math.inf))),
    ("nearest_class_mean", "means holds", set_at(1, first(math.nan))),
    ("interpolation_weights", "counts", set_at(0, first(-1))),
    ("class_means", "features holds NaN", set_at(0, first(math.nan))),
    ("class_means", "features holds NaN", set_at(0, first(math.inf))),
    ("mbpa_update", "weight holds NaN", set_at(0, first(math.nan))),
    ("mbpa_update", "bias holds NaN", set_at(1, first(math.nan))),
    ("hebb_logits", "queries holds NaN", set_at(0, first(math.nan))),
    ("hebb_logits", "weight holds NaN", set_at(1, first(math.nan))),
    ("hebb_logits", "bias holds NaN", set_at(2, first(math.nan))),
    ("hebb_logits", "interpolation holds NaN", set_at("interpolation", first(math.nan))),
    (
        "hebb_logits",
        "base_logits holds NaN",
        put("base_logits", torch.full((5, 7), math.nan)),
    ),
    ("mixture_log_probs", "logits holds NaN", set_at(0, first(math.nan))),
    ("mixture_log_probs", "queries holds NaN", set_at(1, first(math.nan))),
]
for _op in ("mbpa_update", "hebb_logits", "mixture_log_probs"):
    _nan = set_at(POSITION[_op], lambda t: torch.full_like(t, math.nan))
    WRONG_VALUES.append((_op, "keys or another input hold NaN", _nan))
for _op in _WITH_CLOSENESS:
    for _value in (-1.0, math.inf, math.nan):
        _bad = torch.ones(5, 9)
        _bad[2, 1] = _value
        WRONG_VALUES.append((_op, "closeness", put("closeness", _bad)))
for _op, _at in POSITION.items():
    WRONG_VALUES += [
        (_op, "neighbors.indices", _neighbours(_at + 2, indices=first(37))),
        (_op, "neighbors.indices", _neighbours(_at + 2, indices=first(-1))),
        (_op, "neighbors.sq_distances", _neighbours(_at + 2, sq_distances=first(-1.0))),
        (_op, "neighbors.sq_distances", _neighbours(_at + 2, sq_distances=first(math.nan))),
        (_op, "labels", _with(3, 7, _at + 2)),
        (_op, "labels", _with(3, -1, _at + 2)),
    ]


def _arguments(op: str, change: Change) -> Arguments:
    case = next(case for case in CASES if case.name == op)
    args, kwargs = case.make(Sizes(), torch.float32, torch.Generator().manual_seed(0))
    changed, kwargs = list(args), dict(kwargs)
    change(changed, kwargs)
    return changed, kwargs


def _expect(op: str, message: str) -> Any:
    return pytest.raises(
        RuntimeError, match=re.escape(f"clfast::{op}: ") + ".*" + re.escape(message)
    )


@pytest.mark.parametrize(
    ("op", "message", "change"),
    [*WRONG, *(wrong for family in FAMILIES for wrong in family.WRONG)],
)
def test_wrong_arguments(op: str, message: str, change: Change) -> None:
    args, kwargs = _arguments(op, change)
    function = getattr(clfast.ops, op)
    with _expect(op, message):
        function(*args, **kwargs)
    with clfast.backend("reference"), _expect(op, message):
        function(*args, **kwargs)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor
        with _expect(op, message):
            function(*map_tensors(tuple(args), fake), **map_tensors(kwargs, fake))


@pytest.mark.parametrize(
    ("op", "message", "change"),
    [*WRONG_VALUES, *(wrong for family in FAMILIES for wrong in family.WRONG_VALUES)],
)
def test_wrong_values(op: str, message: str, change: Change) -> None:
    args, kwargs = _arguments(op, change)
    function = getattr(clfast.ops, op)
    with _expect(op, message):
        function(*args, **kwargs)
    with clfast.backend("reference"), _expect(op, message):
        function(*args, **kwargs)


def test_the_first_wrong_neighbour_is_named() -> None:
    args, _ = _arguments("hebbian_update", lambda a, k: None)
    indices = args[2].indices.clone()
    indices[1, 4], indices[3, 0] = 99, -7
    with pytest.raises(RuntimeError, match=r"neighbors.indices\[1, 4\] is 99, outside the 37 rows"):
        clfast.ops.hebbian_update(*args[:2], Neighbors(args[2].sq_distances, indices), args[3])


# Every argument of every op is of a kind: op, argument, what it is not, the change.
WRONG_KINDS: list[tuple[str, str, str, Change]] = [
    *(("knn", name, "a tensor", put(at, [[1.0]])) for at, name in enumerate(["queries", "keys"])),
    ("knn", "key_sq_norms", "a tensor", put("key_sq_norms", 3)),
    ("knn", "queries", "dense", set_at(0, Tensor.to_sparse)),
    *(
        ("knn", "k", "an integer", put(2, value))
        for value in (2.5, "3", True, None, torch.tensor(2.5), torch.tensor([1, 2]), np.array(2.5))
    ),
    ("hebb_logits", "steps", "an integer", put("steps", torch.tensor(1.9))),
    ("hebbian_update", "eps", "a number", put("eps", torch.tensor(1j))),
    ("hebbian_update", "eps", "a number", put("eps", torch.tensor([0.1, 0.2]))),
    *(
        ("class_means", "normalize", "True or False", put("normalize", value))
        for value in (None, 1.0, torch.tensor(False))
    ),
    ("class_means", "features", "a tensor", put(0, None)),
    ("class_means", "normalize", "True or False", put("normalize", "no")),
    ("class_means", "labels", "a tensor", set_at(1, Tensor.numpy)),
    ("class_means", "num_classes", "an integer", put(2, 8.0)),
    ("nearest_class_mean", "features", "a tensor", put(0, None)),
    ("nearest_class_mean", "means", "a tensor", put(1, None)),
    ("nearest_class_mean", "metric", "a string", put("metric", None)),
    ("interpolation_weights", "counts", "a tensor", put(0, [1, 2])),
    ("interpolation_weights", "beta", "a number", put(1, "0.5")),
    ("interpolation_weights", "dtype", r"a torch\.dtype", put("dtype", "float32")),
    ("hebbian_update", "num_classes", "an integer", put(3, 7.5)),
    ("hebbian_update", "eps", "a number", put("eps", "small")),
    ("hebbian_update", "select", "a tensor", put("select", [True] * 7)),
    ("mbpa_update", "weight", "a tensor", put(0, None)),
    ("mbpa_update", "bias", "a tensor", put(1, [0.0] * 7)),
    ("mbpa_update", "steps", "an integer", put("steps", 1.5)),
    ("mbpa_update", "lr", "a number", put("lr", None)),
    ("mbpa_update", "optimizer", "a string", put("optimizer", None)),
    ("hebb_logits", "queries", "a tensor", put(0, None)),
    ("hebb_logits", "weight", "a tensor", put(1, None)),
    ("hebb_logits", "interpolation", "a tensor", put("interpolation", [1.0] * 7)),
    ("hebb_logits", "base_logits", "a tensor", put("base_logits", 3)),
    ("hebb_logits", "eta", "a number", put("eta", None)),
    ("mixture_log_probs", "logits", "a tensor", put(0, None)),
    ("mixture_log_probs", "queries", "a tensor", put(1, None)),
    ("mixture_log_probs", "theta", "a number", put("theta", torch)),
    ("mixture_log_probs", "form", "a string", put("form", 3)),
    *((op, "closeness", "a tensor", put("closeness", 1.0)) for op in _WITH_CLOSENESS),
    *((op, "keys", "a tensor", put(at, None)) for op, at in POSITION.items()),
    *((op, "labels", "a tensor", put(at + 1, None)) for op, at in POSITION.items()),
    *(
        (op, f"neighbors.{name}", "a tensor", _neighbours(at + 2, **{name: Tensor.tolist}))
        for op, at in POSITION.items()
        for name in ("sq_distances", "indices")
    ),
]


@pytest.mark.parametrize(
    ("op", "message", "change"),
    [
        ("knn", "k must fit into 64 bits", put(2, 2**70)),
        ("mbpa_update", "steps must fit into 64 bits", put("steps", -(2**65))),
        ("hebb_logits", "eta must be finite", put("eta", 10**400)),
    ],
)
@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_numbers_beyond_their_type(op: str, message: str, change: Change, backend: str) -> None:
    args, kwargs = _arguments(op, change)
    with clfast.backend(backend), pytest.raises(ValueError, match=rf"clfast::{op}: {message}"):
        getattr(clfast.ops, op)(*args, **kwargs)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_numbers_of_numpy_and_torch_are_numbers(backend: str) -> None:
    counts, x, one = torch.tensor([0, 1, 2]), torch.randn(3, 2), np.float32(0.5)
    with clfast.backend(backend):
        wanted = clfast.ops.interpolation_weights(counts, 0.5)
        for beta in (one, np.float64(one), torch.tensor(0.5)):
            assert torch.equal(clfast.ops.interpolation_weights(counts, beta), wanted)
        for switch in (np.True_, 1):
            assert torch.equal(
                clfast.ops.class_means(x, counts, 3, normalize=switch),
                clfast.ops.class_means(x, counts, 3),
            )
        assert torch.equal(
            clfast.ops.knn(x, x, np.int64(2)).indices, clfast.ops.knn(x, x, 2).indices
        )
        neighbors = clfast.ops.knn(x, x, 2)
        wanted = clfast.ops.hebbian_update(x, counts, neighbors, 3, eps=0.5)[0]
        for eps in (one, torch.tensor([0.5])):
            got = clfast.ops.hebbian_update(x, counts, neighbors, 3, eps=eps)
            assert torch.equal(got[0], wanted)


def test_a_sound_number_is_not_blamed_for_another_argument() -> None:
    args, kwargs = _arguments("hebb_logits", lambda a, k: k.update(base_logits=torch.ones(1, 2)))
    with _expect("hebb_logits", "base_logits must have shape [5, 7], got [1, 2]"):
        clfast.ops.hebb_logits(*args, **{**kwargs, "eps": np.array(0.1)})


@pytest.mark.parametrize("optimizer", ["rmsprop", "rmsprop_tf", "sgd"])
def test_weights_that_overflow_are_seen_beside_sound_biases(optimizer: str) -> None:
    """The gradient by the weights overflows, that by the bias does not."""
    keys, labels = torch.full((2, 3), 1e38), torch.tensor([0, 1])
    neighbors = Neighbors(torch.zeros(1, 2), torch.tensor([[0, 1]]))
    for name in ("compiled", "reference"):
        with clfast.backend(name), _expect("mbpa_update", "NaN, or infinities that cancel"):
            clfast.ops.mbpa_update(
                *(torch.zeros(2, 3), torch.zeros(2), keys, labels, neighbors),
                steps=1,
                lr=0.0,
                optimizer=optimizer,
            )


@pytest.mark.parametrize(
    ("op", "name", "kind", "change"),
    [*WRONG_KINDS, *(wrong for family in FAMILIES for wrong in family.WRONG_KINDS)],
)
@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_wrong_kinds(op: str, name: str, kind: str, change: Change, backend: str) -> None:
    args, kwargs = _arguments(op, change)
    wanted = rf"clfast::{op}: {re.escape(name)} must be {kind}, got "
    with clfast.backend(backend), pytest.raises(TypeError, match=wanted):
        getattr(clfast.ops, op)(*args, **kwargs)


def test_something_else_than_a_tensor_or_neighbours() -> None:
    keys, labels = torch.ones(3, 2), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"clfast::knn: queries must be a tensor, got ndarray"):
        clfast.ops.knn(keys.numpy(), keys, 1)  # type: ignore[arg-type]
    for wrong in (None, (1, 2, 3), torch.ones(2, 2)):
        with pytest.raises(TypeError, match=r"clfast::hebbian_update: neighbors must be Neighbors"):
            clfast.ops.hebbian_update(keys, labels, wrong, 4)  # type: ignore[arg-type]
    for wrong in ((1, 2, 3), torch.ones(2, 2)):
        with pytest.raises(TypeError, match=r"clfast::knn: rounded must be RoundedKeys"):
            clfast.ops.knn(keys, keys, 1, rounded=wrong)  # type: ignore[arg-type]


def test_keys_that_cannot_be_rounded() -> None:
    keys = torch.ones(3, 2)
    with pytest.raises(RuntimeError, match=r"RoundedKeys.of: keys must be .* not float64"):
        RoundedKeys.of(keys.double())
    with pytest.raises(RuntimeError, match=r"RoundedKeys.of: keys must be 2-D"):
        RoundedKeys.of(keys[0])
    with pytest.raises(RuntimeError, match=r"RoundedKeys.of: offset must have shape \[2\]"):
        RoundedKeys.of(keys, offset=torch.ones(3))
    with pytest.raises(TypeError, match=r"RoundedKeys.of: keys must be a tensor"):
        RoundedKeys.of([1.0])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"clfast::knn: rounded is for float32 and 16-bit keys"):
        clfast.ops.knn(keys.double(), keys.double(), 1, rounded=RoundedKeys.of(keys))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, at first use
def test_forward_mode_is_refused_too() -> None:
    keys = torch.ones(3, 2)
    with pytest.raises(RuntimeError, match=r"clfast::knn: queries requires grad"):
        torch.func.jvp(lambda q: clfast.ops.knn(q, keys, 1).sq_distances, (keys,), (keys,))


def test_a_device_without_kernels_is_named() -> None:
    with pytest.raises((NotImplementedError, RuntimeError), match="clfast::knn"):
        torch.ops.clfast.knn(
            torch.ones(2, 2).to_sparse(), torch.ones(2, 2).to_sparse(), *(1, None, None, None)
        )


def test_not_a_tensor() -> None:
    with pytest.raises((TypeError, RuntimeError), match=r"clfast::knn|queries"):
        torch.ops.clfast.knn([[1.0]], torch.ones(2, 1), 1, None, None, None)


def test_iterators_are_no_lists() -> None:
    weight = [torch.ones(2)]
    hint = "must be a list of tensors, got generator; pass list"
    for name, call in (
        ("params", lambda given: clfast.ops.quadratic_penalty(given, weight, weight)),
        ("grads", lambda given: clfast.ops.block_gradients_(given, [torch.ones(2).bool()])),
    ):
        with pytest.raises(TypeError, match=rf"clfast::\w+: {name} {hint}\({name}\)$"):
            call(each for each in weight)
    with pytest.raises(TypeError, match=r"params must be a list of tensors, got Tensor$"):
        clfast.ops.quadratic_penalty(weight[0], weight, weight)  # type: ignore[arg-type]
