"""The whole of a memory as plain tensors, strings and numbers, and the way back.

A saved memory comes from a file or a checkpoint that anything may have happened to. All of it is
checked before any of it is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .config import Config
from .rows import squared_norms

FORMAT = "clfast.KeyValueMemory"
VERSION = 1


def pack(config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """One dictionary of everything; the tensors are not copied."""
    return {"format": FORMAT, "version": VERSION, "config": config.to_plain(), **tensors}


def unpack(state: Mapping[str, Any], where: str) -> tuple[Config, dict[str, Any]]:
    """What `pack` put together, tensors unchecked; ValueError for other formats and versions,
    TypeError for what is no mapping.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"{where}: state must be a mapping, got {type(state).__name__}")
    tensors = dict(state)
    header = tensors.pop("format", None), tensors.pop("version", None)
    if header != (FORMAT, VERSION):
        raise ValueError(
            f"{where}: state must have format {FORMAT!r} and version {VERSION}, "
            f"got {header[0]!r} and {header[1]!r}"
        )
    return Config.from_plain(tensors.pop("config", None), where), tensors


def check_tensors(
    saved: Mapping[str, Any], config: Config, names: set[str], where: str
) -> dict[str, Tensor]:
    """The tensors of a saved memory, if they fit together and fit a memory of this config.

    names: the tensors that such a memory has, no more and no less.

    Raises ValueError, opening with `where`, that says what does not fit.
    """

    def require(condition: bool, reason: str) -> None:
        if not condition:
            raise ValueError(f"{where}: {reason}; nothing was loaded")

    require(names <= saved.keys(), f"{', '.join(sorted(names - saved.keys()))} missing")
    require(saved.keys() <= names, f"unknown {', '.join(sorted(saved.keys() - names))}")
    for name in sorted(names):
        dtype = {"keys": config.dtype, "generator": torch.uint8}.get(name, torch.int64)
        rank = 2 if name == "keys" else 1
        found = saved[name]
        require(
            isinstance(found, Tensor) and found.dtype == dtype and found.ndim == rank,
            f"{name} must be a tensor of {dtype} with {rank} dimensions",
        )
    tensors: dict[str, Tensor] = {name: tensor.detach() for name, tensor in saved.items()}
    keys, values = tensors["keys"], tensors["values"]
    labels, counts = tensors["seen_labels"].cpu(), tensors["seen_counts"].cpu()

    require(keys.shape[1] == config.dim, f"keys have {keys.shape[1]} columns, not {config.dim}")
    require(len(values) == len(keys), f"{len(keys)} keys, but {len(values)} values")
    require(len(labels) == len(counts), "seen_labels and seen_counts differ in length")
    require(_is_ascending(labels), "seen_labels must be distinct labels >= 0 in order")
    require(bool((counts > 0).all()), "seen_counts must be positive")
    seen = Counter(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
    require(Counter(values.tolist()) <= seen, "more rows of a class are stored than were added")
    total = seen.total()
    size = total if config.capacity is None else min(total, config.capacity)
    require(len(keys) == size, f"{len(keys)} rows are stored where {total} were added")
    require(bool(squared_norms(keys).isfinite().all()), "keys must be finite")
    require(_is_generator_state(tensors["generator"]), "generator is no state of a CPU generator")
    if "full_classes" in names:
        full = tensors["full_classes"].cpu()
        require(
            _is_ascending(full) and seen.keys() >= set(full.tolist()),
            "full_classes must be distinct labels, in order, that were added",
        )
    return tensors


def _is_ascending(labels: Tensor) -> bool:
    return not len(labels) or bool(labels[0] >= 0 and (labels.diff() > 0).all())


def _is_generator_state(state: Tensor) -> bool:
    try:
        torch.Generator("cpu").set_state(state.cpu())
    except (RuntimeError, TypeError):
        return False
    return True
