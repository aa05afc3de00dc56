"""The raw CPU kernels of perceptrons at every SIMD level, in buffers of exactly their size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
from cpu_cases import TAILS, every_dtype
from guarded_arrays import Array, Shapes, call_guarded
from kernel_problems import assert_near


@dataclass(frozen=True)
class Layer:
    kernel: ClassVar[str] = "perceptron_layer"
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 64

    x: Array  # [n, d]
    weight: Array  # [h, d]
    bias: Array | None  # [h]
    rectified: bool
    grad: Array  # [n, h]
    hidden: Array  # [n, d]

    def outputs(self) -> Shapes:
        return [(self.grad.shape, self.x.dtype), (self.x.shape, self.x.dtype)]

    def oracle(self) -> list[Array]:
        """The gradient once where units are on, and once more everywhere."""
        wide = np.float64
        out = self.x.astype(wide) @ self.weight.astype(wide).T
        if self.bias is not None:
            out += self.bias
        gradient = self.grad.astype(wide) @ self.weight.astype(wide)
        return [
            np.maximum(out, 0) if self.rectified else out,
            gradient * (1 + (self.hidden > 0)),
        ]


def layer(
    samples: int,
    inputs: int,
    outputs: int,
    dtype: str,
    rng: np.random.Generator,
    *,
    bias: bool = True,
    rectified: bool = True,
) -> Layer:
    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(dtype)

    return Layer(
        normal(samples, inputs),
        normal(outputs, inputs) / np.sqrt(np.array(inputs, dtype)),
        normal(outputs) if bias else None,
        rectified,
        normal(samples, outputs),
        np.maximum(normal(samples, inputs), 0),
    )


def found(cpu: ModuleType, level: int, problem: Layer, pieces: int = 1) -> list[Array]:
    return call_guarded(
        problem.outputs(), lambda *out: cpu.perceptron_layer(level, problem, pieces, *out)
    )


def assert_right(cpu: ModuleType, problem: Layer) -> None:
    wanted = problem.oracle()
    for level in range(cpu.best_level + 1):
        assert_near(problem, found(cpu, level, problem), wanted, f"at level {level}")


@every_dtype
@pytest.mark.parametrize("size", TAILS)
def test_layers_of_every_size(
    cpu: ModuleType, dtype: str, size: int, rng: np.random.Generator
) -> None:
    assert_right(cpu, layer(size, 9, 14, dtype, rng))
    assert_right(cpu, layer(7, size, 14, dtype, rng, bias=False))
    assert_right(cpu, layer(10, 21, size, dtype, rng, rectified=False))


@every_dtype
@pytest.mark.parametrize("samples", range(1, 14))
def test_every_height_of_a_tile(
    cpu: ModuleType, dtype: str, samples: int, rng: np.random.Generator
) -> None:
    assert_right(cpu, layer(samples, 40, 25, dtype, rng))


@every_dtype
@pytest.mark.parametrize("samples", [1, 2, 3, 4, 6, 7, 10, 13])
def test_layers_in_pieces_and_alone(
    cpu: ModuleType, level: int, dtype: str, samples: int, rng: np.random.Generator
) -> None:
    """To the bit: neither units nor samples depend on what is computed beside them."""
    problem = layer(samples, 50, 61, dtype, rng)
    whole = found(cpu, level, problem)
    for pieces in (2, 3, 7, 61):
        for all_at_once, parts in zip(whole, found(cpu, level, problem, pieces), strict=True):
            assert all_at_once.tobytes() == parts.tobytes()
    for row in range(samples):
        of_row = {name: getattr(problem, name)[row : row + 1] for name in ("x", "grad", "hidden")}
        for beside_others, alone in zip(
            whole, found(cpu, level, replace(problem, **of_row)), strict=True
        ):
            assert beside_others[row].tobytes() == alone.tobytes()


def test_what_is_not_a_number_stays_so(cpu: ModuleType, level: int) -> None:
    rng = np.random.default_rng(0)
    problem = layer(3, 20, 9, "float32", rng)
    problem.x[1, 4] = np.nan
    problem.hidden[2, 5] = np.nan
    out, gradient = found(cpu, level, problem)
    assert np.isnan(out[1]).all()
    assert np.isfinite(out[[0, 2]]).all()
    # As in torch, a unit that is no number is not off.
    wanted = 2 * problem.grad[2].astype(float) @ problem.weight[:, 5]
    np.testing.assert_allclose(gradient[2, 5], wanted, rtol=0, atol=1e-5)
