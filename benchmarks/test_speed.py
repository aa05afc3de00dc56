"""Every variant of every case: right, and timed by pytest-benchmark.

With --benchmark-disable each runs once and is only checked; `-k "small and clfast"` chooses clfast
at the small sizes.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from .case import Case, Variant


@functools.lru_cache(maxsize=1)
def _prepared(case: Case, device: str) -> tuple[Any, Any]:
    """Inputs and what the oracle makes of them; the variants of a case come one after another."""
    inputs = case.make_inputs(0, device)
    return inputs, case.oracle(inputs)


def test_speed(benchmark: BenchmarkFixture, case: Case, variant: Variant, device: str) -> None:
    if not variant.installed():
        pytest.skip(f"{variant.module} is not installed")
    if variant.kind == "compiled":
        torch.compiler.reset()
    with torch.no_grad():
        inputs, expected = _prepared(case, device)
        (call,) = variant.bind([inputs])
        error = case.error(call(), expected, inputs)
        assert error <= case.tolerance

        def finished() -> None:
            call()
            if device == "cuda":
                torch.cuda.synchronize()

        benchmark.group = case.name
        benchmark.extra_info |= {"kind": variant.kind, "error": error}
        benchmark(finished)
