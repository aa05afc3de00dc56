"""Loads the compiled libraries, or says why they cannot be loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

_HERE = Path(__file__).parent
_kept_alive: list[torch.library.Library] = []


def _load(path: Path) -> None:
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise ImportError(
            f"clfast: {path} cannot be loaded with torch {torch.__version__}: {error}. "
            "clfast needs torch 2.11 or newer; build it again with "
            "`pip install --no-build-isolation .` in its source folder"
        ) from error


def _refuse_cuda(op: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(
            f"clfast::{op}: got CUDA tensors, but this clfast was built for the CPU only "
            "(_C_cuda.so is missing); build it with CLFAST_CUDA=1 where nvcc is installed, "
            'or use clfast.backend("reference")'
        )

    return refuse


def cuda_library_loaded() -> bool:
    """Whether the CUDA kernels are there."""
    return torch.version.cuda is not None and (_HERE / "_C_cuda.so").exists()


def load(ops: tuple[str, ...]) -> None:
    """Loads ``_C.so``, and ``_C_cuda.so`` where torch has CUDA.

    Raises:
        ImportError: when ``_C.so`` is missing or does not load.
    """
    library = _HERE / "_C.so"
    if not library.exists():
        raise ImportError(
            f"clfast: {library} is missing: the package is not built. "
            "Run `pip install --no-build-isolation .` in its source folder"
        )
    _load(library)
    if cuda_library_loaded():
        _load(_HERE / "_C_cuda.so")
        return
    fallback = torch.library.Library("clfast", "IMPL")
    for op in ops:
        fallback.impl(op, _refuse_cuda(op), "CUDA")
    _kept_alive.append(fallback)
