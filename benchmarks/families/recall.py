"""Cases of `clfast.ops.recall`: losses together with their gradients, as an optimisation of images
asks for them. Where the op takes part in autograd, so do the opponents, but for torch.func's
compiled gradients, which are spared it; closed forms stand beside the ops that are closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from clfast import ops, reference

from ..case import Case, Variant, Work, forms, in_float64, relative_error
from ..opponents import recall as opponents
from ..opponents.recall import Logits, value_and_gradient, with_gradients

FLOAT = 4  # bytes
LR = 0.01


class Images(NamedTuple):
    images: Tensor  # [M, Ch, H, W]
    grad: Tensor  # [M, Ch, H, W]


def _logits(M: int, C: int) -> Callable[[Generator], Logits]:
    def make(generator: Generator) -> Logits:
        old, new = (2 * torch.randn(M, C, generator=generator) for _ in range(2))
        return Logits(old, new, torch.arange(0, C, max(2, C // 10)))

    return make


def _of_logits(
    op: str,
    M: int,
    C: int,
    variants: list[Variant],
    oracle: Callable[[Any], Any],
    *,
    written: int,
    flops: int,
    how: str = "",
) -> Case:
    return Case(
        op=op,
        size={"M": M, "C": C, **({"how": how} if how else {})},
        inputs=_logits(M, C),
        oracle=lambda x: oracle(in_float64(x)),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-4,
        work=lambda _: Work(2 * FLOAT * M * C, written * FLOAT * M * C, flops * M * C),
        variants=tuple(variants),
        small=M * C <= 100,
    )


def _gradients_of(x: Logits) -> tuple[Tensor, ...]:
    return reference.recall.recall_gradients(*x)


def _recall_opponents() -> list[Variant]:
    published, plain = opponents.recall_as_published, opponents.recall_value
    return [
        Variant("loops over classes", "loop", with_gradients(published, 2), tuple),
        Variant("autograd", "torch", with_gradients(plain, 2), tuple),
        Variant("grad_and_value, compiled", "compiled", value_and_gradient(plain, 2), tuple),
    ]


def recall_gradients(M: int, C: int) -> Case:
    """Loss and both gradients in one call, without autograd."""
    clfast = Variant("clfast", "clfast", ops.recall_gradients, tuple)
    by_hand = forms("closed form", opponents.recall_by_hand, tuple)
    variants = [clfast, *_recall_opponents(), *by_hand]
    return _of_logits("recall_gradients", M, C, variants, _gradients_of, written=2, flops=60)


def recall_loss(M: int, C: int) -> Case:
    """The differentiable loss and its backward pass."""
    clfast = Variant("clfast", "clfast", with_gradients(ops.recall_loss, 2), tuple)
    return _of_logits(
        "recall_loss",
        *(M, C, [clfast, *_recall_opponents()], _gradients_of),
        written=2,
        flops=60,
        how="forward and backward",
    )


def soft_cross_entropy(M: int, C: int) -> Case:
    """The differentiable loss and its backward pass."""
    pair = lambda x: (x.old, x.new)  # noqa: E731
    loop = with_gradients(opponents.cross_entropy_as_published, 1)
    autograd = with_gradients(opponents.cross_entropy_of_softmax, 1)
    by_func = value_and_gradient(opponents.cross_entropy_value)
    variants = [
        Variant("clfast", "clfast", with_gradients(ops.soft_cross_entropy, 1), pair),
        Variant("loop over classes", "loop", loop, pair),
        Variant("F.cross_entropy", "torch", autograd, pair),
        Variant("grad_and_value, compiled", "compiled", by_func, pair),
    ]
    return _of_logits(
        *("soft_cross_entropy", M, C, variants),
        lambda x: with_gradients(reference.recall.soft_cross_entropy, 1)(x.old, x.new),
        written=1,
        flops=25,
        how="forward and backward",
    )


def divergence(M: int, C: int) -> Case:
    """The differentiable divergences of all rows and their backward pass."""
    pair = lambda x: (x.old, x.new)  # noqa: E731
    by_func = value_and_gradient(opponents.divergence_values, 2)
    variants = [
        Variant("clfast", "clfast", with_gradients(ops.divergence, 2), pair),
        Variant("F.kl_div", "loop", with_gradients(opponents.divergence_by_kl_div, 2), pair),
        Variant("autograd", "torch", with_gradients(opponents.divergence_values, 2), pair),
        Variant("grad, compiled", "compiled", by_func, pair),
    ]
    return _of_logits(
        *("divergence", M, C, variants),
        lambda x: with_gradients(reference.recall.divergence, 2)(x.old, x.new),
        written=2,
        flops=45,
        how="forward and backward",
    )


def _images(M: int, shape: tuple[int, ...]) -> Callable[[Generator], Images]:
    def make(generator: Generator) -> Images:
        return Images(
            torch.rand(M, *shape, generator=generator),
            1e-3 * torch.randn(M, *shape, generator=generator),
        )

    return make


def _of_images(
    op: str,
    M: int,
    shape: tuple[int, ...],
    variants: list[Variant],
    oracle: Callable[[Images], Any],
    accesses: tuple[int, int],
) -> Case:
    elements = M * math.prod(shape)
    return Case(
        op=op,
        size={"M": M, "image": "x".join(map(str, shape))},
        inputs=_images(M, shape),
        oracle=lambda x: oracle(in_float64(x)),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-4,
        work=lambda _: Work(
            accesses[0] * FLOAT * elements, accesses[1] * FLOAT * elements, 15 * elements
        ),
        variants=tuple(variants),
        small=elements < 10_000,
    )


def image_prior(M: int, *shape: int) -> Case:
    """The differentiable prior and its backward pass."""
    functions = (ops.image_prior, reference.recall.image_prior, opponents.prior_value)
    return _differentiable_of_images("image_prior", M, shape, functions)


def total_variation(M: int, *shape: int) -> Case:
    """Absolute differences, the differentiable value and its backward pass."""
    functions = (
        partial(ops.total_variation, norm="abs"),
        partial(reference.recall.total_variation, norm="abs"),
        opponents.absolute_variation,
    )
    return _differentiable_of_images("total_variation", M, shape, functions)


def _differentiable_of_images(
    op: str,
    M: int,
    shape: tuple[int, ...],
    functions: tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]],
) -> Case:
    """functions: clfast's, the reference, and as one writes it in PyTorch."""
    of_image = lambda x: (x.images,)  # noqa: E731
    clfast, oracle, plain = functions
    by_func = value_and_gradient(plain)
    variants = [
        Variant("clfast", "clfast", with_gradients(clfast, 1), of_image),
        Variant("autograd", "loop", with_gradients(plain, 1), of_image),
        Variant("grad_and_value", "torch", by_func, of_image),
        Variant("grad_and_value, compiled", "compiled", by_func, of_image),
    ]
    expected = lambda x: with_gradients(oracle, 1)(x.images)  # noqa: E731
    return _of_images(op, M, shape, variants, expected, (1, 1))


def recall_step(M: int, *shape: int) -> Case:
    """The prior's gradient and the step; clfast's goes on from its own images, call after call."""
    given = lambda x: (*x, LR)  # noqa: E731

    def step(images: Tensor, grad: Tensor, lr: float) -> Tensor:
        ops.recall_step_(images, grad, lr=lr, tv_weight=1.0, l2_weight=1.0)
        return images

    def oracle(x: Images) -> Tensor:
        images = x.images.clone()
        reference.recall.recall_step_(images, x.grad, lr=LR, tv_weight=1.0, l2_weight=1.0)
        return images

    variants = [
        Variant("clfast", "clfast", step, lambda x: (x.images.clone(), x.grad, LR)),
        Variant("autograd", "loop", opponents.step_by_autograd, given),
        Variant("grad, compiled", "compiled", opponents.step_by_func, given),
        *forms("hand gradient", opponents.step_by_hand, given),
        *forms("hand gradient, padded", opponents.step_by_padding, given),
    ]
    return _of_images("recall_step_", M, shape, variants, oracle, (2, 1))


CASES = [
    recall_gradients(10, 10),
    recall_gradients(100, 10),
    recall_gradients(100, 100),
    recall_gradients(100, 1000),
    recall_loss(10, 10),
    recall_loss(100, 10),
    recall_loss(100, 1000),
    soft_cross_entropy(10, 10),
    soft_cross_entropy(100, 100),
    soft_cross_entropy(100, 1000),
    divergence(10, 10),
    divergence(100, 10),
    divergence(100, 1000),
    image_prior(10, 1, 28, 28),
    image_prior(100, 3, 32, 32),
    image_prior(100, 3, 84, 84),
    image_prior(128, 3, 224, 224),
    total_variation(10, 1, 28, 28),
    total_variation(100, 3, 32, 32),
    recall_step(10, 1, 28, 28),
    recall_step(100, 3, 32, 32),
    recall_step(100, 3, 84, 84),
    recall_step(128, 3, 224, 224),
]
