"""Fake kernels of :mod:`clfast.ops.masks`: all checks, then outputs without values.

The reference backend checks by them too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._backend import uses_reference
from . import _check


def _check_embedding(
    op: str, name: str, embedding: Tensor, weight_name: str, weight: Tensor
) -> None:
    _check.same_precision(op, name, embedding, weight_name, weight)
    _check.same_device(op, name, embedding, weight_name, weight)
    fits = embedding.dim() == weight.dim()
    if fits:
        pairs = list(zip(embedding.shape, weight.shape, strict=True))
        while pairs and pairs[0][0] == 1 != pairs[0][1]:
            pairs.pop(0)
        while pairs and pairs[-1][0] == 1 != pairs[-1][1]:
            pairs.pop()
        fits = all(e == w for e, w in pairs)
    _check.require(
        fits,
        f"{op}: {name} must have shape {list(weight.shape)}, as {weight_name} has, or ones on "
        f"either side of some of these dimensions, got {list(embedding.shape)}",
    )


def _check_scale(op: str, name: str, scale: float, dtype: torch.dtype) -> None:
    _check.finite(op, name, scale, _check.held(scale, dtype) > 0, "finite and > 0", dtype)


def _check_scales(op: str, scale: float, max_scale: float | None, dtype: torch.dtype) -> None:
    _check_scale(op, "scale", scale, dtype)
    if max_scale is not None:
        _check_scale(op, "max_scale", max_scale, dtype)


def check_same_length(
    op: str, name: str, given: Sequence[Tensor | None], other: str, count: int
) -> None:
    _check.require(
        len(given) == count,
        f"{op}: {name} must hold {count} tensors, as {other} does, got {len(given)}",
    )


def check_not_empty(op: str, name: str, given: Sequence[Tensor]) -> None:
    """Without any tensor no device could be asked for its kernel."""
    _check.require(len(given) > 0, f"{op}: {name} must hold at least one tensor")


def check_same_shape(op: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    _check.require(
        tensor.shape == other.shape,
        f"{op}: {name} must have shape {list(other.shape)}, as {other_name} has, "
        f"got {list(tensor.shape)}",
    )


def check_reserved(op: str, name: str, mask: Tensor, other_name: str, other: Tensor) -> None:
    _check.same_device(op, name, mask, other_name, other)
    if mask.dtype == torch.uint8:
        size = (other.numel() + 7) // 8
        _check.require(
            tuple(mask.shape) == (size,),
            f"{op}: {name} is packed and must have shape [{size}] for the {other.numel()} elements "
            f"of {other_name}, got {list(mask.shape)}",
        )
        return
    _check.require(
        mask.dtype == torch.bool,
        f"{op}: {name} must be bool, or uint8 from pack_mask, got {mask.dtype}",
    )
    check_same_shape(op, name, mask, other_name, other)


def _check_like_first(op: str, list_name: str, tensors: Sequence[Tensor]) -> None:
    for i, tensor in enumerate(tensors):
        _check.same_precision(op, f"{list_name}[{i}]", tensor, f"{list_name}[0]", tensors[0])
        _check.same_device(op, f"{list_name}[{i}]", tensor, f"{list_name}[0]", tensors[0])


def _check_embeddings(op: str, embeddings: Sequence[Tensor], reserved: Sequence[Tensor]) -> None:
    check_not_empty(op, "embeddings", embeddings)
    check_same_length(op, "reserved", reserved, "embeddings", len(embeddings))
    _check_like_first(op, "embeddings", embeddings)
    for i, (e, r) in enumerate(zip(embeddings, reserved, strict=True)):
        check_reserved(op, f"reserved[{i}]", r, f"embeddings[{i}]", e)


def _check_layers(
    op: str, weights: Sequence[Tensor], embeddings: Sequence[Tensor], reserved: Sequence[Tensor]
) -> None:
    check_not_empty(op, "weights", weights)
    check_same_length(op, "embeddings", embeddings, "weights", len(weights))
    _check_embeddings(op, embeddings, reserved)
    for i, (w, e) in enumerate(zip(weights, embeddings, strict=True)):
        _check.same_precision(op, f"weights[{i}]", w, "embeddings[0]", embeddings[0])
        _check_embedding(op, f"embeddings[{i}]", e, f"weights[{i}]", w)


def _check_no_nan(op: str, embeddings: Sequence[Tensor]) -> None:
    if uses_reference():
        _check.no_nan(op, **{f"embeddings[{i}]": e for i, e in enumerate(embeddings)})


def like(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.new_empty(t.shape, dtype=_check.compute_dtype(t)) for t in tensors]


@torch.library.register_fake("clfast::masked_weight")
def masked_weight(
    weight: Tensor, embedding: Tensor, scale: float, max_scale: float | None
) -> Tensor:
    op = "masked_weight"
    _check.floating(op, "weight", weight)
    _check_embedding(op, "embedding", embedding, "weight", weight)
    _check_scales(op, scale, max_scale, _check.compute_dtype(weight))
    if uses_reference():
        _check.no_nan(op, embedding=embedding)
    return like([weight])[0]


@torch.library.register_fake("clfast::masked_weight_backward")
def masked_weight_backward(
    grad: Tensor, weight: Tensor, embedding: Tensor, scale: float, max_scale: float | None
) -> tuple[Tensor, Tensor]:
    op = "masked_weight_backward"
    _check.floating(op, "weight", weight)
    _check_embedding(op, "embedding", embedding, "weight", weight)
    _check_scales(op, scale, max_scale, _check.compute_dtype(weight))
    _check_grad(op, "grad", grad, "weight", weight)
    d_weight, d_embedding = like([weight, embedding])
    return d_weight, d_embedding


def _check_grad(op: str, name: str, grad: Tensor, weight_name: str, weight: Tensor) -> None:
    check_same_shape(op, name, grad, weight_name, weight)
    _check.same_precision(op, name, grad, weight_name, weight)
    _check.same_device(op, name, grad, weight_name, weight)


@torch.library.register_fake("clfast::mask_sparsity")
def mask_sparsity(
    embeddings: list[Tensor],
    reserved: list[Tensor],
    scale: float,
    max_scale: float | None,
    with_gradient: bool,
) -> tuple[Tensor, list[Tensor]]:
    op = "mask_sparsity"
    _check_embeddings(op, embeddings, reserved)
    dtype = _check.compute_dtype(embeddings[0])
    _check_scales(op, scale, max_scale, dtype)
    _check_no_nan(op, embeddings)
    value = embeddings[0].new_empty((), dtype=dtype)
    return value, like(embeddings) if with_gradient else []


@torch.library.register_fake("clfast::masked_weights")
def masked_weights(
    weights: list[Tensor],
    embeddings: list[Tensor],
    reserved: list[Tensor],
    scale: float,
    max_scale: float | None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    op = "masked_weights"
    _check_layers(op, weights, embeddings, reserved)
    dtype = _check.compute_dtype(weights[0])
    _check_scales(op, scale, max_scale, dtype)
    _check_no_nan(op, embeddings)
    first = weights[0]
    return like(weights), first.new_empty((), dtype=dtype), first.new_empty((), dtype=torch.int64)


@torch.library.register_fake("clfast::masked_weights_gradients")
def masked_weights_gradients(
    grads: list[Tensor],
    sparsity_grad: Tensor,
    weights: list[Tensor],
    embeddings: list[Tensor],
    reserved: list[Tensor],
    free: Tensor | None,
    scale: float,
    max_scale: float | None,
) -> tuple[list[Tensor], list[Tensor]]:
    op = "masked_weights_gradients"
    _check_layers(op, weights, embeddings, reserved)
    _check_scales(op, scale, max_scale, _check.compute_dtype(weights[0]))
    check_same_length(op, "grads", grads, "weights", len(weights))
    for i, (g, w) in enumerate(zip(grads, weights, strict=True)):
        _check_grad(op, f"grads[{i}]", g, f"weights[{i}]", w)
    _check.require(
        sparsity_grad.numel() == 1,
        f"{op}: sparsity_grad must be one number, got shape {list(sparsity_grad.shape)}",
    )
    _check.same_device(op, "sparsity_grad", sparsity_grad, "weights[0]", weights[0])
    return like(weights), like(embeddings)


@torch.library.register_fake("clfast::block_gradients_")
def block_gradients_(grads: list[Tensor], reserved: list[Tensor]) -> None:
    op = "block_gradients_"
    check_same_length(op, "reserved", reserved, "grads", len(grads))
    check_not_empty(op, "grads", grads)
    _check_like_first(op, "grads", grads)
    for i, (g, r) in enumerate(zip(grads, reserved, strict=True)):
        _check.not_expanded(op, f"grads[{i}]", g)
        check_reserved(op, f"reserved[{i}]", r, f"grads[{i}]", g)


@torch.library.register_fake("clfast::compensate_embedding_gradients_")
def compensate_embedding_gradients_(
    grads: list[Tensor],
    embeddings: list[Tensor],
    scale: float,
    max_scale: float,
    compensation: str,
    clamp: float,
) -> None:
    op = "compensate_embedding_gradients_"
    check_same_length(op, "embeddings", embeddings, "grads", len(grads))
    check_not_empty(op, "grads", grads)
    _check.require(
        compensation in ("analytic", "reference"),
        f'{op}: mode must be "analytic" or "reference", got "{compensation}"',
    )
    dtype = _check.compute_dtype(grads[0])
    _check_scales(op, scale, max_scale, dtype)
    factor = _check.held(max_scale / scale, dtype)
    _check.require(
        0 < factor < math.inf,
        f"{op}: max_scale must be such that max_scale / scale is finite and > 0, got {max_scale:g}",
    )
    _check.require(clamp > 0, f"{op}: clamp must be > 0, got {clamp:g}")
    _check_like_first(op, "grads", grads)
    for i, (g, e) in enumerate(zip(grads, embeddings, strict=True)):
        name = f"embeddings[{i}]"
        _check.not_expanded(op, f"grads[{i}]", g)
        check_same_shape(op, name, e, f"grads[{i}]", g)
        _check.same_precision(op, name, e, "grads[0]", grads[0])
        _check.same_device(op, name, e, "grads[0]", grads[0])
    _check_no_nan(op, embeddings)


@torch.library.register_fake("clfast::reserve_")
def reserve_(reserved: list[Tensor], embeddings: list[Tensor], scale: float) -> Tensor:
    op = "reserve_"
    _check_embeddings(op, embeddings, reserved)
    _check_scale(op, "scale", scale, _check.compute_dtype(embeddings[0]))
    for i, r in enumerate(reserved):
        _check.not_expanded(op, f"reserved[{i}]", r)
    _check_no_nan(op, embeddings)
    return embeddings[0].new_empty((len(embeddings),), dtype=torch.int64)


@torch.library.register_fake("clfast::pack_mask")
def pack_mask(mask: Tensor) -> Tensor:
    _check.dtype("pack_mask", "mask", mask, torch.bool)
    return mask.new_empty(((mask.numel() + 7) // 8,), dtype=torch.uint8)


@torch.library.register_fake("clfast::unpack_mask")
def unpack_mask(packed: Tensor, shape: list[int]) -> Tensor:
    op = "unpack_mask"
    _check.dim(op, "packed", packed, 1)
    _check.require(packed.dtype == torch.uint8, f"{op}: packed must be uint8, got {packed.dtype}")
    for size in shape:
        _check.require(size >= 0, f"{op}: shape must hold no negative size, got {size}")
    elements = math.prod(shape)
    size = (elements + 7) // 8
    _check.require(
        packed.shape[0] == size,
        f"{op}: packed must have shape [{size}] for the {elements} elements of shape, "
        f"got {list(packed.shape)}",
    )
    return packed.new_empty(shape, dtype=torch.bool)
