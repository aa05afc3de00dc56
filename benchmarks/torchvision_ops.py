"""torchvision without its library, for Avalanche, which imports it.

Its wheels are for CUDA. Where their library does not load, torchvision still describes the shapes
of two of its ops, which have to be there then: they are declared here, and do nothing.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []  # which live as long as this


def declare_missing() -> None:
    """Call it before the first import of torchvision."""
    found = find_spec("torchvision")
    if found is None or found.origin is None or _declared:
        return
    try:
        torch.ops.load_library(str(Path(found.origin).parent / "_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
