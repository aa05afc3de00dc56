"""Avalanche needs torchvision, whose wheels are for CUDA: where their library does not load,
torchvision still describes its ops, which have to be there then."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

_OPS: list[torch.library.Library] = []  # which live as long as this


def _define_ops_of_torchvision() -> None:
    found = find_spec("torchvision")
    if found is None or found.origin is None:
        return
    try:
        torch.ops.load_library(str(Path(found.origin).parent / "_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _OPS.append(library)


_define_ops_of_torchvision()
