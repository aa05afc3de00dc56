"""A step of exemplars through the training of a network on them (Mnemonics, Eq. 8 and 9): the
gradient of the loss of real images after T steps of gradient descent.

The network is a residual one of three blocks, in eval mode with running statistics of real images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.func import functional_call

from clfast.methods.mnemonics import unrolled_sgd
from clfast.nn.resnet import BasicBlock

from ..case import Case, Kind, Variant, Work, relative_error

CLASSES, REAL, RATE = 10, 64, 0.01
Params = dict[str, Tensor]


class Images(NamedTuple):
    exemplars: Tensor  # [M, 3, size, size]
    real: Tensor  # [REAL, 3, size, size]


class Problem:
    """The losses of images, in their dtype and on their device."""

    def __init__(self, network: nn.Module, images: Images) -> None:
        self.network = copy.deepcopy(network).to(images.exemplars)
        self.images = images

    @property
    def params(self) -> Params:
        return {name: p.detach() for name, p in self.network.named_parameters()}

    def inner(self, params: Params, exemplars: Tensor) -> Tensor:
        return self._loss(params, exemplars)

    def outer(self, params: Params) -> Tensor:
        return self._loss(params, self.images.real)

    def _loss(self, params: Params, x: Tensor) -> Tensor:
        labels = torch.arange(len(x), device=x.device) % CLASSES
        return F.cross_entropy(functional_call(self.network, params, (x,)), labels)


def swept(problem: Problem, steps: int) -> Tensor:
    exemplars = problem.images.exemplars
    return unrolled_sgd(
        *(problem.inner, problem.outer, problem.params, exemplars), steps=steps, lr=RATE
    )[1]


@torch.enable_grad()
def at_once(problem: Problem, steps: int) -> Tensor:
    """One graph of all steps."""
    exemplars = problem.images.exemplars.clone().requires_grad_()
    params = {name: p.clone().requires_grad_() for name, p in problem.params.items()}
    for _ in range(steps):
        loss = problem.inner(params, exemplars)
        found = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {n: p - RATE * g for (n, p), g in zip(params.items(), found, strict=True)}
    return torch.autograd.grad(problem.outer(params), exemplars)[0]


@torch.enable_grad()
def step_by_step(problem: Problem, steps: int) -> Tensor:
    """The graph of each step made again and differentiated twice, as in dataset distillation."""
    exemplars = problem.images.exemplars.clone().requires_grad_()
    points = [problem.params]
    for _ in range(steps):
        at = {name: p.requires_grad_() for name, p in points[-1].items()}
        found = torch.autograd.grad(problem.inner(at, exemplars.detach()), list(at.values()))
        moved = [p.detach() - RATE * g for p, g in zip(at.values(), found, strict=True)]
        points.append(dict(zip(at, moved, strict=True)))
    last = {name: p.requires_grad_() for name, p in points.pop().items()}
    flow = list(torch.autograd.grad(problem.outer(last), list(last.values())))
    total = torch.zeros_like(exemplars)
    while points:
        inputs = list(points.pop().values())
        at = dict(zip(last, inputs, strict=True))
        found = torch.autograd.grad(problem.inner(at, exemplars), inputs, create_graph=True)
        *moved, into = torch.autograd.grad(
            found, [*inputs, exemplars], [-RATE * each for each in flow]
        )
        flow = [a + b for a, b in zip(flow, moved, strict=True)]
        total += into
    return total


def bilevel_step(
    name: str, width: int, exemplars: int, steps: int, tolerance: float, size: int = 32
) -> Case:
    """Through many steps float32 loses digits in any order: opponents have this tolerance, too."""

    @lru_cache
    def network() -> nn.Module:
        """The same in every process and for all who compete."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(
                nn.Conv2d(3, width, 3, 1, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                BasicBlock(width, width, 1),
                BasicBlock(width, 2 * width, 2),
                BasicBlock(2 * width, 4 * width, 2),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4 * width, CLASSES),
            )
            for _ in range(20):
                model(torch.rand(REAL, 3, size, size))
            return model.eval()

    def inputs(generator: Generator) -> Images:
        return Images(
            torch.rand(exemplars, 3, size, size, generator=generator),
            torch.rand(REAL, 3, size, size, generator=generator),
        )

    def oracle(x: Images) -> Tensor:
        wide = Images(x.exemplars.double(), x.real.double())
        return at_once(Problem(network(), wide), steps)

    def variant(name: str, kind: Kind, function: Callable[[Problem, int], Tensor]) -> Variant:
        def arguments(x: Images) -> tuple[Any, ...]:
            return Problem(network(), x), steps

        return Variant(name, kind, function, arguments)

    return Case(
        op="unrolled_sgd",
        size={"network": name, "M": exemplars, "T": steps},
        inputs=inputs,
        oracle=oracle,
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=tolerance,
        # What a network needs is torch's affair.
        work=lambda _: Work(0, 0),
        memory=True,
        variants=(
            variant("clfast", "clfast", swept),
            variant("double backward", "torch", at_once),
            variant("double backward, step by step", "loop", step_by_step),
        ),
    )
