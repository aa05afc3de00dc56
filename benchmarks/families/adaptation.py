"""Cases of `clfast.ops.adaptation`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clfast import ops, reference

from ..case import Case, Variant, Work, forms, in_chunks, relative_error
from ..opponents import adaptation as opponents
from ..opponents import adaptation_loops as loops
from ..opponents.adaptation import Batch, Layer, Memory, Rule
from ._adaptation_inputs import Adaptation, Sizes, in_float64, make, touched

FLOAT, INDEX = 4, 8  # bytes

# Steps of RMSprop and of SGD that change the logits by amounts of the same order.
RATES = {"rmsprop": 1e-3, "sgd": 0.1}
THETA, GAMMA, BETA = 5.0, 0.3, 0.9


def _neighbors(batch: Batch) -> ops.Neighbors:
    return ops.Neighbors(batch.sq_distances, batch.indices)


def _case(
    op: str,
    size: dict[str, int | str],
    sizes: Sizes,
    variants: list[Variant],
    expected: Callable[[Adaptation], Any],
    work: Callable[[Adaptation], Work],
    *,
    error: Callable[[Any, Any, Any], float] = lambda out, expected, _: relative_error(
        out, expected
    ),
) -> Case:
    return Case(
        op=op,
        size={key: value for key, value in sizes._asdict().items() if key != "M"} | size,
        inputs=lambda generator: make(generator, sizes),
        oracle=lambda x: expected(in_float64(x)),
        error=error,
        tolerance=1e-4,
        work=work,
        variants=tuple(variants),
        small=sizes.M < 60_000,
    )


# --- hebb_logits ----------------------------------------------------------------------------------


def _hebb_logits(
    batch: Batch,
    memory: Memory,
    layer: Layer,
    interpolation: Tensor,
    rule: Rule,
    base_logits: Tensor | None,
) -> Tensor:
    return ops.hebb_logits(
        *(batch.queries, layer.weight, layer.bias, memory.keys, memory.labels),
        _neighbors(batch),
        interpolation=interpolation,
        **rule._asdict(),
        key_sq_norms=memory.key_sq_norms,
        base_logits=base_logits,
    )


def _hebb_oracle(x: Adaptation, rule: Rule) -> Tensor:
    def some(batch: Batch) -> Tensor:
        return reference.adaptation.hebb_logits(
            *(batch.queries, *x.layer, x.memory.keys, x.memory.labels, _neighbors(batch)),
            interpolation=x.interpolation,
            **rule._asdict(),
        )

    result: Tensor = in_chunks(some, 10)(x.batch)
    return result


def _hebb_error(output: Tensor, expected: Tensor, x: Adaptation) -> float:
    """Relative to what the adaptation changes, not to the logits."""
    base = F.linear(x.batch.queries.double(), x.layer.weight.double(), x.layer.bias.double())
    return float((output.double() - expected).norm() / (expected - base).norm())


def hebb_logits(sizes: Sizes, optimizer: Literal["rmsprop", "sgd"], steps: int = 5) -> Case:
    """Queries in, logits out: MbPA, the Hebbian part and the base logits."""
    B, K, d, C, _ = sizes
    rule = Rule(steps, optimizer, RATES[optimizer])
    arguments = lambda x: (*x, rule)  # noqa: E731
    chunk = 10 if B > 10 else None
    variants = [
        Variant("clfast", "clfast", _hebb_logits, lambda x: (*x, rule, None)),
        Variant("loop", "loop", loops.hebb, _with_linear(rule)),
        *forms("batched", opponents.hebb, arguments, chunk=chunk),
    ]
    # A step is two products; every query's result is one more, and so are the base logits.
    flops = B * (4 * steps * K * d * C + 4 * d * C)
    if optimizer == "sgd" and d >= K:
        variants += forms("batched Gram", opponents.hebb_gram, arguments, chunk=chunk)
        gram = K * K * d + 2 * K * d * C + 2 * (steps - 1) * K * K * C + 2 * K * C + 2 * d * C
        flops = min(flops, B * gram)
    return _case(
        "hebb_logits",
        {"optimizer": optimizer, "steps": steps},
        sizes,
        variants,
        lambda x: _hebb_oracle(x, rule),
        lambda x: Work(
            touched(x, FLOAT * d + INDEX + FLOAT)
            + B * (FLOAT * d + (FLOAT + INDEX) * K)
            + FLOAT * C * (d + 2),
            FLOAT * B * C,
            flops,
        ),
        error=_hebb_error,
    )


def hebbian_logits(sizes: Sizes, *, base_given: bool) -> Case:
    """The Hebbian part alone, with the base logits given or computed."""
    B, K, d, C, _ = sizes
    rule = Rule(0, "sgd", 0.0)
    arguments = lambda x: (*x, rule)  # noqa: E731
    variants = [Variant("loop", "loop", loops.hebb, _with_linear(rule))]
    if base_given:
        variants += [
            Variant(
                "clfast",
                "clfast",
                _hebb_logits,
                lambda x: (*x, rule, x.batch.base_logits),
            ),
            *forms("scatter_add, no gather", opponents.hebbian, arguments),
            *forms("gather, bmm", opponents.hebbian_by_gather, arguments),
        ]
    else:
        variants += [
            Variant("clfast", "clfast", _hebb_logits, lambda x: (*x, rule, None)),
            *forms("scatter_add, no gather", opponents.hebbian_with_base, arguments),
        ]
    base = Work(FLOAT * B * C, 0) if base_given else Work(FLOAT * C * (d + 1), 0, 2 * B * d * C)
    return _case(
        "hebb_logits",
        {"steps": 0, "base": "base given" if base_given else "base computed"},
        sizes,
        variants,
        lambda x: _hebb_oracle(x, rule),
        lambda x: Work(
            touched(x, FLOAT + INDEX)
            + B * (FLOAT * d + (FLOAT + INDEX) * K)
            + FLOAT * C
            + base.read,
            FLOAT * B * C,
            # A few operations a neighbour, and the squared norm of each query.
            base.flops + B * (2 * d + 8 * K),
        ),
        error=_hebb_error,
    )


def _with_linear(rule: Rule) -> Callable[[Adaptation], tuple[Any, ...]]:
    return lambda x: (x.batch, x.memory, loops.as_linear(x.layer), x.interpolation, rule)


# --- the updates ----------------------------------------------------------------------------------


def mbpa_update(sizes: Sizes, optimizer: Literal["rmsprop", "sgd"], steps: int = 5) -> Case:
    B, K, d, C, _ = sizes
    rule = Rule(steps, optimizer, RATES[optimizer])
    options: dict[str, Any] = {"steps": steps, "lr": rule.lr, "optimizer": optimizer}
    options["eps"] = rule.eps

    def update(batch: Batch, memory: Memory, layer: Layer) -> tuple[Tensor, Tensor]:
        return ops.mbpa_update(*layer, memory.keys, memory.labels, _neighbors(batch), **options)

    def expected(x: Adaptation) -> tuple[Tensor, Tensor]:
        def some(batch: Batch) -> tuple[Tensor, Tensor]:
            return reference.adaptation.mbpa_update(
                *x.layer, x.memory.keys, x.memory.labels, _neighbors(batch), **options
            )

        result: tuple[Tensor, Tensor] = in_chunks(some, 10)(x.batch)
        return result

    arguments = lambda x: (x.batch, x.memory, x.layer, rule)  # noqa: E731
    with_linear = lambda x: (x.batch, x.memory, loops.as_linear(x.layer), rule)  # noqa: E731
    chunk = 10 if B > 10 else None
    variants = [
        Variant("clfast", "clfast", update, lambda x: (x.batch, x.memory, x.layer)),
        Variant("loop", "loop", loops.mbpa_update, with_linear),
        *forms("batched", opponents.mbpa_update, arguments, chunk=chunk),
    ]
    flops = B * 4 * steps * K * d * C
    if optimizer == "sgd" and d >= K:
        variants += forms("batched Gram", opponents.mbpa_update_gram, arguments, chunk=chunk)
        gram = K * K * d + 4 * K * d * C + 2 * (steps - 1) * K * K * C
        flops = min(flops, B * gram)
    return _case(
        "mbpa_update",
        {"optimizer": optimizer, "steps": steps},
        sizes,
        variants,
        expected,
        lambda x: Work(
            touched(x, FLOAT * d + INDEX) + B * (FLOAT + INDEX) * K + FLOAT * C * (d + 1),
            FLOAT * B * C * (d + 1),
            flops,
        ),
    )


def hebbian_update(sizes: Sizes) -> Case:
    B, K, d, C, _ = sizes
    rule = Rule(0, "sgd", 0.0)

    def update(batch: Batch, memory: Memory) -> tuple[Tensor, Tensor]:
        return ops.hebbian_update(memory.keys, memory.labels, _neighbors(batch), C, eps=rule.eps)

    arguments = lambda x: (x.batch, x.memory, C, rule)  # noqa: E731
    chunk = 10 if B > 10 else None
    return _case(
        "hebbian_update",
        {},
        sizes,
        [
            Variant("clfast", "clfast", update, lambda x: (x.batch, x.memory)),
            Variant("loop", "loop", loops.hebbian_update, arguments),
            *forms("membership bmm", opponents.hebbian_update, arguments, chunk=chunk),
            *forms("index_add", opponents.hebbian_update_index_add, arguments, chunk=chunk),
        ],
        lambda x: reference.adaptation.hebbian_update(
            x.memory.keys, x.memory.labels, _neighbors(x.batch), C, eps=rule.eps
        ),
        lambda x: Work(
            touched(x, FLOAT * d + INDEX) + B * (FLOAT + INDEX) * K,
            FLOAT * B * C * (d + 1),
            2 * B * K * d,
        ),
    )


# --- mixture_log_probs and interpolation_weights --------------------------------------------------


def mixture_log_probs(sizes: Sizes) -> Case:
    B, K, d, C, _ = sizes

    def mixed(batch: Batch, memory: Memory) -> Tensor:
        return ops.mixture_log_probs(
            *(batch.base_logits, batch.queries, memory.keys, memory.labels, _neighbors(batch)),
            theta=THETA,
            gamma=GAMMA,
            key_sq_norms=memory.key_sq_norms,
        )

    arguments = lambda x: (x.batch, x.memory, THETA, GAMMA)  # noqa: E731
    return _case(
        "mixture_log_probs",
        {},
        sizes,
        [
            Variant("clfast", "clfast", mixed, lambda x: (x.batch, x.memory)),
            Variant("loop", "loop", loops.mixture, arguments),
            *forms("scatter_add, no gather", opponents.mixture, arguments),
            *forms("gather, bmm", opponents.mixture_by_gather, arguments),
        ],
        lambda x: reference.adaptation.mixture_log_probs(
            *(x.batch.base_logits, x.batch.queries, x.memory.keys, x.memory.labels),
            _neighbors(x.batch),
            theta=THETA,
            gamma=GAMMA,
        ),
        lambda x: Work(
            touched(x, FLOAT + INDEX) + B * (FLOAT * (d + C) + (FLOAT + INDEX) * K),
            FLOAT * B * C,
            B * (2 * d + 8 * (K + C)),
        ),
    )


def interpolation_weights(C: int, *, small: bool = False) -> Case:
    class Counts(NamedTuple):
        counts: Tensor  # [C]

    return Case(
        op="interpolation_weights",
        size={"C": C},
        inputs=lambda generator: Counts(torch.randint(20, (C,), generator=generator)),
        oracle=lambda x: reference.adaptation.interpolation_weights(
            x.counts, BETA, dtype=torch.float64
        ),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-6,
        work=lambda _: Work(INDEX * C, FLOAT * C, 3 * C),
        variants=(
            Variant("clfast", "clfast", ops.interpolation_weights, lambda x: (x.counts, BETA)),
            Variant("loop", "loop", loops.interpolation_weights, lambda x: (x.counts, BETA)),
            *forms("torch", opponents.interpolation_weights, lambda x: (x.counts, BETA)),
        ),
        small=small,
    )


SMALL = Sizes(B=3, K=7, d=33, C=5, M=103)
SIZES = [Sizes(100, 200, 512, 100), Sizes(100, 200, 2048, 100), Sizes(100, 200, 64, 10)]
# The classes of a word-level language model.
WORDS = Sizes(100, 200, 512, 10_000)
OPTIMIZERS: tuple[Literal["rmsprop", "sgd"], ...] = ("rmsprop", "sgd")

CASES = [
    *(hebb_logits(sizes, optimizer) for optimizer in OPTIMIZERS for sizes in [*SIZES, SMALL]),
    hebb_logits(WORDS._replace(B=10), "sgd"),
    *(hebbian_logits(sizes, base_given=True) for sizes in [*SIZES, WORDS, SMALL]),
    *(hebbian_logits(sizes, base_given=False) for sizes in SIZES[:2]),
    *(mbpa_update(sizes, optimizer) for optimizer in OPTIMIZERS for sizes in [SIZES[0], SMALL]),
    *(hebbian_update(sizes) for sizes in [SIZES[0], SMALL]),
    *(mixture_log_probs(sizes) for sizes in [*SIZES[:2], WORDS, SMALL]),
    interpolation_weights(1000),
    interpolation_weights(10, small=True),
]
