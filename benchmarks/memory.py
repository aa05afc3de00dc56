"""The most memory that a call needs at one time."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from .case import Call

_PROCESS = Path("/proc/self")


def peak_memory(call: Call, device: str) -> int | None:
    """Bytes at the peak of the call, beyond those before it; None where the system does not tell.

    On the CPU these are resident pages of the process, of which Linux keeps the high-water mark:
    unlike a count of tensors they hold the scratch of every library. What the heap keeps for later
    is handed back first. What a library keeps from an earlier call is not of this one, so the call
    must have run before. On CUDA they are what torch's allocator hands out.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        (_PROCESS / "clear_refs").write_text("5")  # the mark falls to what is resident now
    except (AttributeError, OSError):
        return None
    before = _status("VmRSS")
    call()
    return max(_status("VmHWM") - before, 0)


def _status(name: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(kib)
