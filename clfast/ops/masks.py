"""Masks of weights and of units: Dynamic Generative Memory (DGM) and Hard Attention to the Task.

* DGM: Ostapenko et al., "Learning to Remember: A Synaptic Plasticity Driven Framework for Continual
  Learning" (CVPR 2019), Eq. 1-6.
* HAT: Serra et al., "Overcoming Catastrophic Forgetting with Hard Attention to the Task" (ICML
  2018).

A mask is m = sigmoid(scale e) of an embedding e, soft while the scale is small and binary where it
is large. Shared arguments:

* ``embedding`` has its weight's shape, or the weight's rank with ones where it is broadcast: one
  value an output unit of a transposed convolution is [1, C, 1, 1].
* ``scale`` and ``max_scale`` are > 0, and finite in the dtype of the arithmetic. With ``max_scale``
  the derivative of m is taken for max_scale sigmoid'(e) (HAT's compensation, exact also where
  sigmoid(scale e) has rounded to 0 or 1); without it is scale sigmoid'(scale e).
* ``reserved`` marks what earlier tasks keep: bool of the shape of what it marks, or uint8 from
  :func:`pack_mask`. Lists are in one order, a tensor a layer, of any mix of sizes.

NaN in an embedding raises on CPU tensors; on CUDA, where looking would synchronise, it travels on.
NaN in a weight or a gradient travels on as through a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .. import reference as in_torch
from .._backend import uses_reference
from . import _call, _check, _masks_derivative
from . import _masks_fakes as fakes
from .mask_rules import anneal_scale, weight_mask

__all__ = [
    "anneal_scale",
    "block_gradients_",
    "compensate_embedding_gradients_",
    "mask_sparsity",
    "masked_weight",
    "masked_weights",
    "masked_weights_gradients",
    "pack_mask",
    "reserve_",
    "unpack_mask",
    "weight_mask",
]


def masked_weight(
    weight: Tensor, embedding: Tensor, scale: float, *, max_scale: float | None = None
) -> Tensor:
    """weight * sigmoid(scale * embedding) (DGM, Eq. 1).

    Args:
        weight: of any shape.
        embedding, scale, max_scale: see the module.

    Returns:
        As weight, contiguous; differentiable in weight and embedding, twice.

    Raises:
        RuntimeError: wrong shape, dtype, device or value.
    """
    op = "masked_weight"
    scale, max_scale = _scales(op, scale, max_scale)
    _check.tensors(op, weight=weight, embedding=embedding)
    embedding = _in_a_run(embedding, weight)
    if uses_reference():
        arguments = (weight, embedding, scale, max_scale)
        _call.check_for_reference(op, fakes.masked_weight, *arguments, differentiable=True)
        return in_torch.masks.masked_weight(weight, embedding, scale, max_scale=max_scale)
    return _masks_derivative.masked_weight(weight, embedding, scale, max_scale)


def mask_sparsity(
    embeddings: Sequence[Tensor],
    reserved: Sequence[Tensor],
    scale: float,
    *,
    max_scale: float | None = None,
) -> Tensor:
    """How much of what is free the masks take, all layers together (DGM, Eq. 6).

    sum m (1 - r) / sum (1 - r), with r the reserved masks of earlier tasks; 0 where nothing is
    free. In the first task, with nothing reserved, it is the mean of m.

    Args:
        embeddings: list of tensors.
        reserved, scale, max_scale: see the module; masks have the shapes of the embeddings.

    Returns:
        A scalar in [0, 1], differentiable once in the embeddings. With ``max_scale`` the gradient
        is compensated already: do not call :func:`compensate_embedding_gradients_` on top.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; a second derivative.
    """
    op = "mask_sparsity"
    scale, max_scale = _scales(op, scale, max_scale)
    _check.lists(op, embeddings=embeddings, reserved=reserved)
    fakes.check_not_empty(op, "embeddings", embeddings)
    if uses_reference():
        arguments = (embeddings, reserved, scale, max_scale, False)
        _call.check_for_reference(op, fakes.mask_sparsity, *arguments, differentiable=True)
        return in_torch.masks.mask_sparsity(embeddings, reserved, scale, max_scale=max_scale)
    return _masks_derivative.mask_sparsity(embeddings, reserved, scale, max_scale)


def masked_weights(
    weights: Sequence[Tensor],
    embeddings: Sequence[Tensor],
    reserved: Sequence[Tensor],
    scale: float,
    *,
    max_scale: float | None = None,
) -> tuple[list[Tensor], Tensor]:
    """:func:`masked_weight` of every layer and :func:`mask_sparsity`, in one pass.

    Args:
        weights, embeddings: lists of tensors.
        reserved, scale, max_scale: see the module; masks have the shapes of the embeddings.

    Returns:
        ``(masked, sparsity)``: a list as weights, and a scalar; differentiable once in weights and
        embeddings, both gradients in one pass.

    Raises:
        RuntimeError: wrong shape, dtype, device or value; a second derivative.
    """
    op = "masked_weights"
    scale, max_scale = _scales(op, scale, max_scale)
    _check.lists(op, weights=weights, embeddings=embeddings, reserved=reserved)
    fakes.check_not_empty(op, "weights", weights)
    if uses_reference():
        arguments = (weights, embeddings, reserved, scale, max_scale)
        _call.check_for_reference(op, fakes.masked_weights, *arguments, differentiable=True)
        return in_torch.masks.masked_weights(*arguments[:4], max_scale=max_scale)
    return _masks_derivative.masked_weights(weights, embeddings, reserved, scale, max_scale)


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
    """The gradients of :func:`masked_weights`, in one pass and without autograd.

    Args:
        grads: list of tensors as weights, the loss's gradient by what was masked.
        sparsity_grad: the loss's gradient by the sparsity, a number or a tensor of one (on CUDA a
            tensor there costs no copy).
        weights, embeddings, reserved, scale, max_scale: as of :func:`masked_weights`.

    Returns:
        ``(d_weights, d_embeddings)``, lists as weights and embeddings.

    Raises:
        RuntimeError: wrong shape, dtype, device or value. A tensor that a transform of torch.func
            differentiates.
    """
    op = "masked_weights_gradients"
    scale, max_scale = _scales(op, scale, max_scale)
    lists = {"grads": grads, "weights": weights, "embeddings": embeddings, "reserved": reserved}
    _check.lists(op, **lists)
    fakes.check_not_empty(op, "weights", weights)
    if not isinstance(sparsity_grad, Tensor):
        number = _check.number(op, "sparsity_grad", sparsity_grad)
        first = weights[0]
        dtype, device = torch.float64, None
        if isinstance(first, Tensor):  # what is none is named by the op
            dtype, device = _check.compute_dtype(first), first.device
        sparsity_grad = torch.full((), number, dtype=dtype, device=device)
    given = (sparsity_grad, weights, embeddings, reserved, None, scale, max_scale)
    if uses_reference():
        _call.check_for_reference(op, fakes.masked_weights_gradients, grads, *given)
        return in_torch.masks.masked_weights_gradients(
            grads, sparsity_grad, weights, embeddings, reserved, scale, max_scale=max_scale
        )
    d_weights, d_embeddings = _call.compiled(op, grads, *given)
    return d_weights, d_embeddings


def block_gradients_(grads: Sequence[Tensor], reserved: Sequence[Tensor]) -> None:
    """Sets gradients to 0 where weights are reserved, in place (DGM, Eq. 5).

    NaN and infinities in reserved places become 0, too; elsewhere no bit changes.

    Args:
        grads: list of tensors, changed: say ``p.grad`` of each parameter.
        reserved: see the module; masks have the shapes of the gradients.

    Raises:
        RuntimeError: wrong shape, dtype or device. A tensor that a transform of torch.func
            differentiates.
    """
    op = "block_gradients_"
    _check.lists(op, grads=grads, reserved=reserved)
    if not grads and not reserved:
        return  # no tensor that would name a device
    if uses_reference():
        _call.check_for_reference(op, fakes.block_gradients_, grads, reserved)
        in_torch.masks.block_gradients_(grads, reserved)
        return
    _call.compiled(op, grads, reserved)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(grads)


def compensate_embedding_gradients_(
    grads: Sequence[Tensor],
    embeddings: Sequence[Tensor],
    scale: float,
    max_scale: float,
    *,
    mode: Literal["analytic", "reference"] = "analytic",
    clamp: float = 50.0,
) -> None:
    """Gradients by embeddings as if masks were less steep, in place (HAT, Eq. 7).

    Multiplies dL/de, which has come through sigmoid'(scale e), by (max_scale / scale)
    (cosh(scale e) + 1) / (cosh(e) + 1). Where no sigmoid has rounded to 0 or 1 that makes
    max_scale sigmoid'(e) dL/dm; what is rounded away only ``max_scale=`` elsewhere recovers.

    Args:
        grads: list of tensors, changed.
        embeddings: list of tensors of the same shapes.
        scale: of the masks the gradients came through, > 0.
        max_scale: > 0; DGM's is the largest scale of the epoch.
        mode: ``"reference"`` clamps scale e to +-clamp, as HAT's and DGM's code does;
            ``"analytic"`` does not, and is finite all the same: a product beyond the largest number
            of the gradient's dtype becomes that number.
        clamp: > 0, for "reference".

    Raises:
        RuntimeError: wrong shape, dtype, device or value. A tensor that a transform of torch.func
            differentiates.
    """
    op = "compensate_embedding_gradients_"
    scale = _check.number(op, "scale", scale)
    max_scale = _check.number(op, "max_scale", max_scale)
    clamp = _check.number(op, "clamp", clamp)
    _check.lists(op, grads=grads, embeddings=embeddings)
    if not grads and not embeddings:
        return
    arguments = (grads, embeddings, scale, max_scale, mode, clamp)
    if uses_reference():
        _call.check_for_reference(op, fakes.compensate_embedding_gradients_, *arguments)
        in_torch.masks.compensate_embedding_gradients_(*arguments[:4], mode=mode, clamp=clamp)
        return
    _call.compiled(op, *arguments)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(grads)


def reserve_(reserved: Sequence[Tensor], embeddings: Sequence[Tensor], scale: float) -> Tensor:
    """Reserves what a task's masks open, in place, at the task's end.

    r <- max(r, [sigmoid(scale e) >= 1/2]), which is e >= 0 for every scale: an embedding that never
    left 0 counts as open, as in the authors' code.

    Args:
        reserved: see the module, changed.
        embeddings: list of tensors.
        scale: > 0.

    Returns:
        [L] int64, how many entries of each layer were not reserved before.

    Raises:
        RuntimeError: wrong shape, dtype, device or value. A tensor that a transform of torch.func
            differentiates.
    """
    op = "reserve_"
    scale = _check.number(op, "scale", scale)
    _check.lists(op, reserved=reserved, embeddings=embeddings)
    fakes.check_not_empty(op, "embeddings", embeddings)
    if uses_reference():
        _call.check_for_reference(op, fakes.reserve_, reserved, embeddings, scale)
        return in_torch.masks.reserve_(reserved, embeddings, scale)
    counts: Tensor = _call.compiled(op, reserved, embeddings, scale)
    if not torch.compiler.is_compiling():
        torch.autograd.graph.increment_version(reserved)
    return counts


def pack_mask(mask: Tensor) -> Tensor:
    """One bit an element: element 8 i + j, in the order of a contiguous tensor, is bit j of byte i.

    Args:
        mask: bool of any shape.

    Returns:
        [ceil(elements / 8)] uint8; bits behind the last element are 0.

    Raises:
        RuntimeError: wrong dtype.
    """
    op = "pack_mask"
    if uses_reference():
        _call.check_for_reference(op, fakes.pack_mask, mask)
        return in_torch.masks.pack_mask(mask)
    packed: Tensor = _call.compiled(op, mask)
    return packed


def unpack_mask(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask that :func:`pack_mask` packed.

    Args:
        packed: [ceil(elements / 8)] uint8.
        shape: of the mask.

    Returns:
        Bool of ``shape``.

    Raises:
        RuntimeError: wrong dtype, or a length that does not suit ``shape``.
    """
    op = "unpack_mask"
    sizes = _check.sizes(op, shape)
    if uses_reference():
        _call.check_for_reference(op, fakes.unpack_mask, packed, sizes)
        return in_torch.masks.unpack_mask(packed, sizes)
    mask: Tensor = _call.compiled(op, packed, sizes)
    return mask


def _scales(op: str, scale: Any, max_scale: Any) -> tuple[Any, Any]:
    scale = _check.number(op, "scale", scale)
    return scale, None if max_scale is None else _check.number(op, "max_scale", max_scale)


def _in_a_run(embedding: Tensor, weight: Tensor) -> Tensor:
    """The kernels take ones around a run of dimensions; ones in between are spread out before."""
    if embedding.dim() != weight.dim():
        return embedding
    sizes = zip(embedding.shape, weight.shape, strict=True)
    own = [i for i, (e, w) in enumerate(sizes) if e == w and w != 1]
    if not own:
        return embedding
    between = range(own[0], own[-1])
    if all(embedding.shape[i] == weight.shape[i] for i in between):
        return embedding
    if any(embedding.shape[i] not in (1, weight.shape[i]) for i in range(weight.dim())):
        return embedding  # refused by name
    # Widened before: the gradient of the expansion is a sum.
    return embedding.to(_check.compute_dtype(embedding)).expand(weight.shape)
