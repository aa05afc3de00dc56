"""Cases of `clfast.ops.consolidation`: gradients of networks as lists of tensors, and GEM's as
vectors. `mir_scores` has no kernel and no case."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from clfast import ops, reference

from ..case import Case, Variant, Work, forms, in_float64, relative_error
from ..opponents import consolidation as opponents
from ..opponents.consolidation import Grads

FLOAT = 4  # bytes
MARGIN = 0.5  # of GEM's own experiments

Shapes = tuple[tuple[int, ...], ...]


def _mlp(*widths: int) -> Shapes:
    return tuple(shape for i, o in pairwise(widths) for shape in ((o, i), (o,)))


def _resnet18(width: int, classes: int) -> Shapes:
    """Convolutions without biases, each with its normalisation; `width` is 20 in GEM's own."""
    shapes: list[tuple[int, ...]] = [(width, 3, 3, 3), (width,), (width,)]
    before = width
    for channels in (width, 2 * width, 4 * width, 8 * width):
        for entered in (before, channels):
            for i, size in ((entered, 3), (channels, 3)):
                shapes += [(channels, i, size, size), (channels,), (channels,)]
            if entered != channels:
                shapes += [(channels, entered, 1, 1), (channels,), (channels,)]
        before = channels
    return (*shapes, (classes, before), (classes,))


NETWORKS = {
    "one layer": _mlp(10, 9),
    "MLP 784-100-100-10": _mlp(784, 100, 100, 10),
    "ResNet-18, width 20": _resnet18(20, 100),
    "ResNet-18, width 64": _resnet18(64, 100),
}


class Lists(NamedTuple):
    """Gradients, tensor behind tensor."""

    grads: Tensor  # [P]
    reference: Tensor  # [P]


def _restored(project: Callable[[Grads, Grads], Any]) -> Callable[..., Grads]:
    """In place on what the last call has left, put back as it was: without this only the first
    call would find gradients that disagree."""

    def run(grads: Grads, reference: Grads, kept: Grads) -> Grads:
        torch._foreach_copy_(grads, kept)
        project(grads, reference)
        return grads

    return run


def project_gradients(network: str, opposed: bool) -> Case:
    """Opposed gradients are projected, and put back in the same call; agreeing ones are left."""
    shapes = NETWORKS[network]
    sizes = [prod(shape) for shape in shapes]
    elements = sum(sizes)

    def make(generator: Generator) -> Lists:
        grads, noise = (torch.randn(elements, generator=generator) for _ in range(2))
        return Lists(grads, (-0.2 if opposed else 0.2) * grads + noise)

    def split(row: Tensor) -> Grads:
        parts = zip(row.split(sizes), shapes, strict=True)
        return tuple(part.view(shape).clone() for part, shape in parts)

    def arguments(x: Lists) -> tuple[Grads, ...]:
        lists = (split(x.grads), split(x.reference))
        return (*lists, split(x.grads)) if opposed else lists

    def oracle(x: Lists) -> Grads:
        given = in_float64(x)
        grads = split(given.grads)
        reference.consolidation.project_gradients_(grads, split(given.reference))
        return grads

    def variant(name: str, kind: Any, project: Callable[[Grads, Grads], Any]) -> Variant:
        function = _restored(project) if opposed else _returned(project)
        return Variant(name, kind, function, arguments)

    return Case(
        op="project_gradients_",
        size={"network": network, "P": elements, "how": "opposed" if opposed else "agreeing"},
        inputs=make,
        oracle=oracle,
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-5,
        work=lambda _: Work(
            2 * FLOAT * elements, FLOAT * elements * opposed, (4 + 2 * opposed) * elements
        ),
        variants=(
            variant("clfast", "clfast", ops.project_gradients_),
            variant("vectors, parameter by parameter", "loop", opponents.projected_as_published),
            variant("torch.cat", "torch", opponents.projected_by_cat),
            variant("a dot product a tensor", "torch", opponents.projected_by_dots),
            variant("without a branch", "torch", opponents.projected_without_branch),
            variant("without a branch, compiled", "compiled", opponents.projected_without_branch),
        ),
        small=elements < 1000,
    )


def _returned(project: Callable[[Grads, Grads], Any]) -> Callable[[Grads, Grads], Grads]:
    def run(grads: Grads, reference: Grads) -> Grads:
        project(grads, reference)
        return grads

    return run


class Gradients(NamedTuple):
    grad: Tensor  # [P]
    memory_grads: Tensor  # [T, P]


def gem_project(T: int, P: int) -> Case:
    """With a conflict, as nearly every step of GEM has one."""

    def make(generator: Generator) -> Gradients:
        grad, shared = (torch.randn(P, generator=generator) for _ in range(2))
        own = torch.randn(T, P, generator=generator)
        return Gradients(grad, own + 0.5 * shared - 0.1 * grad)

    given = lambda x: (*x, MARGIN)  # noqa: E731
    return Case(
        op="gem_project",
        size={"T": T, "P": P},
        inputs=make,
        oracle=lambda x: reference.consolidation.gem_project(*in_float64(x), MARGIN),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-4,
        work=lambda _: Work(FLOAT * P * (T + 1), FLOAT * P, P * T * (T + 5)),
        variants=(
            Variant("clfast", "clfast", ops.gem_project, given),
            Variant("numpy in float64", "loop", opponents.gem_as_published, given),
            Variant("products in float32", "torch", opponents.gem_in_torch, given),
            *forms("without a branch", opponents.gem_without_branch, given),
        ),
        small=T * P < 1000,
    )


CASES = [
    *(project_gradients(network, opposed) for network in NETWORKS for opposed in (True, False)),
    gem_project(3, 100),
    gem_project(5, 89_610),
    gem_project(19, 89_610),
    gem_project(9, 1_109_240),
    gem_project(19, 1_109_240),
]
