"""The raw CPU kernels of adaptation at every SIMD level, in buffers of exactly their size."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from cpu_cases import TAILS, every_dtype, every_kernel, every_kind
from guarded_arrays import Array, Guarded, call_guarded
from kernel_problems import (
    Neighbourhood,
    Sizes,
    assert_near,
    make,
    make_far_mixture,
    make_huge_mixture,
    variants,
    widened,
)


def run(
    cpu: ModuleType, level: int, problem: Neighbourhood, ranges: list[tuple[int, int]] | None = None
) -> list[Array]:
    """The outputs of a problem, computed one range of queries after another."""

    def call(*outputs: Array) -> None:
        for begin, end in ranges or [(0, problem.batch)]:
            kernel = getattr(cpu, problem.kernel)
            assert kernel(level, problem, begin, end, *outputs) is None

    return call_guarded(problem.outputs(), call)


def assert_right(cpu: ModuleType, problem: Neighbourhood) -> None:
    """At every level; the oracle, which takes longest, is asked once."""
    wanted = problem.oracle()
    for level in range(cpu.best_level + 1):
        assert_near(problem, run(cpu, level, problem), wanted, f"at level {level}")


@every_kernel
@every_kind
@every_dtype
def test_adaptation_of_all_types(
    cpu: ModuleType, kernel: str, dtype: str, kind: str, rng: np.random.Generator
) -> None:
    assert_right(cpu, make(kernel, Sizes(), dtype, kind, rng))


@every_kernel
@every_dtype
@pytest.mark.parametrize(
    ("axis", "size"),
    [
        *(("batch", size) for size in (1, 2, 33)),
        *(("rows", size) for size in (1, 300)),
        *((axis, size) for axis in ("k", "dim", "classes") for size in (*TAILS, 257, 300)),
    ],
)
def test_adaptation_tails(
    cpu: ModuleType, kernel: str, dtype: str, axis: str, size: int, rng: np.random.Generator
) -> None:
    assert_right(cpu, make(kernel, replace(Sizes(), **{axis: size}), dtype, dtype, rng))


@every_kernel
@every_dtype
@pytest.mark.parametrize("k", [9, 40], ids=["fewer than features", "more than features"])
def test_adaptation_on_every_path(
    cpu: ModuleType, kernel: str, dtype: str, k: int, rng: np.random.Generator
) -> None:
    given = make(kernel, Sizes(k=k), dtype, dtype, rng)
    for changes in variants(given, rng):
        assert_right(cpu, replace(given, **changes))


@pytest.mark.parametrize("kernel", ["hebb_logits", "mbpa_update", "mixture_log_probs"])
@pytest.mark.parametrize("k", [9, 40], ids=["fewer than features", "more than features"])
# Not torch's RMSprop: its quotient of small gradients magnifies the rounding of one in 100,000.
@pytest.mark.parametrize("optimizer", ["rmsprop_tf", "sgd"])
def test_more_classes_than_a_step_takes_together(
    cpu: ModuleType, kernel: str, optimizer: str, k: int, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(batch=2, k=k, classes=3003), "float32", "float32", rng)
    if kernel != "mixture_log_probs":
        problem = replace(problem, optimizer=optimizer, steps=3, lr=0.1)
    assert_right(cpu, problem)


@pytest.mark.parametrize("kernel", ["hebb_logits", "mixture_log_probs"])
@every_dtype
@every_kind
def test_dot_products_from_norms(
    cpu: ModuleType, kernel: str, dtype: str, kind: str, rng: np.random.Generator
) -> None:
    given = make(kernel, Sizes(), dtype, kind, rng)
    norms = np.square(widened(given.keys)).sum(axis=1).astype(dtype)
    assert_right(cpu, replace(given, key_sq_norms=norms))


@every_kernel
def test_zero_and_infinite_distances(
    cpu: ModuleType, kernel: str, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(batch=3), "float32", "float32", rng)
    problem.sq_distances[:, 0] = 0
    problem.sq_distances[1, 2:5] = np.inf
    problem.sq_distances[2] = np.inf
    assert_right(cpu, problem)


@pytest.mark.parametrize("joint", [False, True])
def test_mixture_of_huge_scores_and_logits(
    cpu: ModuleType, joint: bool, rng: np.random.Generator
) -> None:
    assert_right(cpu, make_huge_mixture(rng, joint=joint))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("which", ["logits", "scores"])
def test_mixture_of_numbers_far_from_zero(
    cpu: ModuleType, which: str, joint: bool, rng: np.random.Generator
) -> None:
    assert_right(cpu, make_far_mixture(which, rng, joint=joint))


@every_kernel
@pytest.mark.parametrize("name", ["queries", "weight", "bias", "logits", "base_logits"])
def test_nan_reaches_the_results_that_depend_on_it(
    cpu: ModuleType, kernel: str, name: str, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(), "float32", "float32", rng)
    if hasattr(problem, name):
        getattr(problem, name)[1] = np.nan
        assert any(np.isnan(wanted).any() for wanted in problem.oracle())
    assert_right(cpu, problem)


@every_kernel
def test_rows_without_features(cpu: ModuleType, kernel: str, rng: np.random.Generator) -> None:
    assert_right(cpu, make(kernel, Sizes(dim=0), "float32", "float32", rng))


@every_kernel
def test_ranges_of_queries_are_independent(
    cpu: ModuleType, level: int, kernel: str, rng: np.random.Generator
) -> None:
    problem = make(kernel, Sizes(batch=6), "float32", "float32", rng)
    whole = run(cpu, level, problem)
    parts = run(cpu, level, problem, [(4, 6), (0, 1), (1, 4), (2, 2)])
    assert all(np.array_equal(a, b) for a, b in zip(parts, whole, strict=True))
    guards = [Guarded(shape, dtype) for shape, dtype in problem.outputs()]
    getattr(cpu, kernel)(level, problem, 2, 4, *(guard.array for guard in guards))
    for guard, wanted in zip(guards, whole, strict=True):
        guard.check_margins()
        assert not guard.written()[[0, 1, 4, 5]].any()
        np.testing.assert_array_equal(guard.array[2:4], wanted[2:4])


@every_kernel
def test_no_queries(cpu: ModuleType, level: int, kernel: str, rng: np.random.Generator) -> None:
    problem = make(kernel, Sizes(batch=0), "float32", "float32", rng)
    assert all(output.size == 0 for output in run(cpu, level, problem))


FAULTS = [
    ("index", "indices", -1),
    ("index", "indices", 37),
    ("index", "indices", 2**40),
    ("distance", "sq_distances", -0.5),
    ("distance", "sq_distances", np.nan),
    ("distance", "sq_distances", -np.inf),
    ("closeness", "closeness", -0.5),
    ("closeness", "closeness", np.nan),
    ("label", "labels", -1),
    ("label", "labels", 7),
    ("label", "labels", -(2**40)),
]


@every_kernel
@pytest.mark.parametrize(("fault", "field", "value"), FAULTS)
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_the_first_fault_is_reported(
    cpu: ModuleType,
    level: int,
    kernel: str,
    fault: str,
    field: str,
    value: float,
    optimizer: str,
    rng: np.random.Generator,
) -> None:
    problem = make(kernel, Sizes(batch=5), "float32", "float32", rng)
    if hasattr(problem, "optimizer"):
        problem = replace(problem, optimizer=optimizer)
    if field == "closeness":
        problem = replace(problem, closeness=np.ones_like(problem.sq_distances))
    if field == "labels":
        problem.indices[problem.indices == 30] = 31
        problem.indices[[2, 3], [4, 1]] = 30
        problem.labels[30] = value
    else:
        getattr(problem, field)[[2, 3], [4, 1]] = value
    guards = [Guarded(shape, dtype) for shape, dtype in problem.outputs()]
    outputs = [guard.array for guard in guards]
    call = getattr(cpu, kernel)
    assert call(level, problem, 0, 5, *outputs) == (fault, 2, 4)
    assert call(level, problem, 3, 5, *outputs) == (fault, 3, 1)
    assert call(level, problem, 4, 5, *outputs) is None
    for guard in guards:
        guard.check_margins()


# ---- One level against another ----


@every_kernel
@every_dtype
def test_levels_agree(cpu: ModuleType, kernel: str, dtype: str, rng: np.random.Generator) -> None:
    problem = make(kernel, Sizes(batch=9, k=20, dim=33), dtype, dtype, rng)
    base, *others = (run(cpu, level, problem) for level in range(cpu.best_level + 1))
    for other in others:
        assert_near(problem, other, base)
