"""Cases of `masks` on the masks that earlier tasks leave: how they are reserved and kept."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from clfast import ops, reference

from ..case import Case, Variant, Work, forms, tensors
from ..opponents import masks as opponents
from ..opponents.masks import SCALE, Tensors
from ._masked_networks import NETWORKS, Embeddings, elements_of, random_masks, random_tensors

FLOAT = 4  # bytes


def reserve(network: str) -> Case:
    """The masks of clfast are put back in the same call: it takes longer over what is new. Rivals
    take as long over whatever is there, and are spared it."""
    shapes = NETWORKS[network]
    elements = elements_of(shapes)

    def run(reserved: Tensors, embeddings: Tensors, kept: Tensors) -> tuple[Tensor, Tensors]:
        torch._foreach_copy_(reserved, kept)
        return ops.reserve_(reserved, embeddings, SCALE), reserved

    def ours(masks: Callable[[Tensor], Tensor]) -> Callable[[Embeddings], tuple[Tensors, ...]]:
        return lambda x: (
            *(tuple(masks(r).clone() for r in x.reserved), x.embeddings),
            tuple(map(masks, x.reserved)),
        )

    def floats(x: Embeddings) -> tuple[Tensors, Tensors]:
        return tuple(r.float() for r in x.reserved), x.embeddings

    def bools(x: Embeddings) -> tuple[Tensors, Tensors]:
        return tuple(r.clone() for r in x.reserved), x.embeddings

    def oracle(x: Embeddings) -> tuple[Tensor, Tensors]:
        reserved, embeddings = bools(x)
        return reference.masks.reserve_(reserved, embeddings, SCALE), reserved

    def error(output: tuple[Tensor, Tensors], expected: tuple[Tensor, Tensors], _: Any) -> float:
        masks = tuple(
            reference.masks.unpack_mask(m, w.shape) if m.dtype == torch.uint8 else m != 0
            for m, w in zip(output[1], expected[1], strict=True)
        )
        return _differing((output[0], masks), expected)

    return Case(
        op="reserve_",
        size={"tensors": len(shapes), "P": elements},
        inputs=lambda g: Embeddings(random_tensors(shapes, g), random_masks(shapes, g)),
        oracle=oracle,
        error=error,
        tolerance=0.0,
        work=lambda _: Work(FLOAT * elements + elements // 8, elements // 8, 2 * elements),
        variants=(
            Variant("clfast", "clfast", run, ours(ops.pack_mask)),
            Variant("bool masks", "base", run, ours(lambda reserved: reserved)),
            Variant("as published", "loop", opponents.reserved_as_published, floats),
            *forms("bools", opponents.reserved_by_bools, bools),
        ),
        small=elements < 1000,
    )


def _differing(output: Any, expected: Any) -> float:
    """How many entries do."""
    pairs = list(zip(tensors(output), tensors(expected), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return float(sum(int((a != b).sum()) for a, b in pairs))


class Mask(NamedTuple):
    mask: Tensor


class Packed(NamedTuple):
    packed: Tensor  # [ceil(elements / 8)] uint8
    mask: Tensor


def pack_mask(*shape: int) -> Case:
    elements = prod(shape)
    powers = lambda x: (x.mask, opponents.powers_of_two(x.mask.device))  # noqa: E731
    return Case(
        op="pack_mask",
        size={"mask": "x".join(map(str, shape))},
        inputs=lambda g: Mask(*random_masks((shape,), g)),
        oracle=lambda x: reference.masks.pack_mask(x.mask),
        error=lambda output, expected, _: _differing(output, expected),
        tolerance=0.0,
        work=lambda _: Work(elements, -(-elements // 8), elements),
        variants=(
            Variant("clfast", "clfast", ops.pack_mask, tuple),
            Variant("bit by bit", "loop", opponents.pack_by_loop, tuple),
            *forms("powers of two", opponents.pack_by_powers, powers),
            *forms("eight bytes at once", opponents.pack_by_product, tuple),
            Variant(
                *("numpy.packbits", "library", opponents.pack_by_numpy, tuple),
                module="numpy",
                devices=("cpu",),
            ),
        ),
        small=elements < 1000,
    )


def unpack_mask(*shape: int) -> Case:
    elements = prod(shape)

    def make(generator: Generator) -> Packed:
        (mask,) = random_masks((shape,), generator)
        return Packed(reference.masks.pack_mask(mask), mask)

    given = lambda x: (x.packed, shape)  # noqa: E731
    powers = lambda x: (*given(x), opponents.powers_of_two(x.packed.device))  # noqa: E731
    table = lambda x: (*given(x), opponents.bytes_of_bits(x.packed.device))  # noqa: E731
    return Case(
        op="unpack_mask",
        size={"mask": "x".join(map(str, shape))},
        inputs=make,
        oracle=lambda x: x.mask,
        error=lambda output, expected, _: _differing(output, expected),
        tolerance=0.0,
        work=lambda _: Work(-(-elements // 8), elements, elements),
        variants=(
            Variant("clfast", "clfast", ops.unpack_mask, given),
            Variant("bit by bit", "loop", opponents.unpack_by_loop, given),
            *forms("powers of two", opponents.unpack_by_powers, powers),
            *forms("table of bytes", opponents.unpack_by_table, table),
            Variant(
                *("numpy.unpackbits", "library", opponents.unpack_by_numpy, given),
                module="numpy",
                devices=("cpu",),
            ),
        ),
        small=elements < 1000,
    )
