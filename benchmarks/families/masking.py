"""What a training step with masks is made of: `clfast.ops.masks` and the masked optimiser, over
lists of tensors as networks have them."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Generator

import clfast
from clfast import ops, reference

from ..case import Case, Kind, Variant, Work, in_float64, largest, relative_error, tensors
from ..opponents import masking as opponents
from ..opponents.masking import MAX_SCALE, SCALE, WEIGHT, Tensors

FLOAT = 4  # bytes
Shapes = tuple[tuple[int, ...], ...]

# Transposed convolutions of DGMw on MNIST (ngf 6) after some tasks, and of a generator as wide as
# DCGAN's.
GENERATORS: dict[str, Shapes] = {
    "two layers": ((3, 2, 2, 2), (2, 3, 2, 2)),
    "DGMw, grown": ((128, 30, 4, 4), (30, 21, 4, 4), (21, 6, 4, 4)),
    "DGMw, ngf 64": ((128, 256, 4, 4), (256, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4)),
}
NETWORKS: dict[str, Shapes] = {
    "two layers": GENERATORS["two layers"],
    # 40 tensors, 7.4 M parameters.
    "wide": ((256, 256, 3, 3), (256,), (512, 288), (512,)) * 10,
}


class Layers(NamedTuple):
    weights: Tensors
    embeddings: Tensors
    reserved: Tensors
    upstream: Tensors


def _random(shapes: Shapes, generator: Generator) -> Tensors:
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def _masks(shapes: Shapes, generator: Generator) -> Tensors:
    return tuple(torch.rand(shape, generator=generator) < 0.5 for shape in shapes)


def _elements(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes)


def _direct(weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors) -> Any:
    layers = (weights, embeddings, reserved, SCALE)
    with torch.no_grad():
        masked, sparsity = ops.masked_weights(*layers, max_scale=MAX_SCALE)
        found = ops.masked_weights_gradients(upstream, WEIGHT, *layers, max_scale=MAX_SCALE)
    return tuple(masked), sparsity, (*found[0], *found[1])


@torch.enable_grad()
def _in_autograd(
    weights: Tensors, embeddings: Tensors, reserved: Tensors, upstream: Tensors
) -> Tensors:
    w = [t.detach().requires_grad_() for t in weights]
    e = [t.detach().requires_grad_() for t in embeddings]
    masked, sparsity = ops.masked_weights(w, e, reserved, SCALE, max_scale=MAX_SCALE)
    outputs = [*masked, sparsity]
    return torch.autograd.grad(outputs, [*w, *e], [*upstream, torch.tensor(WEIGHT)])


def masked_weights(network: str, units: bool) -> Case:
    """Forward and backward; gradients are what is compared, the last of what comes out."""
    shapes = GENERATORS[network]
    of_masks = tuple((1, s[1], 1, 1) for s in shapes) if units else shapes
    elements, entries = _elements(shapes), _elements(of_masks)

    def make(generator: Generator) -> Layers:
        return Layers(
            *(_random(shapes, generator), _random(of_masks, generator)),
            *(_masks(of_masks, generator), _random(shapes, generator)),
        )

    def oracle(x: Layers) -> Tensors:
        w, e, _, upstream = in_float64(x)
        found = reference.masks.masked_weights_gradients(
            upstream, WEIGHT, w, e, x.reserved, SCALE, max_scale=MAX_SCALE
        )
        return (*found[0], *found[1])

    def error(output: Any, expected: Tensors, _: Any) -> float:
        return relative_error(tuple(tensors(output))[-len(expected) :], expected)

    def variant(name: str, kind: Kind, function: Callable[..., Any]) -> Variant:
        return Variant(name, kind, function, tuple)

    return Case(
        op="masked_weights",
        size={"network": network, "P": elements, "masks": "of units" if units else "of weights"},
        inputs=make,
        oracle=oracle,
        error=error,
        tolerance=1e-3,  # compensation behind a sigmoid that rounds loses digits
        work=lambda _: Work(
            FLOAT * (3 * elements + 2 * entries) + 2 * entries,
            FLOAT * (2 * elements + entries),
            40 * elements,
        ),
        variants=(
            variant("clfast", "clfast", _direct),
            variant("clfast, through autograd", "base", _in_autograd),
            variant("autograd, layer by layer", "loop", opponents.masked_as_published),
            variant("autograd", "torch", opponents.masked_in_autograd),
            variant("by hand", "torch", opponents.masked_by_hand),
            variant("by hand, compiled", "compiled", opponents.masked_by_hand),
        ),
        small=elements < 1000,
    )


class Blocked(NamedTuple):
    grads: Tensors
    reserved: Tensors


def block_gradients(network: str) -> Case:
    """In place; a second call finds zeros where the first has put them, and works as much."""
    shapes = NETWORKS[network]
    elements = _elements(shapes)

    def packed(x: Blocked) -> tuple[Any, ...]:
        return x.grads, tuple(ops.pack_mask(r) for r in x.reserved)

    def floats(x: Blocked) -> tuple[Any, ...]:
        return x.grads, tuple((~r).float() for r in x.reserved)

    def run(grads: Tensors, reserved: Tensors) -> Tensors:
        ops.block_gradients_(grads, reserved)
        return grads

    return Case(
        op="block_gradients_",
        size={"tensors": len(shapes), "P": elements},
        inputs=lambda g: Blocked(_random(shapes, g), _masks(shapes, g)),
        oracle=lambda x: tuple(
            g.double().masked_fill(r, 0) for g, r in zip(x.grads, x.reserved, strict=True)
        ),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=0.0,
        work=lambda _: Work(FLOAT * elements + elements // 8, FLOAT * elements, elements),
        variants=(
            Variant("clfast", "clfast", run, packed),
            Variant("bool masks", "base", run, tuple),
            Variant("a product a tensor", "loop", opponents.blocked_by_loop, floats),
            Variant("foreach", "torch", opponents.blocked_by_foreach, floats),
            Variant("compiled", "compiled", opponents.blocked_by_loop, floats),
        ),
        small=elements < 1000,
    )


class Compensated(NamedTuple):
    grads: Tensors
    embeddings: Tensors
    kept: Tensors


def compensate(network: str) -> Case:
    """Gradients are put back in the same call: they would grow beyond any number."""
    shapes = GENERATORS[network]
    elements = _elements(shapes)

    def make(generator: Generator) -> Compensated:
        grads = _random(shapes, generator)
        return Compensated(grads, _random(shapes, generator), tuple(g.clone() for g in grads))

    def restored(change: Callable[[Tensors, Tensors], Any]) -> Callable[..., Tensors]:
        def run(grads: Tensors, embeddings: Tensors, kept: Tensors) -> Tensors:
            torch._foreach_copy_(grads, kept)
            change(grads, embeddings)
            return grads

        return run

    def ours(grads: Tensors, embeddings: Tensors) -> None:
        ops.compensate_embedding_gradients_(grads, embeddings, SCALE, MAX_SCALE, mode="reference")

    def oracle(x: Compensated) -> Tensors:
        grads, embeddings, _ = in_float64(x)
        return opponents.compensated_as_published(tuple(g.clone() for g in grads), embeddings)

    published = restored(opponents.compensated_as_published)
    return Case(
        op="compensate_embedding_gradients_",
        size={"network": network, "P": elements},
        inputs=make,
        oracle=oracle,
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-5,
        work=lambda _: Work(3 * FLOAT * elements, 2 * FLOAT * elements, 40 * elements),
        variants=(
            Variant("clfast", "clfast", restored(ours), tuple),
            Variant("as published", "torch", published, tuple),
            Variant("as published, compiled", "compiled", published, tuple),
        ),
        small=elements < 1000,
    )


class Parameters(NamedTuple):
    params: Tensors
    grads: Tensors
    reserved: Tensors


def masked_adam(network: str) -> Case:
    """A step of an optimiser over parameters of its own; all of them have made as many steps."""
    shapes = NETWORKS[network]
    elements = _elements(shapes)

    def own(x: Parameters) -> Tensors:
        params = tuple(p.clone().requires_grad_() for p in x.params)
        for param, grad in zip(params, x.grads, strict=True):
            param.grad = grad.clone()
        return params

    def masked(x: Parameters) -> tuple[Any, ...]:
        params = own(x)
        masks = [ops.pack_mask(r) for r in x.reserved]
        reserved = dict(zip(params, masks, strict=True))
        return clfast.optim.MaskedAdam(params, lr=1e-3, reserved=reserved), params

    def adam(**options: bool) -> Callable[[Parameters], tuple[Any, ...]]:
        def arguments(x: Parameters) -> tuple[Any, ...]:
            params = own(x)
            free = tuple((~r).float() for r in x.reserved)
            return torch.optim.Adam(params, lr=1e-3, **options), params, free

        return arguments

    def step(optimizer: Any, params: Tensors) -> Tensors:
        optimizer.step()
        return params

    def error(output: Tensors, kept: Tensors, x: Parameters) -> float:
        """Of what is reserved, which no masked step may move; Adam's own steps are tested apart."""
        moved = [
            (p.detach().double() - k).masked_select(r).abs().max()
            for p, k, r in zip(output, kept, x.reserved, strict=True)
        ]
        return largest(*moved)

    def after(function: Callable[..., None]) -> Callable[..., Tensors]:
        def run(optimizer: Any, params: Tensors, free: Tensors) -> Tensors:
            function(optimizer, params, free)
            return params

        return run

    loop, foreach = (
        after(f) for f in (opponents.mask_loop_and_step, opponents.foreach_mask_and_step)
    )
    return Case(
        op="MaskedAdam",
        size={"tensors": len(shapes), "P": elements},
        inputs=lambda g: Parameters(_random(shapes, g), _random(shapes, g), _masks(shapes, g)),
        oracle=lambda x: in_float64(x).params,
        error=error,
        tolerance=0.0,
        work=lambda _: Work(
            4 * FLOAT * elements + elements // 8, 3 * FLOAT * elements, 15 * elements
        ),
        variants=(
            Variant("clfast", "clfast", step, masked),
            Variant("mask loop, foreach Adam", "loop", loop, adam(foreach=True)),
            Variant("foreach mask, fused Adam", "torch", foreach, adam(fused=True)),
        ),
        small=elements < 1000,
    )


CASES = [
    *(masked_weights(network, False) for network in GENERATORS),
    masked_weights("DGMw, ngf 64", True),
    *(compensate(network) for network in GENERATORS),
    *(block_gradients(network) for network in NETWORKS),
    *(masked_adam(network) for network in NETWORKS),
]
