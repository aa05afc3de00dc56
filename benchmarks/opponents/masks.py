"""What clfast's masks are measured against. `as_published` goes the authors' way: a Python loop
over layers, sigmoid, product and sums each a kernel of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = tuple[Tensor, ...]

SCALE, MAX_SCALE, WEIGHT = 3.0, 50.0, 0.08  # of the sparsity in the loss: DGM's lambda for MNIST


def leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().requires_grad_() for tensor in tensors]


def _compensation(embedding: Tensor) -> Tensor:
    """HAT, Eq. 7, with the authors' clamp."""
    top = torch.cosh(torch.clamp(SCALE * embedding, -50, 50)) + 1
    return MAX_SCALE / SCALE * top / (torch.cosh(embedding) + 1)


def _compensated_mask(embedding: Tensor) -> Tensor:
    """sigmoid(SCALE e) whose derivative is compensated at once."""
    smooth = MAX_SCALE * embedding.sigmoid()
    return (SCALE * embedding).sigmoid().detach() + (smooth - smooth.detach())


def _slope(embedding: Tensor) -> Tensor:
    smooth = embedding.sigmoid()
    return MAX_SCALE * smooth * (1 - smooth)


def _free(reserved: Tensors) -> Tensor:
    return torch.stack([(~r).sum() for r in reserved]).sum()


def _used(masks: Sequence[Tensor], reserved: Tensors) -> Tensor:
    used = [m.masked_fill(r, 0).sum() for m, r in zip(masks, reserved, strict=True)]
    return torch.stack(used).sum()


# --- masked_weight: value and both gradients ------------------------------------------------------


@torch.enable_grad()
def weight_as_published(weight: Tensor, embedding: Tensor, upstream: Tensor) -> Tensors:
    """Autograd, and the compensation of the embedding's gradient behind it."""
    w, e = leaves((weight, embedding))
    masked = w * torch.sigmoid(SCALE * e)
    masked.backward(upstream)
    assert w.grad is not None
    assert e.grad is not None
    e.grad *= _compensation(embedding)
    return masked.detach(), w.grad, e.grad


@torch.enable_grad()
def weight_in_autograd(weight: Tensor, embedding: Tensor, upstream: Tensor) -> Tensors:
    w, e = leaves((weight, embedding))
    masked = w * _compensated_mask(e)
    return masked.detach(), *torch.autograd.grad(masked, (w, e), upstream)


def weight_by_hand(weight: Tensor, embedding: Tensor, upstream: Tensor) -> Tensors:
    mask = (SCALE * embedding).sigmoid()
    of_mask = (upstream * weight).sum_to_size(embedding.shape)
    return weight * mask, upstream * mask, of_mask * _slope(embedding)


# --- mask_sparsity: value and gradients -----------------------------------------------------------


@torch.enable_grad()
def sparsity_as_published(embeddings: Tensors, reserved: Tensors) -> Tensors:
    e = leaves(embeddings)
    used, free = embeddings[0].new_zeros(()), embeddings[0].new_zeros(())
    for embedding, mask in zip(e, reserved, strict=True):
        rest = 1 - mask.float()
        used = used + (torch.sigmoid(SCALE * embedding) * rest).sum()
        free = free + rest.sum()
    sparsity = used / free
    sparsity.backward()
    grads = [t.grad for t in e if t.grad is not None]
    for grad, embedding in zip(grads, embeddings, strict=True):
        grad *= _compensation(embedding)
    return sparsity.detach(), *grads


@torch.enable_grad()
def sparsity_in_autograd(embeddings: Tensors, reserved: Tensors) -> Tensors:
    e = leaves(embeddings)
    sparsity = _used([_compensated_mask(t) for t in e], reserved) / _free(reserved)
    return sparsity.detach(), *torch.autograd.grad(sparsity, e)


def sparsity_by_hand(embeddings: Tensors, reserved: Tensors) -> Tensors:
    free = _free(reserved)
    used = _used([(SCALE * e).sigmoid() for e in embeddings], reserved)
    pairs = zip(embeddings, reserved, strict=True)
    return used / free, *((_slope(e) / free).masked_fill(r, 0) for e, r in pairs)


# --- masked_weights and masked_weights_gradients --------------------------------------------------


@torch.enable_grad()
def masked_as_published(
    weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors
) -> Tensors:
    """Both gradients by autograd, layer by layer, and the compensation behind it."""
    w, e = leaves(weights), leaves(embeddings)
    used, free, loss = (upstream[0].new_zeros(()) for _ in range(3))
    for weight, embedding, mask, grad in zip(w, e, reserved, upstream, strict=True):
        soft = torch.sigmoid(SCALE * embedding)
        loss = loss + (weight * soft * grad).sum()
        rest = 1 - mask.float()
        used = used + (soft * rest).sum()
        free = free + rest.sum()
    (loss + WEIGHT * used / free).backward()
    for embedding in e:
        assert embedding.grad is not None
        embedding.grad *= _compensation(embedding.detach())
    return tuple(t.grad for t in (*w, *e) if t.grad is not None)


@torch.enable_grad()
def masked_in_autograd(
    weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors
) -> Tensors:
    """The best of autograd: a derivative that is compensated at once."""
    w, e = leaves(weights), leaves(embeddings)
    masks = [_compensated_mask(t) for t in e]
    masked = [weight * mask for weight, mask in zip(w, masks, strict=True)]
    sparsity = _used(masks, reserved) / _free(reserved)
    outputs = [*masked, sparsity]
    return torch.autograd.grad(outputs, [*w, *e], [*upstream, torch.full_like(sparsity, WEIGHT)])


def masked_by_hand(
    weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors
) -> tuple[Tensors, Tensor, Tensors]:
    """Values and gradients in closed form: what a compiler can fuse."""
    masks, free = [(SCALE * e).sigmoid() for e in embeddings], _free(reserved)
    masked = tuple(w * m for w, m in zip(weights, masks, strict=True))
    found = _gradients(masks, free, weights, embeddings, reserved, upstream)
    return masked, _used(masks, reserved) / free, found


def gradients_by_hand(
    weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors
) -> Tensors:
    masks = [(SCALE * e).sigmoid() for e in embeddings]
    return _gradients(masks, _free(reserved), weights, embeddings, reserved, upstream)


def _gradients(
    masks: list[Tensor],
    free: Tensor,
    weights: Tensors,
    embeddings: Tensors,
    reserved: Tensors,
    upstream: Tensors,
) -> Tensors:
    share = WEIGHT / free
    d_weights = [g * m for g, m in zip(upstream, masks, strict=True)]
    d_embeddings = []
    for e, w, g, r in zip(embeddings, weights, upstream, reserved, strict=True):
        of_mask = (g * w).sum_to_size(e.shape)
        d_embeddings.append(_slope(e) * (of_mask + torch.where(r, 0.0, share)))
    return (*d_weights, *d_embeddings)


def gradients_by_foreach(
    weights: Tensors, embeddings: Tensors, shares: Tensors, upstream: Tensors
) -> Tensors:
    """shares: of each entry in the sparsity, times its weight; 0 where it is reserved."""
    masks = torch._foreach_mul(embeddings, SCALE)
    torch._foreach_sigmoid_(masks)
    smooth = torch._foreach_sigmoid(embeddings)
    slopes = torch._foreach_addcmul(smooth, smooth, smooth, -1.0)
    products = torch._foreach_mul(upstream, weights)
    of_masks = [p.sum_to_size(e.shape) for p, e in zip(products, embeddings, strict=True)]
    torch._foreach_add_(of_masks, shares)
    torch._foreach_mul_(slopes, MAX_SCALE)
    torch._foreach_mul_(slopes, of_masks)
    return (*torch._foreach_mul(upstream, masks), *slopes)


def shares_of(reserved: Tensors) -> Tensors:
    share = WEIGHT / _free(reserved)
    return tuple((~r).float() * share for r in reserved)


# --- block_gradients_ and compensate_embedding_gradients_ -----------------------------------------


def blocked_by_loop(grads: Tensors, free: Tensors) -> Tensors:
    for grad, mask in zip(grads, free, strict=True):
        grad *= mask
    return grads


def blocked_by_foreach(grads: Tensors, free: Tensors) -> Tensors:
    torch._foreach_mul_(grads, free)
    return grads


def compensated_as_published(grads: Tensors, embeddings: Tensors) -> Tensors:
    for grad, embedding in zip(grads, embeddings, strict=True):
        grad *= _compensation(embedding)
    return grads


def compensated_by_foreach(grads: Tensors, embeddings: Tensors) -> Tensors:
    top, bottom = torch._foreach_mul(embeddings, SCALE), torch._foreach_cosh(embeddings)
    torch._foreach_clamp_min_(top, -50)
    torch._foreach_clamp_max_(top, 50)
    torch._foreach_cosh_(top)
    for each in (top, bottom):
        torch._foreach_add_(each, 1)
    torch._foreach_div_(top, bottom)
    torch._foreach_mul_(top, MAX_SCALE / SCALE)
    torch._foreach_mul_(grads, top)
    return grads


# --- reserve_: counts, and the masks --------------------------------------------------------------


def reserved_as_published(reserved: Tensors, embeddings: Tensors) -> tuple[Tensor, Tensors]:
    """Masks of floats, and the maximum of old and new."""
    counts = []
    for mask, embedding in zip(reserved, embeddings, strict=True):
        before = mask.sum()
        opened = (torch.sigmoid(SCALE * embedding) >= 0.5).float()
        mask.copy_(torch.max(mask, opened))
        counts.append(mask.sum() - before)
    return torch.stack(counts), reserved


def reserved_by_bools(reserved: Tensors, embeddings: Tensors) -> tuple[Tensor, Tensors]:
    counts = []
    for mask, embedding in zip(reserved, embeddings, strict=True):
        taken = torch.gt(embedding >= 0, mask)  # open and not reserved, in one pass
        mask |= taken
        counts.append(torch.count_nonzero(taken))
    return torch.stack(counts), reserved


# --- pack_mask and unpack_mask --------------------------------------------------------------------

# The product with a byte of 0 or 1 each has bit j of byte j in its highest byte.
_GATHER = sum(1 << (56 - 7 * j) for j in range(8))


def _eights(mask: Tensor) -> Tensor:
    """[ceil(elements / 8), 8] bool."""
    flat = mask.flatten()
    if len(flat) % 8:
        flat = F.pad(flat, (0, -len(flat) % 8))
    return flat.view(-1, 8)


def pack_by_loop(mask: Tensor) -> Tensor:
    rows = _eights(mask).view(torch.uint8)
    packed = rows.new_zeros(len(rows))
    for bit in range(8):
        packed |= rows[:, bit] << bit
    return packed


def pack_by_powers(mask: Tensor, powers: Tensor) -> Tensor:
    return (_eights(mask) * powers).sum(1, dtype=torch.uint8)


def pack_by_product(mask: Tensor) -> Tensor:
    return (_eights(mask).view(torch.int64)[:, 0] * _GATHER >> 56).to(torch.uint8)


def pack_by_numpy(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.numpy(), bitorder="little"))


def powers_of_two(device: torch.device) -> Tensor:
    return torch.tensor([1 << j for j in range(8)], dtype=torch.uint8, device=device)


def bytes_of_bits(device: torch.device) -> Tensor:
    """[256] int64: the eight bools of each byte, side by side."""
    bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
    return bits.to(torch.uint8).view(torch.int64)[:, 0]


def unpack_by_loop(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    rows = packed.new_empty((len(packed), 8))
    for bit in range(8):
        rows[:, bit] = packed >> bit & 1
    return _first(rows.view(torch.bool), shape)


def unpack_by_powers(packed: Tensor, shape: tuple[int, ...], powers: Tensor) -> Tensor:
    return _first((packed[:, None] & powers) != 0, shape)


def unpack_by_table(packed: Tensor, shape: tuple[int, ...], table: Tensor) -> Tensor:
    return _first(table.index_select(0, packed.int()).view(torch.bool), shape)


def unpack_by_numpy(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    bits = np.unpackbits(packed.numpy(), count=math.prod(shape), bitorder="little")
    return torch.from_numpy(bits).view(torch.bool).view(shape)


def _first(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    return bits.flatten()[: math.prod(shape)].view(shape)
