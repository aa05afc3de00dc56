"""Cases of `clfast.ops.masks`: layers one by one, and lists of them as networks have them. Where an
op takes part in autograd, its backward pass is measured, too."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from clfast import ops, reference

from ..case import Case, Kind, Variant, Work, forms, in_float64, relative_error, tensors
from ..opponents import masks as opponents
from ..opponents.masks import MAX_SCALE, SCALE, WEIGHT, Tensors, leaves
from ._kept_masks import pack_mask, reserve, unpack_mask
from ._masked_networks import (
    GENERATORS,
    NETWORKS,
    Embeddings,
    Shapes,
    elements_of,
    random_masks,
    random_tensors,
)

FLOAT = 4  # bytes
ROUNDED = 1e-3  # compensation behind a sigmoid that rounds loses digits


def _of_masks(shapes: Shapes, units: bool) -> Shapes:
    """Of embeddings: one a weight, or one an output unit of a transposed convolution."""
    return tuple((1, s[1], 1, 1) for s in shapes) if units else shapes


def _variant(name: str, kind: Kind, function: Callable[..., Any]) -> Variant:
    return Variant(name, kind, function, tuple)


class Layer(NamedTuple):
    weight: Tensor
    embedding: Tensor
    upstream: Tensor


def masked_weight(shape: tuple[int, ...], units: bool = False) -> Case:
    """The differentiable product and its backward pass."""
    (of_mask,) = _of_masks((shape,), units)
    elements, entries = prod(shape), prod(of_mask)

    def differentiated(function: Callable[..., Tensor]) -> Callable[..., Tensors]:
        @torch.enable_grad()
        def run(weight: Tensor, embedding: Tensor, upstream: Tensor) -> Tensors:
            w, e = leaves((weight, embedding))
            masked = function(w, e, SCALE, max_scale=MAX_SCALE)
            return masked.detach(), *torch.autograd.grad(masked, (w, e), upstream)

        return run

    oracle = differentiated(reference.masks.masked_weight)
    return Case(
        op="masked_weight",
        size={
            "weight": "x".join(map(str, shape)),
            "masks": "of units" if units else "of weights",
            "how": "forward and backward",
        },
        inputs=lambda g: Layer(*random_tensors((shape, of_mask, shape), g)),
        oracle=lambda x: oracle(*in_float64(x)),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=ROUNDED,
        work=lambda _: Work(
            FLOAT * (2 * elements + entries), FLOAT * (2 * elements + entries), 40 * elements
        ),
        variants=(
            _variant("clfast", "clfast", differentiated(ops.masked_weight)),
            _variant("autograd, as published", "loop", opponents.weight_as_published),
            _variant("autograd", "torch", opponents.weight_in_autograd),
            *forms("by hand", opponents.weight_by_hand, tuple),
        ),
        small=elements < 1000,
    )


def mask_sparsity(network: str) -> Case:
    """The differentiable sparsity and its backward pass."""
    shapes = GENERATORS[network]
    elements = elements_of(shapes)

    def differentiated(function: Callable[..., Tensor]) -> Callable[..., Tensors]:
        @torch.enable_grad()
        def run(embeddings: Tensors, reserved: Tensors) -> Tensors:
            e = leaves(embeddings)
            sparsity = function(e, reserved, SCALE, max_scale=MAX_SCALE)
            return sparsity.detach(), *torch.autograd.grad(sparsity, e)

        return run

    oracle = differentiated(reference.masks.mask_sparsity)
    return Case(
        op="mask_sparsity",
        size={"network": network, "P": elements, "how": "forward and backward"},
        inputs=lambda g: Embeddings(random_tensors(shapes, g), random_masks(shapes, g)),
        oracle=lambda x: oracle(*in_float64(x)),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=ROUNDED,
        work=lambda _: Work((FLOAT + 1) * elements, FLOAT * elements, 35 * elements),
        variants=(
            _variant("clfast", "clfast", differentiated(ops.mask_sparsity)),
            _variant("autograd, layer by layer", "loop", opponents.sparsity_as_published),
            _variant("autograd", "torch", opponents.sparsity_in_autograd),
            *forms("by hand", opponents.sparsity_by_hand, tuple),
        ),
        small=elements < 1000,
    )


class Layers(NamedTuple):
    weights: Tensors
    embeddings: Tensors
    reserved: Tensors
    upstream: Tensors


def _values(
    weights: Tensors, embeddings: Tensors, reserved: Tensors
) -> tuple[list[Tensor], Tensor]:
    return ops.masked_weights(weights, embeddings, reserved, SCALE, max_scale=MAX_SCALE)


def _gradients(
    weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors
) -> tuple[list[Tensor], list[Tensor]]:
    return ops.masked_weights_gradients(
        upstream, WEIGHT, weights, embeddings, reserved, SCALE, max_scale=MAX_SCALE
    )


def _both(weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors) -> Any:
    values = _values(weights, embeddings, reserved)
    return values, _gradients(weights, embeddings, reserved, upstream)


@torch.enable_grad()
def _in_autograd(
    weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors
) -> Tensors:
    w, e = leaves(weights), leaves(embeddings)
    masked, sparsity = ops.masked_weights(w, e, reserved, SCALE, max_scale=MAX_SCALE)
    outputs = [*masked, sparsity]
    return torch.autograd.grad(outputs, [*w, *e], [*upstream, torch.full_like(sparsity, WEIGHT)])


def _of_layers(
    op: str,
    network: str,
    units: bool,
    own: list[Variant],
    work: Callable[[int, int], Work],
) -> Case:
    """Gradients are what is compared, the last of what comes out. work: of the elements of weights
    and of embeddings."""
    shapes = GENERATORS[network]
    of_masks = _of_masks(shapes, units)
    elements, entries = elements_of(shapes), elements_of(of_masks)

    def make(generator: Generator) -> Layers:
        return Layers(
            *(random_tensors(shapes, generator), random_tensors(of_masks, generator)),
            *(random_masks(of_masks, generator), random_tensors(shapes, generator)),
        )

    def oracle(x: Layers) -> Tensors:
        w, e, _, upstream = in_float64(x)
        found = reference.masks.masked_weights_gradients(
            upstream, WEIGHT, w, e, x.reserved, SCALE, max_scale=MAX_SCALE
        )
        return (*found[0], *found[1])

    def error(output: Any, expected: Tensors, _: Any) -> float:
        return relative_error(tuple(tensors(output))[-len(expected) :], expected)

    return Case(
        op=op,
        size={"network": network, "P": elements, "masks": "of units" if units else "of weights"},
        inputs=make,
        oracle=oracle,
        error=error,
        tolerance=ROUNDED,
        work=lambda _: work(elements, entries),
        variants=(
            *own,
            _variant("autograd, layer by layer", "loop", opponents.masked_as_published),
            _variant("autograd", "torch", opponents.masked_in_autograd),
        ),
        small=elements < 1000,
    )


def masked_weights(network: str, units: bool = False) -> Case:
    """Values, and both gradients by `masked_weights_gradients`."""
    own = [
        _variant("clfast", "clfast", _both),
        _variant("clfast, through autograd", "base", _in_autograd),
        *forms("by hand", opponents.masked_by_hand, tuple),
    ]

    def work(elements: int, entries: int) -> Work:
        read = FLOAT * (3 * elements + 2 * entries) + 2 * entries
        return Work(read, FLOAT * (2 * elements + entries), 40 * elements)

    return _of_layers("masked_weights", network, units, own, work)


def masked_weights_gradients(network: str, units: bool = False) -> Case:
    """Gradients alone."""
    shares = lambda x: (x.weights, x.embeddings, opponents.shares_of(x.reserved), x.upstream)  # noqa: E731
    own = [
        _variant("clfast", "clfast", _gradients),
        *forms("by hand", opponents.gradients_by_hand, tuple),
        Variant("foreach", "torch", opponents.gradients_by_foreach, shares),
    ]

    def work(elements: int, entries: int) -> Work:
        read = FLOAT * (2 * elements + entries) + entries
        return Work(read, FLOAT * (elements + entries), 30 * elements)

    return _of_layers("masked_weights_gradients", network, units, own, work)


class Blocked(NamedTuple):
    grads: Tensors
    reserved: Tensors


def block_gradients(network: str) -> Case:
    """In place; a second call finds zeros where the first has put them, and works as much."""
    shapes = NETWORKS[network]
    elements = elements_of(shapes)

    def on_own(masks: Callable[[Tensor], Tensor]) -> Callable[[Blocked], tuple[Tensors, Tensors]]:
        return lambda x: (tuple(g.clone() for g in x.grads), tuple(map(masks, x.reserved)))

    def run(grads: Tensors, reserved: Tensors) -> Tensors:
        ops.block_gradients_(grads, reserved)
        return grads

    floats = on_own(lambda reserved: (~reserved).float())
    return Case(
        op="block_gradients_",
        size={"tensors": len(shapes), "P": elements},
        inputs=lambda g: Blocked(random_tensors(shapes, g), random_masks(shapes, g)),
        oracle=lambda x: tuple(
            g.double().masked_fill(r, 0) for g, r in zip(x.grads, x.reserved, strict=True)
        ),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=0.0,
        work=lambda _: Work(FLOAT * elements + elements // 8, FLOAT * elements, elements),
        variants=(
            Variant("clfast", "clfast", run, on_own(ops.pack_mask)),
            Variant("bool masks", "base", run, on_own(lambda reserved: reserved)),
            Variant("a product a tensor", "loop", opponents.blocked_by_loop, floats),
            Variant("foreach", "torch", opponents.blocked_by_foreach, floats),
            Variant("compiled", "compiled", opponents.blocked_by_loop, floats),
        ),
        small=elements < 1000,
    )


class Compensated(NamedTuple):
    grads: Tensors
    embeddings: Tensors


def compensate(network: str) -> Case:
    """In place: gradients grow from call to call up to the largest number, or beyond, which changes
    nothing of the work."""
    shapes = GENERATORS[network]
    elements = elements_of(shapes)

    def ours(grads: Tensors, embeddings: Tensors) -> Tensors:
        ops.compensate_embedding_gradients_(grads, embeddings, SCALE, MAX_SCALE, mode="reference")
        return grads

    def oracle(x: Compensated) -> Tensors:
        grads, embeddings = in_float64(x)
        reference.masks.compensate_embedding_gradients_(
            grads, embeddings, SCALE, MAX_SCALE, mode="reference"
        )
        return grads

    def variant(name: str, kind: Kind, function: Callable[[Tensors, Tensors], Tensors]) -> Variant:
        own = lambda x: (tuple(g.clone() for g in x.grads), x.embeddings)  # noqa: E731
        return Variant(name, kind, function, own)

    return Case(
        op="compensate_embedding_gradients_",
        size={"network": network, "P": elements},
        inputs=lambda g: Compensated(random_tensors(shapes, g), random_tensors(shapes, g)),
        oracle=oracle,
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-5,
        work=lambda _: Work(2 * FLOAT * elements, FLOAT * elements, 40 * elements),
        variants=(
            variant("clfast", "clfast", ours),
            variant("as published", "loop", opponents.compensated_as_published),
            variant("foreach", "torch", opponents.compensated_by_foreach),
            variant("as published, compiled", "compiled", opponents.compensated_as_published),
        ),
        small=elements < 1000,
    )


CASES = [
    masked_weight((2, 3, 2, 2)),
    masked_weight((128, 30, 4, 4)),
    masked_weight((256, 256, 4, 4)),
    masked_weight((256, 256, 4, 4), units=True),
    *(mask_sparsity(network) for network in GENERATORS),
    *(masked_weights(network) for network in GENERATORS),
    masked_weights("DGMw, ngf 64", units=True),
    *(masked_weights_gradients(network) for network in GENERATORS),
    masked_weights_gradients("DGMw, ngf 64", units=True),
    *(compensate(network) for network in GENERATORS),
    *(block_gradients(network) for network in NETWORKS),
    *(reserve(network) for network in NETWORKS),
    pack_mask(3, 7, 5),
    pack_mask(128, 30, 4, 4),
    pack_mask(1024, 8192),
    unpack_mask(3, 7, 5),
    unpack_mask(128, 30, 4, 4),
    unpack_mask(1024, 8192),
]
