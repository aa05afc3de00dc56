"""Checks of what callers pass to a memory. `where` opens every message: `KeyValueMemory.add`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .. import _arguments

# What torch gathers and scatters on every device, and safetensors files hold.
_STORED_DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)


def class_count(number: object, highest: int, where: str) -> int:
    """`number` of classes as an int, larger than the `highest` label."""
    count = _arguments.integer(number, "num_classes", where, least=1)
    if count >= 2**31:  # far beyond any memory; the ops have the same bound
        raise ValueError(f"{where}: num_classes must be less than 2**31, got {count}")
    if highest >= count:
        raise ValueError(
            f"{where}: num_classes is {count}, but the memory has label {highest}; "
            f"pass at least {highest + 1}"
        )
    return count


def check_vectors(vectors: Tensor, name: str, dim: int, device: torch.device, where: str) -> None:
    """`vectors` is a dense floating-point tensor [n, dim] on `device`."""
    _check_dense(vectors, name, where)
    _check_device(vectors, name, device, where)
    if not vectors.is_floating_point():
        raise TypeError(
            f"{where}: {name} must be floating point, got {vectors.dtype}; "
            f"convert them with {name}.float()"
        )
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(
            f"{where}: {name} must have shape [n, {dim}], got {list(vectors.shape)}; "
            f"this memory was made with dim = {dim}"
        )


def check_values(values: Tensor, count: int, device: torch.device, where: str) -> None:
    """`values` are labels of `count` keys on `device`."""
    _check_dense(values, "values", where)
    _check_device(values, "values", device, where)
    check_labels(values, "values", count, where)


def check_labels(labels: Tensor, name: str, count: int, where: str) -> None:
    """`labels` is an int64 tensor [count] of numbers >= 0."""
    if labels.dtype != torch.int64:
        raise TypeError(
            f"{where}: {name} must be int64, got {labels.dtype}; convert them with {name}.long()"
        )
    if labels.shape != (count,):
        raise ValueError(
            f"{where}: {name} must have shape [{count}], one label for each row, "
            f"got {list(labels.shape)}"
        )
    if count and int(labels.min()) < 0:
        row = int((labels < 0).nonzero()[0])
        raise ValueError(
            f"{where}: {name} must be class labels >= 0, got {int(labels[row])} in row {row}; "
            "remove rows without a label"
        )


def check_storable(given: Tensor, stored: Tensor, sq_norms: Tensor, where: str) -> None:
    """Keys are finite as given and as stored, and so are their squared norms.

    A norm is finite only if its key is, so the common case costs one look at the norms.
    """
    finite = sq_norms.isfinite()
    if bool(finite.all()):
        return
    row = int((~finite).nonzero()[0])
    if not bool(given[row].double().isfinite().all()):
        reason = f"must be finite, row {row} holds NaN or Inf; remove it"
    elif not bool(stored[row].isfinite().all()):
        reason = f"overflow {stored.dtype} in row {row}; scale them or choose another dtype"
    else:
        reason = f"have a squared norm that overflows {sq_norms.dtype} in row {row}; scale them"
    raise ValueError(f"{where}: keys {reason}")


def check_finite_queries(queries: Tensor, where: str) -> None:
    """No NaN and no Inf, on the CPU only: elsewhere the check would wait for the device."""
    # A finite sum has finite terms; the exact look is needed only when the sum overflows.
    if queries.device.type != "cpu" or math.isfinite(queries.detach().sum()):
        return
    bad = ~queries.isfinite().all(dim=1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(f"{where}: queries must be finite, row {row} holds NaN or Inf; remove it")


def check_rows(rows: Mapping[str, Tensor], like: Mapping[str, Tensor], where: str) -> None:
    """Dense tensors [n, ...], all with the same n, that can be stored as rows of those in `like`.

    They have the dtypes and row shapes that the tensors of the same names have there.
    """
    count = -1
    for name, given in rows.items():
        _check_dense(given, name, where)
        shape = given.shape
        if given.dtype not in _STORED_DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in _STORED_DTYPES)
            raise TypeError(f"{where}: {name} must be of {known}, got {given.dtype}")
        if given.is_meta:
            raise ValueError(f"{where}: {name} must have values, got a tensor on meta")
        stored = like.get(name, given)
        if given.dtype != stored.dtype:
            raise TypeError(
                f"{where}: {name} must be {stored.dtype} as the rows that are stored, "
                f"got {given.dtype}; convert it with {name}.to({stored.dtype})"
            )
        if not shape or shape[1:] != stored.shape[1:]:
            sizes = "".join(f", {size}" for size in stored.shape[1:]) if name in like else ", ..."
            raise ValueError(f"{where}: {name} must have shape [n{sizes}], got {list(shape)}")
        if shape[0] != count >= 0:
            raise ValueError(
                f"{where}: {name} must have {count} rows as {next(iter(rows))} has, "
                f"got shape {list(shape)}"
            )
        count = shape[0]


def check_mask(mask: Tensor, name: str, count: int, where: str) -> None:
    """`mask` is a bool tensor [count], one entry a slot."""
    _check_dense(mask, name, where)
    if mask.dtype != torch.bool:
        raise TypeError(f"{where}: {name} must be bool, got {mask.dtype}")
    if mask.shape != (count,):
        raise ValueError(
            f"{where}: {name} must have shape [{count}], one entry a slot, got {list(mask.shape)}"
        )


def check_slots(slots: Tensor, size: int, where: str) -> None:
    """`slots` is an int64 tensor [m] of slots of a memory with `size` rows."""
    _check_dense(slots, "slots", where)
    if slots.dtype != torch.int64:
        raise TypeError(f"{where}: slots must be int64, got {slots.dtype}")
    if slots.ndim != 1:
        raise ValueError(f"{where}: slots must have shape [m], got {list(slots.shape)}")
    least, most = torch.stack(slots.aminmax()).tolist() if len(slots) else (0, -1)
    if least < 0 or most >= size:
        raise ValueError(f"{where}: slots must be from 0 to {size - 1}, got {least} to {most}")


def _check_dense(tensor: object, name: str, where: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{where}: {name} must be a torch.Tensor, got {type(tensor).__name__}; "
            "convert with torch.as_tensor"
        )
    if tensor.layout != torch.strided:
        raise TypeError(
            f"{where}: {name} must be dense, got {tensor.layout}; convert with {name}.to_dense()"
        )


def _check_device(tensor: Tensor, name: str, device: torch.device, where: str) -> None:
    if tensor.device != device:
        raise ValueError(
            f"{where}: {name} must be on {device} as the memory is, got {tensor.device}; "
            f"move {name} there, or the memory with memory.to('{tensor.device}')"
        )
