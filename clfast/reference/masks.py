"""Masks of weights and units in plain PyTorch; see :mod:`clfast.ops.masks` for the contracts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .retrieval import _widened

Schedule = Literal["dgmw", "dgma", "dgmw_imnet", "hat"]


def _soft_mask(embedding: Tensor, scale: float, max_scale: float | None) -> Tensor:
    """sigmoid(scale e); with ``max_scale`` its derivative is max_scale sigmoid'(e)."""
    embedding = _widened(embedding)
    mask = (scale * embedding).sigmoid()
    if max_scale is None:
        return mask
    smooth = max_scale * embedding.sigmoid()
    return mask.detach() + (smooth - smooth.detach())


def _free(reserved: Tensor, embedding: Tensor) -> Tensor:
    mask = unpack_mask(reserved, embedding.shape) if reserved.dtype == torch.uint8 else reserved
    return ~mask


def masked_weight(
    weight: Tensor, embedding: Tensor, scale: float, *, max_scale: float | None = None
) -> Tensor:
    """DGM, Eq. 1: the weight times sigmoid(scale e)."""
    return _widened(weight) * _soft_mask(embedding, scale, max_scale)


def mask_sparsity(
    embeddings: Sequence[Tensor],
    reserved: Sequence[Tensor],
    scale: float,
    *,
    max_scale: float | None = None,
) -> Tensor:
    """DGM, Eq. 6, as the authors' code has it: one ratio over all layers."""
    free = [_free(r, e) for e, r in zip(embeddings, reserved, strict=True)]
    count = sum(f.sum() for f in free)
    masks = [_soft_mask(e, scale, max_scale) for e in embeddings]
    used = torch.stack([(m * f).sum() for m, f in zip(masks, free, strict=True)]).sum()
    return used / torch.as_tensor(count, dtype=used.dtype, device=used.device).clamp(min=1)


def masked_weights(
    weights: Sequence[Tensor],
    embeddings: Sequence[Tensor],
    reserved: Sequence[Tensor],
    scale: float,
    *,
    max_scale: float | None = None,
) -> tuple[list[Tensor], Tensor]:
    """Both of the above over all layers."""
    masked = [
        masked_weight(w, e, scale, max_scale=max_scale)
        for w, e in zip(weights, embeddings, strict=True)
    ]
    return masked, mask_sparsity(embeddings, reserved, scale, max_scale=max_scale)


def masked_weights_gradients(
    grads: Sequence[Tensor],
    sparsity_grad: float | Tensor,
    weights: Sequence[Tensor],
    embeddings: Sequence[Tensor],
    reserved: Sequence[Tensor],
    scale: float,
    *,
    max_scale: float | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """By autograd."""
    w = [_widened(t.detach()).requires_grad_() for t in weights]
    e = [_widened(t.detach()).requires_grad_() for t in embeddings]
    with torch.enable_grad():
        masked, sparsity = masked_weights(w, e, reserved, scale, max_scale=max_scale)
        given = [_widened(g.detach()) for g in grads]
        outputs = [*masked, sparsity]
        found = torch.autograd.grad(
            outputs, [*w, *e], [*given, sparsity_grad * sparsity.new_ones(())]
        )
    return list(found[: len(w)]), list(found[len(w) :])


def weight_mask(
    out_mask: Tensor,
    in_mask: Tensor | None = None,
    *,
    mode: Literal["both", "either"] = "both",
    transposed: bool = False,
    shape: Sequence[int] | None = None,
) -> Tensor:
    """DGMa's reserved weights: min(m_out, m_in), or max for "either"."""
    outputs = out_mask.flatten()
    inputs = outputs.new_ones(1) if in_mask is None else in_mask.flatten()
    if in_mask is None and mode == "either":
        inputs = ~inputs
    pairs = torch.logical_and if mode == "both" else torch.logical_or
    mask = pairs(outputs[:, None], inputs[None, :])
    if transposed:
        mask = mask.T
    if shape is not None:
        mask = mask.reshape(*mask.shape, *(1,) * (len(shape) - 2)).expand(*shape)
    return mask.contiguous()


def block_gradients_(grads: Sequence[Tensor], reserved: Sequence[Tensor]) -> None:
    """DGM, Eq. 5: no gradient where a weight is reserved."""
    for grad, mask in zip(grads, reserved, strict=True):
        with torch.no_grad():
            grad.masked_fill_(~_free(mask, grad), 0)


def compensate_embedding_gradients_(
    grads: Sequence[Tensor],
    embeddings: Sequence[Tensor],
    scale: float,
    max_scale: float,
    *,
    mode: Literal["analytic", "reference"] = "analytic",
    clamp: float = 50.0,
) -> None:
    """HAT, Eq. 7: times (max_scale / scale) (cosh(scale e) + 1) / (cosh(e) + 1).

    cosh x + 1 = e^|x| (1 + e^-|x|)^2 / 2. The power of e is applied in two halves: the product may
    be of ordinary size where the factor is beyond any float.
    """
    bound = clamp if mode == "reference" else math.inf
    for grad, embedding in zip(grads, embeddings, strict=True):
        with torch.no_grad():
            e = _widened(embedding).abs()
            g = _widened(grad)
            scaled = (scale * e).clamp(max=bound)
            # Two halves of this at most are finite, and raise any number to the largest.
            half = ((scaled - e) / 2).clamp(max=math.log(torch.finfo(g.dtype).max) - 1).exp()
            ratio = (1 + (-scaled).exp()) / (1 + (-e).exp())
            product = g * half * (max_scale / scale * ratio.square()) * half
            largest = torch.finfo(grad.dtype).max
            grad.copy_(product.clamp(-largest, largest))


def reserve_(reserved: Sequence[Tensor], embeddings: Sequence[Tensor], scale: float) -> Tensor:
    """m <- max(m, [sigmoid(scale e) >= 1/2]), which is e >= 0."""
    counts = []
    for mask, embedding in zip(reserved, embeddings, strict=True):
        free = _free(mask, embedding)
        taken = free & (embedding.detach() >= 0)
        joined = ~free | taken
        mask.copy_(pack_mask(joined) if mask.dtype == torch.uint8 else joined)
        counts.append(taken.sum())
    return torch.stack(counts)


def pack_mask(mask: Tensor) -> Tensor:
    """Element 8 i + j is bit j of byte i."""
    flat = mask.flatten()
    bits = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=mask.device)
    return (bits * powers).sum(1, dtype=torch.uint8)


def unpack_mask(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse."""
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=packed.device)
    bits = (packed[:, None] & powers) != 0
    return bits.flatten()[: math.prod(shape)].reshape(tuple(shape))


def anneal_scale(
    epoch: int,
    epochs: int,
    batch: int,
    batches: int,
    max_scale: float,
    *,
    schedule: Schedule = "dgmw",
    normalise: Literal["code", "paper"] = "code",
) -> float:
    """DGM, Eq. 3 and 4; HAT, Eq. 3."""

    def line(at: int, count: int, top: float) -> float:
        steps = count if normalise == "code" else count - 1
        return (top - 1 / top) * (at / steps if steps else 1.0) + 1 / top

    if schedule == "hat":
        return line(batch, batches, max_scale)
    shift = 1 if schedule == "dgmw_imnet" and normalise == "code" else 0
    of_epoch = line(epoch + shift, epochs, max_scale)
    return of_epoch if schedule == "dgma" else line(batch, batches, of_epoch)
