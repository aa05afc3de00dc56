"""Cases of `clfast.ops.consolidation`: parameters and gradients of networks as lists of tensors,
GEM's gradients as vectors. What has no kernel (`mir_scores`, importances) has no case."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from clfast import ops, reference

from ..case import Case, Kind, Variant, Work, forms, in_float64, relative_error
from ..opponents import consolidation as opponents
from ..opponents.consolidation import STRENGTH, Grads, Tensors

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
PENALISED = {
    **{name: NETWORKS[name] for name in ("one layer", "MLP 784-100-100-10", "ResNet-18, width 20")},
    # 40 tensors, 7.4 M parameters.
    "wide": ((256, 256, 3, 3), (256,), (512, 288), (512,)) * 10,
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


class Penalised(NamedTuple):
    grads: Tensors
    params: Tensors
    anchors: Tensors
    importances: Tensors


def _penalised(shapes: Shapes) -> Callable[[Generator], Penalised]:
    def make(generator: Generator) -> Penalised:
        grads, params, moves, roots = (
            tuple(torch.randn(shape, generator=generator) for shape in shapes) for _ in range(4)
        )
        anchors = tuple(p + 0.1 * move for p, move in zip(params, moves, strict=True))
        return Penalised(grads, params, anchors, tuple(root**2 for root in roots))

    return make


def _leaves(params: Tensors) -> Tensors:
    return tuple(p.detach().clone().requires_grad_() for p in params)


def _differentiated(penalty: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensors]]:
    @torch.enable_grad()
    def run(params: Tensors, anchors: Tensors, importances: Tensors) -> tuple[Tensor, Tensors]:
        value = penalty(params, anchors, importances)
        return value, torch.autograd.grad(value, params)

    return run


def quadratic_penalty(network: str) -> Case:
    """Value and gradients; every variant forms both."""
    shapes = PENALISED[network]
    elements = sum(prod(shape) for shape in shapes)

    def plain(x: Penalised) -> tuple[Tensors, ...]:
        return x.params, x.anchors, x.importances

    def leaves(x: Penalised) -> tuple[Tensors, ...]:
        return _leaves(x.params), x.anchors, x.importances

    def autograd(name: str, kind: Kind, penalty: Callable[..., Tensor]) -> Variant:
        return Variant(name, kind, _differentiated(penalty), leaves)

    return Case(
        op="quadratic_penalty",
        size={"network": network, "P": elements},
        inputs=_penalised(shapes),
        oracle=lambda x: opponents.penalty_in_closed_form(*in_float64(plain(x))),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-5,
        work=lambda _: Work(3 * FLOAT * elements, FLOAT * elements, 5 * elements),
        variants=(
            autograd("clfast", "clfast", ops.quadratic_penalty),
            autograd("autograd, a term a tensor", "loop", opponents.penalty_by_loop),
            autograd("autograd, foreach", "torch", opponents.penalty_by_foreach),
            Variant("by hand, foreach", "torch", opponents.penalty_by_hand, plain),
            *forms("by hand, a tensor at a time", opponents.penalty_in_closed_form, plain),
        ),
        small=elements < 1000,
    )


def add_penalty_gradients(network: str) -> Case:
    """In place, and more is added with every call; a call works the same whatever is there."""
    shapes = PENALISED[network]
    elements = sum(prod(shape) for shape in shapes)

    def lists(x: Penalised) -> tuple[Tensors, ...]:
        return (tuple(g.clone() for g in x.grads), *x[1:])

    def leaves(x: Penalised) -> tuple[Tensors, ...]:
        grads, params, *constants = lists(x)
        params = _leaves(params)
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        return (grads, params, *constants)

    def ours(grads: Grads, *others: Tensors) -> Grads:
        ops.add_penalty_gradients_(grads, *others, STRENGTH)
        return grads

    def oracle(x: Penalised) -> Grads:
        grads, *others = in_float64(x)
        grads = tuple(g.clone() for g in grads)
        reference.consolidation.add_penalty_gradients_(grads, *others, STRENGTH)
        return grads

    return Case(
        op="add_penalty_gradients_",
        size={"network": network, "P": elements},
        inputs=_penalised(shapes),
        oracle=oracle,
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-5,
        work=lambda _: Work(4 * FLOAT * elements, FLOAT * elements, 5 * elements),
        variants=(
            Variant("clfast", "clfast", ours, lists),
            Variant("autograd, with the value", "loop", opponents.added_by_autograd, leaves),
            *forms("by hand, a tensor at a time", opponents.added_by_loop, lists),
            Variant("by hand, foreach", "torch", opponents.added_by_foreach, lists),
        ),
        small=elements < 1000,
    )


class Walk(NamedTuple):
    omegas: Tensors
    grads: Tensors
    deltas: Tensors


def path_integral(network: str) -> Case:
    """In place, and more is added with every call; a call works the same whatever is there."""
    shapes = PENALISED[network]
    elements = sum(prod(shape) for shape in shapes)

    def make(generator: Generator) -> Walk:
        return Walk(
            *(tuple(torch.randn(shape, generator=generator) for shape in shapes) for _ in range(3))
        )

    def lists(x: Walk) -> tuple[Tensors, ...]:
        return (tuple(w.clone() for w in x.omegas), *x[1:])

    def ours(omegas: Grads, *others: Tensors) -> Grads:
        ops.path_integral_(omegas, *others)
        return omegas

    def oracle(x: Walk) -> Grads:
        omegas, *others = lists(in_float64(x))
        reference.consolidation.path_integral_(omegas, *others)
        return omegas

    return Case(
        op="path_integral_",
        size={"network": network, "P": elements},
        inputs=make,
        oracle=oracle,
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-5,
        work=lambda _: Work(3 * FLOAT * elements, FLOAT * elements, 2 * elements),
        variants=(
            Variant("clfast", "clfast", ours, lists),
            Variant("a product a tensor", "loop", opponents.walked_by_loop, lists),
            *forms("addcmul, a tensor at a time", opponents.walked_in_place, lists),
            Variant("foreach", "torch", opponents.walked_by_foreach, lists),
        ),
        small=elements < 1000,
    )


CASES = [
    *(project_gradients(network, opposed) for network in NETWORKS for opposed in (True, False)),
    gem_project(3, 100),
    gem_project(5, 89_610),
    gem_project(19, 89_610),
    gem_project(9, 1_109_240),
    gem_project(19, 1_109_240),
    *(quadratic_penalty(network) for network in PENALISED),
    *(add_penalty_gradients(network) for network in PENALISED),
    *(path_integral(network) for network in PENALISED),
]
