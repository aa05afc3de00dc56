"""Cases of the losses and heads of `clfast.ops.exemplars`, forward and backward. Half of the
classes are old; distillation is from a network that knew those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from clfast import ops, reference

from ..case import Case, Variant, Work, forms, in_float64, relative_error
from ..opponents import exemplar_losses as opponents
from ..opponents.exemplar_losses import (
    MARGIN,
    TEMPERATURE,
    Function,
    K,
    Tensors,
    pulled_back,
    pulled_back_by_func,
)
from ..opponents.recall import value_and_gradient, with_gradients

FLOAT = 4  # bytes


class Logits(NamedTuple):
    student: Tensor  # [N, C], or cosines
    teacher: Tensor  # [N, C / 2]
    labels: Tensor  # [N]
    new_classes: Tensor  # [C / 2]
    scale: Tensor
    shift: Tensor
    upstream: Tensor  # [N, C]


def _logits(N: int, C: int) -> Callable[[Generator], Logits]:
    old = C // 2

    def make(generator: Generator) -> Logits:
        return Logits(
            torch.randn(N, C, generator=generator),
            torch.randn(N, old, generator=generator),
            torch.randint(0, C, (N,), generator=generator),
            torch.arange(old, C),
            *(torch.tensor(0.8), torch.tensor(-0.3)),
            torch.randn(N, C, generator=generator),
        )

    return make


def _case(
    op: str,
    size: dict[str, int],
    inputs: Callable[[Generator], Any],
    arguments: Callable[[Any], tuple[Any, ...]],
    variants: list[Variant],
    oracle: Callable[..., Tensors],
    work: Work,
) -> Case:
    return Case(
        op=op,
        size={**size, "how": "forward and backward"},
        inputs=inputs,
        oracle=lambda x: oracle(*arguments(in_float64(x))),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-4,
        work=lambda _: work,
        variants=tuple(variants),
        small=size["N"] * size["C"] <= 100,
    )


def _loss(
    op: str,
    N: int,
    C: int,
    arguments: Callable[[Logits], tuple[Any, ...]],
    ours: Function,
    oracle: Function,
    rivals: tuple[Function, Function, Callable[..., Tensors]],
    work: Work,
) -> Case:
    """rivals: as published, in PyTorch, and with the gradient by hand."""
    published, plain, by_hand = rivals
    variants = [
        Variant("clfast", "clfast", with_gradients(ours, 1), arguments),
        Variant("autograd, as published", "loop", with_gradients(published, 1), arguments),
        Variant("autograd", "torch", with_gradients(plain, 1), arguments),
        Variant("grad_and_value, compiled", "compiled", value_and_gradient(plain), arguments),
        *forms("by hand", by_hand, arguments),
    ]
    size = {"N": N, "C": C}
    return _case(op, size, _logits(N, C), arguments, variants, with_gradients(oracle, 1), work)


def distillation_loss(N: int, C: int) -> Case:
    """From a teacher of C / 2 classes."""
    return _loss(
        *("distillation_loss", N, C, lambda x: (x.student, x.teacher)),
        lambda s, t: ops.distillation_loss(s, t, TEMPERATURE),
        lambda s, t: reference.exemplars.distillation_loss(s, t, TEMPERATURE),
        (
            opponents.distillation_as_published,
            opponents.distillation_value,
            opponents.distillation_by_hand,
        ),
        Work(FLOAT * N * C, FLOAT * N * C, 25 * N * C // 2),
    )


def margin_ranking_loss(N: int, C: int) -> Case:
    """Against C / 2 new classes."""
    return _loss(
        *("margin_ranking_loss", N, C, lambda x: (x.student, x.labels, x.new_classes)),
        lambda *x: ops.margin_ranking_loss(*x, margin=MARGIN, k=K),
        lambda *x: reference.exemplars.margin_ranking_loss(*x, margin=MARGIN, k=K),
        (opponents.ranking_as_published, opponents.ranking_value, opponents.ranking_by_hand),
        Work(FLOAT * N * C // 2, FLOAT * N * C, N * C),
    )


def _head(
    op: str,
    size: dict[str, int],
    inputs: Callable[[Generator], Any],
    arguments: Callable[[Any], tuple[Any, ...]],
    ours: Function,
    oracle: Function,
    rivals: tuple[tuple[str, Function], tuple[str, Function]],
    work: Work,
) -> Case:
    """Differentiable in three tensors; rivals: as published and in PyTorch, by name."""
    (first, published), (second, plain) = rivals
    variants = [
        Variant("clfast", "clfast", pulled_back(ours, 3), arguments),
        Variant(first, "loop", pulled_back(published, 3), arguments),
        Variant(second, "torch", pulled_back(plain, 3), arguments),
        *(
            Variant(f"{name}, vjp, compiled", "compiled", pulled_back_by_func(f, 3), arguments)
            for name, f in rivals
        ),
    ]
    return _case(op, size, inputs, arguments, variants, pulled_back(oracle, 3), work)


class Features(NamedTuple):
    features: Tensor  # [N, d]
    weight: Tensor  # [C, d]
    scale: Tensor
    upstream: Tensor  # [N, C]


def cosine_logits(N: int, C: int, d: int) -> Case:
    def make(generator: Generator) -> Features:
        return Features(
            torch.randn(N, d, generator=generator),
            torch.randn(C, d, generator=generator),
            torch.tensor(3.0),
            torch.randn(N, C, generator=generator),
        )

    rows = FLOAT * (N + C) * d
    return _head(
        *("cosine_logits", {"N": N, "C": C, "d": d}, make, tuple),
        *(ops.cosine_logits, reference.exemplars.cosine_logits),
        (
            ("F.normalize and F.linear", opponents.cosines_as_published),
            ("product scaled behind", opponents.cosines_scaled_behind),
        ),
        Work(rows + FLOAT * N * C, rows + FLOAT * N * C, 6 * N * C * d),
    )


def bias_correct(N: int, C: int) -> Case:
    """Of C / 2 new classes."""
    return _head(
        *("bias_correct", {"N": N, "C": C}, _logits(N, C)),
        lambda x: (x.student, x.scale, x.shift, x.new_classes, x.upstream),
        lambda z, scale, shift, new: ops.bias_correct(z, new, scale, shift),
        lambda z, scale, shift, new: reference.exemplars.bias_correct(z, new, scale, shift),
        (
            ("slices and torch.cat", opponents.correction_as_published),
            ("torch.where", opponents.correction_by_mask),
        ),
        Work(3 * FLOAT * N * C, 2 * FLOAT * N * C, 6 * N * C),
    )


CASES = [
    distillation_loss(10, 10),
    distillation_loss(128, 100),
    distillation_loss(128, 1000),
    margin_ranking_loss(10, 10),
    margin_ranking_loss(128, 100),
    margin_ranking_loss(128, 1000),
    cosine_logits(10, 10, 16),
    cosine_logits(128, 100, 64),
    cosine_logits(128, 100, 512),
    cosine_logits(128, 1000, 512),
    bias_correct(10, 10),
    bias_correct(128, 100),
    bias_correct(128, 1000),
]
