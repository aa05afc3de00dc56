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

from .config import C, Config


def pack(config: Config, parts: Mapping[str, Any]) -> dict[str, Any]:
    """One dictionary of everything; tensors are not copied."""
    header = {"format": config.FORMAT, "version": config.VERSION, "config": config.to_plain()}
    return {**header, **parts}


def unpack(state: Mapping[str, Any], kind: type[C], where: str) -> tuple[C, dict[str, Any]]:
    """What `pack` put together, parts unchecked; ValueError for other formats and versions,
    TypeError for what is no mapping.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"{where}: state must be a mapping, got {type(state).__name__}")
    parts = dict(state)
    header = parts.pop("format", None), parts.pop("version", None)
    if header != (kind.FORMAT, kind.VERSION):
        raise ValueError(
            f"{where}: state must have format {kind.FORMAT!r} and version {kind.VERSION}, "
            f"got {header[0]!r} and {header[1]!r}"
        )
    return kind.from_plain(parts.pop("config", None), where), parts


def require(condition: bool, reason: str, where: str) -> None:
    """ValueError, opening with `where`, that says what does not fit."""
    if not condition:
        raise ValueError(f"{where}: {reason}; nothing was loaded")


def check_tensors(
    saved: Mapping[str, Any], like: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """The tensors of a saved memory if they have the names, dtypes and ranks of those in `like`,
    and no others; ValueError otherwise.
    """
    missing, unknown = like.keys() - saved.keys(), saved.keys() - like.keys()
    require(not missing, f"{', '.join(sorted(missing))} missing", where)
    require(not unknown, f"unknown {', '.join(sorted(map(str, unknown)))}", where)
    for name in sorted(like):
        dtype, rank, found = like[name].dtype, like[name].ndim, saved[name]
        require(
            isinstance(found, Tensor) and found.dtype == dtype and found.ndim == rank,
            f"{name} must be a tensor of {dtype} with {rank} dimensions",
            where,
        )
    return {name: tensor.detach() for name, tensor in saved.items()}


def check_stream(
    tensors: Mapping[str, Tensor],
    size: int,
    labels: Tensor | None,
    capacity: int | None,
    where: str,
) -> None:
    """What is known of a stream, `tensors` of the right dtypes and ranks, fits the rows stored.

    size: how many they are; labels: [size], or None where classes are not counted. Raises
    ValueError otherwise.
    """
    if labels is None:
        total = int(tensors["seen"])
    else:
        seen = _seen_of_class(tensors, where)
        within = Counter(labels.tolist()) <= seen
        require(within, "more rows of a class are stored than were added", where)
        total = seen.total()
        if "full_classes" in tensors:
            full = tensors["full_classes"].cpu()
            require(
                _is_ascending(full) and seen.keys() >= set(full.tolist()),
                "full_classes must be distinct labels, in order, that were added",
                where,
            )
    expected = total if capacity is None else min(total, capacity)
    require(size == expected, f"{size} rows are stored where {total} were added", where)
    sound = _is_generator_state(tensors["generator"])
    require(sound, "generator is no state of a CPU generator", where)


def _seen_of_class(tensors: Mapping[str, Tensor], where: str) -> Counter[int]:
    labels, counts = tensors["seen_labels"].cpu(), tensors["seen_counts"].cpu()
    require(len(labels) == len(counts), "seen_labels and seen_counts differ in length", where)
    require(_is_ascending(labels), "seen_labels must be distinct labels >= 0 in order", where)
    require(bool((counts > 0).all()), "seen_counts must be positive", where)
    return Counter(dict(zip(labels.tolist(), counts.tolist(), strict=True)))


def _is_ascending(labels: Tensor) -> bool:
    return not len(labels) or bool(labels[0] >= 0 and (labels.diff() > 0).all())


def _is_generator_state(state: Tensor) -> bool:
    try:
        torch.Generator("cpu").set_state(state.cpu())
    except (RuntimeError, TypeError):
        return False
    return True
