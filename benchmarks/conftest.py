"""The benchmark cases under pytest-benchmark: `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="of the benchmarks")
    parser.addoption("--threads", type=int, default=2, help="torch threads of the benchmarks")


def pytest_configure(config: pytest.Config) -> None:
    # torch's own import of its compiler uses what torch itself deprecates.
    config.addinivalue_line("filterwarnings", "ignore:.*torch.jit:DeprecationWarning")
    torch.set_num_threads(config.getoption("threads"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each variant of each case that the device has."""
    from .families import cases, names

    device = metafunc.config.getoption("device")
    found = [
        pytest.param(case, variant, id=_id(family, case, variant))
        for family in names()
        for case in cases(family)
        for variant in case.variants_on(device)
    ]
    metafunc.parametrize(("case", "variant"), found)


def _id(family: str, case: object, variant: object) -> str:
    size = "small" if case.small else "full"  # type: ignore[attr-defined]
    return f"{family}-{size}-{case.name}-{variant.name}"  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    chosen: str = request.config.getoption("device")
    return chosen
