"""Differentiation of masked weights: the gradients are ops of their own, each one pass.

The transforms of torch.func, which look into what they transform, get plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import reference
from . import _call, _check, _derivative


def masked_weight(
    weight: Tensor, embedding: Tensor, scale: float, max_scale: float | None
) -> Tensor:
    if _call.in_transform():
        return reference.masks.masked_weight(weight, embedding, scale, max_scale=max_scale)
    wanted = _derivative.wanted(weight, embedding)
    masked = _MaskedWeight.apply if wanted else _masked_weight
    result: Tensor = masked(weight, embedding, scale, max_scale)
    return result


def _masked_weight(*arguments: Any) -> Any:
    return _call.compiled("masked_weight", *arguments)


class _MaskedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, embedding: Tensor, *scales: Any) -> Any:
        ctx.save_for_backward(weight, embedding)
        ctx.scales = scales
        return _masked_weight(weight, embedding, *scales)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        given = (grad, *ctx.saved_tensors, *ctx.scales)
        if torch.is_grad_enabled():
            found = _gradients(*given)
        else:
            found = _call.compiled("masked_weight_backward", *given)
        return *found, None, None


def _gradients(
    grad: Tensor, weight: Tensor, embedding: Tensor, scale: float, max_scale: float | None
) -> tuple[Tensor, Tensor]:
    """In plain PyTorch, where they will be differentiated again, or might be."""
    dtype = _check.compute_dtype(weight)
    g, w, e = (t.to(dtype) for t in (grad, weight, embedding))
    mask = (scale * e).sigmoid()
    steep, factor = (mask, scale) if max_scale is None else (e.sigmoid(), max_scale)
    slope = factor * steep * (1 - steep)
    return g * mask, (g * w).sum_to_size(e.shape) * slope


def mask_sparsity(
    embeddings: Sequence[Tensor], reserved: Sequence[Tensor], scale: float, max_scale: float | None
) -> Tensor:
    if _call.in_transform():
        return reference.masks.mask_sparsity(embeddings, reserved, scale, max_scale=max_scale)
    lists = (embeddings, reserved)
    return _derivative.value_of_lists("mask_sparsity", lists, scale, max_scale)


def masked_weights(
    weights: Sequence[Tensor],
    embeddings: Sequence[Tensor],
    reserved: Sequence[Tensor],
    scale: float,
    max_scale: float | None,
) -> tuple[list[Tensor], Tensor]:
    lists = (weights, embeddings, reserved)
    if _call.in_transform():
        return reference.masks.masked_weights(*lists, scale, max_scale=max_scale)
    if _derivative.wanted(*weights, *embeddings):
        lengths, tensors = [len(each) for each in lists], (*weights, *embeddings, *reserved)
        *masked, sparsity = _MaskedWeights.apply(lengths, scale, max_scale, *tensors)
    else:
        masked, sparsity, _ = _call.compiled("masked_weights", *lists, scale, max_scale)
    return masked, sparsity


class _MaskedWeights(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, lengths: list[int], scale: float, max_scale: float | None, *tensors: Tensor
    ) -> Any:
        lists = _derivative.in_lists(tensors, lengths)
        masked, sparsity, free = _call.compiled("masked_weights", *lists, scale, max_scale)
        ctx.lengths, ctx.scales = lengths, (scale, max_scale)
        ctx.save_for_backward(*tensors, free)
        return *masked, sparsity

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        *tensors, free = ctx.saved_tensors
        weights, embeddings, reserved = _derivative.in_lists(tensors, ctx.lengths)

        def found(*given: Tensor) -> Sequence[Tensor]:
            *of_masked, of_sparsity = given[: len(grads)]
            d_weights, d_embeddings = _call.compiled(
                *("masked_weights_gradients", of_masked, of_sparsity),
                *(weights, embeddings, reserved, free, *ctx.scales),
            )
            return *d_weights, *d_embeddings

        slopes = _derivative.once("masked_weights", found, *grads, *weights, *embeddings)
        return None, None, None, *slopes, *(None for _ in reserved)
