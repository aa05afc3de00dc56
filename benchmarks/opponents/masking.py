"""What clfast's masks and masked steps are measured against. `as_published` goes the authors' way:
a Python loop over layers, sigmoid, product and sums each a kernel of its own."""

from __future__ import annotations

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]

SCALE, MAX_SCALE, WEIGHT = 3.0, 50.0, 0.08  # of the sparsity in the loss: DGM's lambda for MNIST


# --- masked_weights: value and both gradients -----------------------------------------------------


@torch.enable_grad()
def masked_as_published(
    weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors
) -> Tensors:
    """Autograd, layer by layer, and the compensation of the embeddings' gradients behind it."""
    w = [t.detach().requires_grad_() for t in weights]
    e = [t.detach().requires_grad_() for t in embeddings]
    used, free = torch.zeros(()), torch.zeros(())
    loss = torch.zeros(())
    for weight, embedding, mask, grad in zip(w, e, reserved, upstream, strict=True):
        soft = torch.sigmoid(SCALE * embedding)
        loss = loss + (weight * soft * grad).sum()
        rest = 1 - mask.float()
        used = used + (soft * rest).sum()
        free = free + rest.sum()
    (loss + WEIGHT * used / free).backward()
    for embedding in e:
        assert embedding.grad is not None
        top = torch.cosh(torch.clamp(SCALE * embedding.data, -50, 50)) + 1
        bottom = torch.cosh(embedding.data) + 1
        embedding.grad *= MAX_SCALE / SCALE * top / bottom
    return tuple(t.grad for t in (*w, *e) if t.grad is not None)


@torch.enable_grad()
def masked_in_autograd(
    weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors
) -> Tensors:
    """The best of autograd: a derivative that is compensated at once, masks as floats."""
    w = [t.detach().requires_grad_() for t in weights]
    e = [t.detach().requires_grad_() for t in embeddings]
    masked, sparsity = _masked(w, e, reserved)
    outputs = [*masked, sparsity]
    return torch.autograd.grad(outputs, [*w, *e], [*upstream, torch.tensor(WEIGHT)])


def _masked(
    weights: list[Tensor], embeddings: list[Tensor], reserved: Tensors
) -> tuple[list[Tensor], Tensor]:
    masked, used, free = [], [], []
    for weight, embedding, mask in zip(weights, embeddings, reserved, strict=True):
        smooth = MAX_SCALE * embedding.sigmoid()
        soft = (SCALE * embedding).sigmoid().detach() + (smooth - smooth.detach())
        masked.append(weight * soft)
        used.append(soft.masked_fill(mask, 0).sum())
        free.append(mask.numel() - mask.sum())
    return masked, torch.stack(used).sum() / torch.stack(free).sum()


def masked_by_hand(
    weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors
) -> tuple[Tensors, Tensor, Tensors]:
    """Value and gradients in closed form: what a compiler can fuse."""
    masks = [(SCALE * e).sigmoid() for e in embeddings]
    masked = tuple(w * m for w, m in zip(weights, masks, strict=True))
    free = torch.stack([(~r).sum() for r in reserved]).sum()
    used = torch.stack([m.masked_fill(r, 0).sum() for m, r in zip(masks, reserved, strict=True)])
    share = WEIGHT / free
    d_weights = tuple(g * m for g, m in zip(upstream, masks, strict=True))
    d_embeddings = []
    for e, w, g, r in zip(embeddings, weights, upstream, reserved, strict=True):
        smooth = e.sigmoid()
        slope = MAX_SCALE * smooth * (1 - smooth)
        of_mask = (g * w).sum_to_size(e.shape)
        d_embeddings.append(slope * (of_mask + torch.where(r, 0.0, share)))
    return masked, used.sum() / free, (*d_weights, *d_embeddings)


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
        top = torch.cosh(torch.clamp(SCALE * embedding, -50, 50)) + 1
        grad *= MAX_SCALE / SCALE * top / (torch.cosh(embedding) + 1)
    return grads


# --- MaskedAdam -----------------------------------------------------------------------------------


def mask_loop_and_step(optimizer: torch.optim.Optimizer, params: Tensors, free: Tensors) -> None:
    for param, mask in zip(params, free, strict=True):
        assert param.grad is not None
        param.grad *= mask
    optimizer.step()


def foreach_mask_and_step(optimizer: torch.optim.Optimizer, params: Tensors, free: Tensors) -> None:
    torch._foreach_mul_([p.grad for p in params], free)
    optimizer.step()
