"""The index that a memory's config names."""

from __future__ import annotations

import torch

from .config import KeyValueConfig
from .exact_index import ExactIndex, Index, RoundedIndex
from .faiss_index import FaissIndex


def make_index(config: KeyValueConfig, device: torch.device, where: str) -> Index:
    """The index that a config names; ModuleNotFoundError or ValueError if there is none."""
    if config.index == "exact":
        return ExactIndex()
    if config.index == "bf16":
        return RoundedIndex(config.capacity)
    if device.type != "cpu":
        raise ValueError(
            f"{where}: index {config.index!r} searches on the CPU; keep the memory there, or use "
            "index='exact'"
        )
    return FaissIndex(config, where)
