"""Shared fixtures. Makes the `benchmarks` package importable, wherever pytest was started from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import clfast
from clfast.experiments.run_folder import SIMD_LEVELS

sys.path.insert(0, str(Path(__file__).parents[1]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """GPU tests are there to be seen, and say why they did not run."""
    if torch.cuda.is_available() and clfast._library.cuda_library_loaded():
        return
    reason = "needs an NVIDIA GPU and clfast built with CUDA; see `make gpu-check`"
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))


# What differs between kernels; in knn, products of bfloat16 too, which its tests ask for.
VECTORS = ["base", "avx2", "avx512"]


@pytest.fixture(params=VECTORS)
def simd_level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test at every SIMD level that this processor has."""
    before = torch.ops.clfast.simd_level()
    torch.ops.clfast.set_simd_level(SIMD_LEVELS.index(request.param))
    in_use = torch.ops.clfast.simd_level()
    try:
        if in_use != SIMD_LEVELS.index(request.param):
            pytest.skip(f"this processor has no {request.param}")
        yield request.param
    finally:
        torch.ops.clfast.set_simd_level(before)


@pytest.fixture(autouse=True)
def _compiled_backend() -> Iterator[None]:
    """A test that forgets to switch the backend back does not disturb the next."""
    with clfast.backend("compiled"):
        yield


# The same in every run; another one finds tests whose tolerance, or whose subject, is luck.
SEED = int(os.environ.get("CLFAST_TEST_SEED", "0"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test draws the same numbers, whichever tests its worker ran before."""
    torch.manual_seed(SEED)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)
