"""Builds the kernels' Python modules, sanitized where CLFAST_SANITIZE=1, and imports them."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from cpu_cases import EMULATED_AMX_SLOWLY, PRODUCTS_OF_BFLOAT16, ROUNDING, level_called

SANITIZE = os.environ.get("CLFAST_SANITIZE") == "1"
ROOT = Path(__file__).parents[2]


def _run(*command: str) -> None:
    # cmake and ninja may be there in this Python's environment only.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": path},
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _nothing_preloaded() -> None:
    """It is loaded here, and in the workers of pytest-xdist; compilers and others do without it."""
    os.environ.pop("LD_PRELOAD", None)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One build at a time, whoever runs the tests."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _built(module: str) -> ModuleType:
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing = "the kernels' Python modules need Python's headers: apt-get install python3-dev"
        # Where sanitizers are asked for, a check that did not run must not pass for one that did.
        (pytest.fail if SANITIZE else pytest.skip)(missing)
    folder = ROOT / "build" / ("kernels-sanitize" if SANITIZE else "kernels")
    folder.mkdir(parents=True, exist_ok=True)
    jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
    configure = [
        *("cmake", "-S", str(ROOT / "tests" / "kernels"), "-B", str(folder), "-GNinja"),
        f"-DPython3_EXECUTABLE={sys.executable}",
        f"-DCLFAST_SANITIZE={'ON' if SANITIZE else 'OFF'}",
    ]
    with _alone(folder):
        editable = ROOT / "build" / "editable"
        if not SANITIZE and (editable / "build.ninja").exists():
            # What an editable install has compiled, brought up to date.
            _run("cmake", "--build", str(editable), "--target", "cpu_kernels", "-j", jobs)
            configure.append(f"-DCLFAST_CPU_OBJECTS={editable}/CMakeFiles/cpu_kernels.dir")
        _run(*configure)
        _run("cmake", "--build", str(folder), "--target", module, "-j", jobs)
    return _load(folder, module)


def _load(folder: Path, name: str) -> ModuleType:
    (path,) = folder.glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.sanitized == SANITIZE
    return module


@pytest.fixture(scope="session")
def cpu() -> ModuleType:
    return _built("_cpu_kernels")


@pytest.fixture(scope="session")
def cuda() -> ModuleType:
    """The CUDA kernels in the SIMT emulator."""
    return _built("_cuda_kernels")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The oracles are small: torch's threads would wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["base", "avx2", "avx512"])
def level(request: pytest.FixtureRequest, cpu: ModuleType) -> int:
    return level_called(cpu, request.param)


@pytest.fixture(params=["base", "avx2", "avx512", *PRODUCTS_OF_BFLOAT16, EMULATED_AMX_SLOWLY])
def knn_level(request: pytest.FixtureRequest, cpu: ModuleType) -> int:
    """With those that differ in knn alone, which may look for candidates in bfloat16."""
    return level_called(cpu, request.param)


@pytest.fixture(params=ROUNDING)
def rounding_level(request: pytest.FixtureRequest, cpu: ModuleType) -> int:
    return level_called(cpu, request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
