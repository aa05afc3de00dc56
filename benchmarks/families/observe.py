"""Whole steps of methods that train a network: from a batch to the parameters after it.

ARM at the sizes of its authors: a network of three layers on MNIST, with as many recalled images as
the batch has, and a ResNet-18 of a third of the usual width on CIFAR-10, with ten times as many.
The step is the first of the second task: every call first sets the network back to what it was
after the first task, in the time of all variants alike, so that each does the same and none trains
on one batch for ever. The peak of memory is measured, too, see `benchmarks.memory`. DGM's iteration
is in `_dgm_iteration`, a step of exemplars through the training of a network in `_bilevel_step`;
`_chains` has the runs of both networks that ARM's steps on images consist of.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from clfast import reference
from clfast.methods import ARM
from clfast.nn import resnet18

from ..baselines.arm import AS_PUBLISHED, VECTORISED, Losses, PlainARM, compiled
from ..case import Case, Kind, Variant, Work
from . import _chains
from ._bilevel_step import bilevel_step
from ._dgm_iteration import dgm_iteration

N, STEPS, CLASSES = 10, 10, 10
MLP = "784-400-400-10"


class Batch(NamedTuple):
    x: Tensor  # [N, ...]
    y: Tensor  # [N]


def _in_a_row(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def step(learner: ARM | PlainARM, x: Tensor, y: Tensor) -> Tensor:
    """All parameters after it."""
    assert learner.old is not None
    with torch.no_grad():
        before = learner.old.parameters()
        for parameter, value in zip(learner.model.parameters(), before, strict=True):
            parameter.copy_(value)
    learner.observe(x, y)
    return _in_a_row(learner.model)


def _of_reference() -> Losses:
    """For the oracle, which shares no formula with the baselines."""
    of = reference.recall
    return Losses(
        lambda old, new, now, images: of.recall_loss(old, new, now) + of.image_prior(images),
        of.soft_cross_entropy,
    )


def arm(
    network: str,
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    *,
    rate: float,
    tolerance: float,
    layout: torch.memory_format = torch.contiguous_format,
    **options: Any,
) -> Case:
    """`make` and `rate`, of SGD, make the network and its optimizer; `layout` is of images and
    weights; `options` are ARM's."""

    @lru_cache
    def start() -> nn.Module:
        """The same in every process and for all who compete."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return make()

    def after_the_first_task(losses: Losses | None, x: Tensor) -> ARM | PlainARM:
        """In the dtype and on the device of x, with the same draws; clfast's is without losses."""
        model = copy.deepcopy(start()).to(x).to(memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        own = {**options, "steps": STEPS, "generator": torch.Generator().manual_seed(0)}
        learner: ARM | PlainARM
        if losses is None:
            learner = ARM(model, optimizer, **own)
        else:
            learner = PlainARM(model, optimizer, losses, **own)
        learner.on_task_end()
        return learner

    in_memory = {} if layout is torch.contiguous_format else {"layout": "channels_last"}

    def inputs(generator: Generator) -> Batch:
        x = torch.rand(N, *shape, generator=generator).to(memory_format=layout)
        return Batch(x, torch.arange(N) % 2 + 2)

    def oracle(x: Batch) -> Tensor:
        wide = x.x.double()
        return step(after_the_first_task(_of_reference(), wide), wide, x.y)

    def error(output: Tensor, expected: Tensor, _: Batch) -> float:
        """Of what the step changed."""
        change = expected - _in_a_row(start()).to(expected)
        return float((output - expected).norm() / change.norm())

    def variant(name: str, kind: Kind, losses: Callable[[], Losses | None]) -> Variant:
        return Variant(name, kind, step, lambda x: (after_the_first_task(losses(), x.x), *x))

    return Case(
        op="ARM.observe",
        size={"network": network, "N": N, "M": options["images"], "S": STEPS, **in_memory},
        inputs=inputs,
        oracle=oracle,
        error=error,
        tolerance=tolerance,
        # What a network needs is torch's affair.
        work=lambda _: Work(0, 0),
        memory=True,
        variants=(
            variant("clfast", "clfast", lambda: None),
            variant("vectorised", "torch", lambda: VECTORISED),
            variant("vectorised, losses compiled", "torch", compiled),
            variant("as published", "loop", lambda: AS_PUBLISHED),
        ),
    )


def _mlp() -> nn.Module:
    hidden = (nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU())
    return nn.Sequential(*hidden, nn.Linear(400, CLASSES))


def _resnet(layout: torch.memory_format) -> Case:
    """The images' step size is a hundredth of the authors' 10, which takes the same time: at theirs
    rounding grows so much, in ten steps through so deep a network, that nothing could be judged.
    tests/methods/test_arm.py has the equality in float64."""
    return arm(
        *("ResNet-18", lambda: resnet18(CLASSES, width=20), (3, 32, 32)),
        rate=0.01,
        tolerance=3e-2,
        layout=layout,
        images=100,
        lr=0.1,
    )


CASES = [
    arm(
        *(MLP, _mlp, (784,)),
        rate=0.05,
        tolerance=1e-3,
        images=10,
        lr=25.0,
        image_shape=(1, 28, 28),
    ),
    _resnet(torch.contiguous_format),
    # What PyTorch is faster with on a CPU, too.
    _resnet(torch.channels_last),
    *(dgm_iteration(small) for small in (True, False)),
    bilevel_step("narrow", width=2, exemplars=5, steps=3, tolerance=1e-3, size=8),
    bilevel_step("ResNet-8", width=16, exemplars=20, steps=50, tolerance=0.05),
    *_chains.CASES,
]
