"""Cases of `clfast.ops.optimizers`: steps over parameters of their own, as functions of lists and
in the optimisers of `clfast.optim`. Parameters and moments move on from call to call, which changes
nothing of the work."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator

from clfast import ops, optim, reference

from ..case import Case, Kind, Variant, Work, in_float64, relative_error
from ..opponents import optimizers as opponents
from ..opponents.masks import Tensors
from ..opponents.optimizers import BETA1, BETA2, EPS, LR, MOMENTUM, STEP
from ._masked_networks import (
    NETWORKS,
    Shapes,
    elements_of,
    random_masks,
    random_tensors,
)

FLOAT = 4  # bytes

Moments = tuple[Tensors, ...]
State = tuple[Tensors, Moments]  # parameters and moments, as a step leaves them


class Step(NamedTuple):
    params: Tensors
    grads: Tensors
    moments: Moments  # 0 where reserved, as of an optimiser that was made for the task
    reserved: Tensors


class Gradients(NamedTuple):
    grads: Tensors
    reserved: Tensors


def _copies(tensors: Tensors) -> Tensors:
    return tuple(tensor.clone() for tensor in tensors)


def _packed(reserved: Tensors) -> Tensors:
    return tuple(map(ops.pack_mask, reserved))


def _free(reserved: Tensors) -> Tensors:
    return tuple((~mask).float() for mask in reserved)


# --- steps ----------------------------------------------------------------------------------------


def _of_lists(
    name: str,
    kind: Kind,
    step: Callable[..., None],
    masks: Callable[[Tensors], Tensors],
    others: Callable[[Step], tuple[Any, ...]] = lambda _: (),
) -> Variant:
    """step: of parameters, gradients, moments, masks, and what `others` makes."""

    def run(params: Tensors, grads: Tensors, moments: Moments, *given: Any) -> State:
        step(params, grads, moments, *given)
        return params, moments

    def own(x: Step) -> tuple[Any, ...]:
        moments = tuple(map(_copies, x.moments))
        return _copies(x.params), _copies(x.grads), moments, masks(x.reserved), *others(x)

    return Variant(name, kind, run, own)


def _of_optimizer(
    name: str,
    kind: Kind,
    make: Callable[[Tensors, Tensors], torch.optim.Optimizer],
    step: Callable[[torch.optim.Optimizer, Tensors, Tensors], None],
    moments: tuple[str, ...],
) -> Variant:
    """make: of parameters and what is reserved of each. moments: names in the optimiser's state."""

    def run(
        optimizer: torch.optim.Optimizer, params: Tensors, free: Tensors, kept: Moments
    ) -> State:
        step(optimizer, params, free)
        return params, kept

    def own(x: Step) -> tuple[Any, ...]:
        params = tuple(p.requires_grad_() for p in _copies(x.params))
        for param, grad in zip(params, _copies(x.grads), strict=True):
            param.grad = grad
        optimizer = make(params, x.reserved)
        state = optimizer.state_dict()
        of_moments = dict(zip(moments, map(_copies, x.moments), strict=True))
        state["state"] = {
            i: {"step": torch.tensor(STEP - 1.0), **{m: kept[i] for m, kept in of_moments.items()}}
            for i in range(len(params))
        }
        optimizer.load_state_dict(state)
        kept = tuple(tuple(optimizer.state[p][name] for p in params) for name in moments)
        return optimizer, params, _free(x.reserved), kept

    return Variant(name, kind, run, own)


def _step(optimizer: torch.optim.Optimizer, params: Tensors, free: Tensors) -> None:
    optimizer.step()


def _error(output: State, expected: State, x: Step) -> float:
    """Of moments, and of how far parameters move; what is reserved may not move at all."""
    found = tuple(
        p.detach().double() - q.double() for p, q in zip(output[0], x.params, strict=True)
    )
    if any(bool(p.masked_select(r).any()) for p, r in zip(found, x.reserved, strict=True)):
        return math.inf
    return relative_error((found, output[1]), expected)


def _case(
    op: str,
    network: str,
    moments: Callable[[Shapes, Generator], Moments],
    step: Callable[..., None],
    variants: list[Variant],
    work: Callable[[int], Work],
) -> Case:
    """step: the reference's. work: of the number of elements."""
    shapes = NETWORKS[network]
    elements = elements_of(shapes)

    def make(generator: Generator) -> Step:
        reserved = random_masks(shapes, generator)
        found = moments(shapes, generator)
        return Step(
            *(random_tensors(shapes, generator), random_tensors(shapes, generator)),
            tuple(
                tuple(m.masked_fill(r, 0) for m, r in zip(each, reserved, strict=True))
                for each in found
            ),
            reserved,
        )

    def oracle(x: Step) -> State:
        given, before = in_float64(x), in_float64(x).params
        step(*given)
        moved = tuple(p - q for p, q in zip(given.params, before, strict=True))
        return moved, given.moments

    return Case(
        op=op,
        size={"tensors": len(shapes), "P": elements},
        inputs=make,
        oracle=oracle,
        error=_error,
        tolerance=1e-3,  # a step is small beside its parameter, in whose digits it is counted
        work=lambda _: work(elements),
        variants=tuple(variants),
        small=elements < 1000,
    )


def masked_sgd_step(network: str) -> Case:
    """With momentum."""

    def step(params: Tensors, grads: Tensors, moments: Moments, masks: Tensors) -> None:
        ops.masked_sgd_step_(params, grads, *moments, masks, lr=LR, momentum=MOMENTUM)

    def expected(params: Tensors, grads: Tensors, moments: Moments, masks: Tensors) -> None:
        reference.optimizers.masked_sgd_step_(
            params, grads, *moments, masks, lr=LR, momentum=MOMENTUM
        )

    def masked(params: Tensors, reserved: Tensors) -> torch.optim.Optimizer:
        masks = dict(zip(params, _packed(reserved), strict=True))
        return optim.MaskedSGD(params, LR, MOMENTUM, reserved=masks)

    def plain(params: Tensors, reserved: Tensors, **options: bool) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, LR, MOMENTUM, **options)

    in_optimizer = partial(_of_optimizer, moments=("momentum_buffer",))
    fused = partial(plain, fused=True)
    variants = [
        _of_lists("clfast", "clfast", step, _packed),
        in_optimizer("clfast, MaskedSGD", "clfast", masked, _step),
        in_optimizer("mask loop, SGD", "loop", plain, opponents.mask_loop_and_step),
        in_optimizer("foreach mask, fused SGD", "torch", fused, opponents.foreach_mask_and_step),
        *(
            _of_lists(f"{name} sgd of lists", "torch", opponents.sgd_of_lists, _free, how)
            for name, how in (("fused", lambda _: (True,)), ("foreach", lambda _: (False,)))
        ),
        _of_lists("by hand, compiled", "compiled", opponents.sgd_by_hand, tuple),
    ]
    return _case(
        "masked_sgd_step_",
        network,
        lambda shapes, g: (random_tensors(shapes, g),),
        expected,
        variants,
        lambda P: Work(3 * FLOAT * P + P // 8, 2 * FLOAT * P, 4 * P),
    )


def masked_adam_step(network: str) -> Case:
    def step(params: Tensors, grads: Tensors, moments: Moments, masks: Tensors) -> None:
        steps = [STEP] * len(params)
        betas = (BETA1, BETA2)
        ops.masked_adam_step_(
            params, grads, *moments, [], masks, steps=steps, lr=LR, betas=betas, eps=EPS
        )

    def expected(params: Tensors, grads: Tensors, moments: Moments, masks: Tensors) -> None:
        steps = [STEP] * len(params)
        reference.optimizers.masked_adam_step_(
            *(params, grads, *moments, [], masks),
            steps=steps,
            lr=LR,
            betas=(BETA1, BETA2),
            eps=EPS,
        )

    def masked(params: Tensors, reserved: Tensors) -> torch.optim.Optimizer:
        masks = dict(zip(params, _packed(reserved), strict=True))
        return optim.MaskedAdam(params, LR, (BETA1, BETA2), EPS, reserved=masks)

    def plain(params: Tensors, reserved: Tensors, **options: bool) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, LR, (BETA1, BETA2), EPS, **options)

    def moments(shapes: Shapes, generator: Generator) -> Moments:
        first, second = (random_tensors(shapes, generator) for _ in range(2))
        return first, tuple(tensor.square() for tensor in second)

    def counted(fused: bool) -> Callable[[Step], tuple[Any, ...]]:
        return lambda x: (fused, tuple(p.new_full((), STEP - 1.0) for p in x.params))

    in_optimizer = partial(_of_optimizer, moments=("exp_avg", "exp_avg_sq"))
    fused = partial(plain, fused=True)
    of_lists = opponents.adam_of_lists
    variants = [
        _of_lists("clfast", "clfast", step, _packed),
        in_optimizer("clfast, MaskedAdam", "clfast", masked, _step),
        in_optimizer("mask loop, Adam", "loop", plain, opponents.mask_loop_and_step),
        in_optimizer("foreach mask, fused Adam", "torch", fused, opponents.foreach_mask_and_step),
        _of_lists("fused adam of lists", "torch", of_lists, _free, counted(True)),
        _of_lists("foreach adam of lists", "torch", of_lists, _free, counted(False)),
        _of_lists("by hand, compiled", "compiled", opponents.adam_by_hand, tuple),
    ]
    return _case(
        *("masked_adam_step_", network, moments, expected, variants),
        lambda P: Work(4 * FLOAT * P + P // 8, 3 * FLOAT * P, 15 * P),
    )


# --- norm -----------------------------------------------------------------------------------------


def masked_grad_norm(network: str) -> Case:
    """Rivals mask gradients of their own in place, as the step behind it wants them."""
    shapes = NETWORKS[network]
    elements = elements_of(shapes)
    masked = lambda x: (_copies(x.grads), _free(x.reserved))  # noqa: E731
    return Case(
        op="masked_grad_norm",
        size={"tensors": len(shapes), "P": elements},
        inputs=lambda g: Gradients(random_tensors(shapes, g), random_masks(shapes, g)),
        oracle=lambda x: reference.optimizers.masked_grad_norm(*in_float64(x)),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-5,
        work=lambda _: Work(FLOAT * elements + elements // 8, 0, 2 * elements),
        variants=(
            Variant(
                *("clfast", "clfast", ops.masked_grad_norm),
                lambda x: (x.grads, _packed(x.reserved)),
            ),
            Variant("mask loop, norms in turn", "loop", opponents.norm_by_loop, masked),
            Variant("foreach mask, foreach norms", "torch", opponents.norm_by_foreach, masked),
            Variant("sums of squares", "torch", opponents.norm_by_squares, tuple),
            Variant("sums of squares, compiled", "compiled", opponents.norm_by_squares, tuple),
        ),
        small=elements < 1000,
    )


CASES = [
    *(masked_sgd_step(network) for network in NETWORKS),
    *(masked_adam_step(network) for network in NETWORKS),
    *(masked_grad_norm(network) for network in NETWORKS),
]
