"""The limits of the machine, measured where and when the ops are: bandwidth and FLOP/s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .harness import CudaTimer, Timer, WallTimer

GIB = 1 << 30


def measure(device: str, threads: int) -> dict[str, Any]:
    """``{"memory": [level, ...], "flops": {name: FLOP/s}}``, levels from the smallest.

    A level has `name`, `capacity` in bytes (None for the last), and `read` and `copy` in bytes/s,
    where a copy counts what it reads and what it writes. A limit is what the machine does at its
    best: the fastest of several samples.
    """
    timer: Timer = WallTimer() if device == "cpu" else CudaTimer(flush_l2=False)
    # On CUDA the inputs rotate until they overflow the cache, so all comes from the memory.
    caches = cpu_caches(threads) if device == "cpu" else []
    beyond = min(16 * caches[-1][1], GIB) if caches else GIB
    with torch.no_grad():
        levels = [_level(name, size, size // 2, device, timer) for name, size in caches]
        levels.append(_level("DRAM", None, beyond, device, timer))
        flops = {"sgemm": _matmul(torch.float32, device, timer)}
        flops["dgemm"] = _matmul(torch.float64, device, timer)
        if device == "cuda":
            flops["bf16"] = _matmul(torch.bfloat16, device, timer)
    return {"memory": levels, "flops": flops}


def cpu_caches(threads: int, root: Path = Path("/sys/devices/system/cpu")) -> list[tuple[str, int]]:
    """L2 of as many cores as there are threads, and L3, in bytes; empty where Linux tells none."""
    sizes = {}
    for index in sorted(root.glob("cpu0/cache/index*")):
        level, kind, size = ((index / f).read_text().strip() for f in ("level", "type", "size"))
        if kind == "Unified":
            sizes[f"L{level}"] = int(size.removesuffix("K")) * 1024
    if "L2" in sizes:
        sizes["L2"] *= threads
    return sorted(sizes.items(), key=lambda item: item[1])


def floors(work: dict[str, int], machine: dict[str, Any]) -> dict[str, float]:
    """The times below which this machine cannot do the work, by what binds it: sgemm, and the level
    of memory that all of it fits.

    Writing n bytes costs what a copy of n bytes costs beyond its read. FLOP are counted against
    sgemm; kernels that use matrix units of a lower precision can pass that.
    """
    level = _level_of(work["read"] + work["written"], machine["memory"])
    write = max(2 / level["copy"] - 1 / level["read"], 0)
    return {
        "sgemm": work["flops"] / machine["flops"]["sgemm"],
        level["name"]: work["read"] / level["read"] + work["written"] * write,
    }


def _level_of(size: int, levels: list[dict[str, Any]]) -> dict[str, Any]:
    for level in levels:
        if level["capacity"] is None or size <= level["capacity"]:
            return level
    raise ValueError("the last level must be without capacity")


def _level(name: str, capacity: int | None, size: int, device: str, timer: Timer) -> dict[str, Any]:
    """Read: the fastest of three kernels of torch, none of which is fastest everywhere."""
    columns = 1024
    matrix = torch.rand(max(size // 4 // columns, 2), columns, device=device)
    vector = torch.rand(columns, device=device)
    first, second = matrix.view(-1).chunk(2)
    target = torch.empty_like(first)
    reads = [matrix.sum, lambda: matrix @ vector, lambda: first.dot(second[: len(first)])]
    bytes_ = matrix.numel() * 4
    return {
        "name": name,
        "capacity": capacity,
        "bytes": bytes_,
        "read": bytes_ / min(_fastest(read, timer) for read in reads),
        "copy": 2 * first.numel() * 4 / _fastest(lambda: target.copy_(first), timer),
    }


def _matmul(dtype: torch.dtype, device: str, timer: Timer) -> float:
    size = 8192 if device == "cuda" else 1536
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _fastest(lambda: a @ b, timer)


def _fastest(call: Any, timer: Timer) -> float:
    timer.seconds([call], 1)
    once = timer.seconds([call], 1)
    repeats = max(int(2e-3 / once), 1)
    return min(timer.seconds([call], repeats) for _ in range(9))
