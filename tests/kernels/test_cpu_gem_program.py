"""GEM's quadratic programme, in the function that CPU and CUDA share."""

from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest
import torch
from guarded_arrays import Array, call_guarded
from hypothesis import given, settings
from hypothesis import strategies as st

from clfast import reference

RIDGE = 1e-3


def solve(cpu: ModuleType, gram: Array, products: Array, margin: float) -> Array:
    # Above the diagonal nothing is read.
    lower = np.where(np.tri(len(gram), dtype=bool), gram, np.nan)
    (found,) = call_guarded(
        [(products.shape, np.float64)],
        lambda out: cpu.gem_multipliers(lower, products, margin, out),
    )
    return found


def best_of_all_sets(gram: Array, products: Array, margin: float) -> Array:
    """The solution whose set of variables at the bound is right, by trying all sets."""
    tasks = len(gram)
    p = gram + RIDGE * np.eye(tasks)
    best, least = np.full(tasks, margin), np.inf
    for free in itertools.product([False, True], repeat=tasks):
        f = np.array(free)
        v = np.full(tasks, margin)
        v[f] = np.linalg.solve(p[np.ix_(f, f)], -products[f] - p[np.ix_(f, ~f)] @ v[~f])
        value = v @ p @ v / 2 + products @ v
        if (v >= margin).all() and value < least:
            best, least = v, value
    return best


def assert_optimal(gram: Array, products: Array, margin: float, v: Array) -> None:
    """The conditions of Karush, Kuhn and Tucker, up to rounding: they are sufficient."""
    p = gram + RIDGE * np.eye(len(gram))
    slope = p @ v + products
    error = 1e-12 * (np.abs(p) @ np.abs(v) + np.abs(products) + 1)
    assert (v >= margin).all()
    assert (slope >= -error).all()
    assert (np.abs(slope)[v > margin] <= error[v > margin]).all()


def _gradients(
    tasks: int, columns: int, rng: np.random.Generator, common: float = 1.0
) -> tuple[Array, Array]:
    rows = rng.standard_normal((tasks, columns)) + common * rng.standard_normal(columns)
    return rows @ rows.T, rows @ rng.standard_normal(columns)


@pytest.mark.parametrize("tasks", range(1, 9))
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_the_best_of_all_sets(
    cpu: ModuleType, tasks: int, margin: float, rng: np.random.Generator
) -> None:
    for columns in (1, 3, 50):  # fewer columns than tasks: the ridge alone makes P definite
        for common in (0.0, 3.0):
            gram, products = _gradients(tasks, columns, rng, common)
            found = solve(cpu, gram, products, margin)
            wanted = best_of_all_sets(gram, products, margin)
            np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("tasks", [20, 64, 150])
@pytest.mark.parametrize("columns", [5, 1000])
@pytest.mark.parametrize("common", [0.0, 1.0, 30.0])
def test_many_tasks(
    cpu: ModuleType, tasks: int, columns: int, common: float, rng: np.random.Generator
) -> None:
    for margin in (0.0, 0.5):
        gram, products = _gradients(tasks, columns, rng, common)
        found = solve(cpu, gram, products, margin)
        assert_optimal(gram, products, margin, found)
        wanted = reference.consolidation.gem_multipliers(
            torch.from_numpy(gram), torch.from_numpy(products), margin
        )
        scale = max(1.0, float(wanted.abs().max()))
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-8 * scale)


def test_tasks_that_are_the_same_or_opposite(cpu: ModuleType) -> None:
    for signs in (np.ones(6), np.array([1.0, -1.0, 1.0, -1.0, 1.0, 1.0])):
        gram, products = 4 * np.outer(signs, signs), -3 * signs
        for margin in (0.0, 0.5):
            assert_optimal(gram, products, margin, solve(cpu, gram, products, margin))


def test_gradients_of_nothing(cpu: ModuleType) -> None:
    for margin in (0.0, 0.5):
        found = solve(cpu, np.zeros((3, 3)), np.zeros(3), margin)
        np.testing.assert_array_equal(found, np.full(3, margin))
    assert solve(cpu, np.zeros((0, 0)), np.zeros(0), 0.5).shape == (0,)


def test_nan_ends_too(cpu: ModuleType, rng: np.random.Generator) -> None:
    gram, products = _gradients(5, 20, rng)
    gram[3, 1] = gram[1, 3] = np.nan
    assert solve(cpu, gram, products, 0.5).shape == (5,)


@settings(max_examples=200, deadline=None)
@given(
    tasks=st.integers(1, 12),
    columns=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-4, 3),
    digits=st.integers(0, 2),
    margin=st.sampled_from([0.0, 1e-6, 0.5, 10.0]),
)
def test_any_programme_is_solved(
    cpu: ModuleType,
    tasks: int,
    columns: int,
    seed: int,
    exponent: int,
    digits: int,
    margin: float,
) -> None:
    """With ties and dependent rows: entries have few digits."""
    rng = np.random.default_rng(seed)
    rows = 10.0**exponent * rng.standard_normal((tasks, columns)).round(digits)
    gram, products = rows @ rows.T, rows @ rng.standard_normal(columns).round(digits)
    assert_optimal(gram, products, margin, solve(cpu, gram, products, margin))
