"""Importances of the parameters of whole networks, from samples' gradients: `per_sample_fisher` and
`mas_importance`, which are PyTorch around runs of the network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from clfast import ops
from clfast.nn import resnet18

from ..case import Case, Variant, Work, forms, relative_error
from ..opponents import importance as opponents
from ..opponents.importance import Layers, Measure, Objective

CLASSES = 10


class Samples(NamedTuple):
    x: Tensor  # [N, ...]
    y: Tensor  # [N]


class Network(NamedTuple):
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    chunk: int  # samples, of torch.vmap: a few of some sizes were tried
    linear: bool = False  # linear layers and ReLU alone
    layout: torch.memory_format = torch.contiguous_format


def _mlp(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


SMALL = "MLP 6-5-4-10"
NETWORKS = {
    SMALL: Network(lambda: _mlp(6, 5, 4, CLASSES), (6,), 2, linear=True),
    "MLP 784-400-400-10": Network(lambda: _mlp(784, 400, 400, CLASSES), (784,), 16, linear=True),
    "ResNet-18, width 20": Network(lambda: resnet18(CLASSES, width=20), (3, 32, 32), 16),
    # What PyTorch is faster with on a CPU, too.
    "ResNet-18, width 20, channels_last": Network(
        lambda: resnet18(CLASSES, width=20), (3, 32, 32), 16, layout=torch.channels_last
    ),
}


def importance(
    op: str,
    network: str,
    samples: int,
    objective: Objective,
    measure: Measure,
    ours: Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]],
) -> Case:
    make, shape, chunk, linear, layout = NETWORKS[network]

    @lru_cache
    def start() -> nn.Module:
        """The same in every process and for all who compete, with statistics of such samples."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make()
            for _ in range(3):
                model(torch.randn(16, *shape))
            return model.eval()

    def inputs(generator: Generator) -> Samples:
        y = torch.randint(CLASSES, (samples,), generator=generator)
        x = torch.randn(samples, *shape, generator=generator)
        return Samples(x.to(memory_format=layout), y)

    def model_of(x: Tensor) -> nn.Module:
        return copy.deepcopy(start()).to(x).to(memory_format=layout)

    def oracle(x: Samples) -> Layers:
        wide = x.x.double()
        return opponents.by_loop(model_of(wide), objective, measure, wide, x.y)

    def given(x: Samples) -> tuple[Any, ...]:
        return model_of(x.x), objective, measure, *x

    variants = [
        Variant(
            "clfast",
            "clfast",
            lambda model, x, y: tuple(ours(model, x, y).values()),
            lambda x: (model_of(x.x), *x),
        ),
        Variant("batches of one", "loop", opponents.by_loop, given),
        Variant("torch.func.vmap", "torch", opponents.by_vmap, lambda x: (*given(x), samples)),
        Variant(
            f"torch.func.vmap, {chunk} at a time",
            "torch",
            opponents.by_vmap,
            lambda x: (*given(x), chunk),
        ),
    ]
    if linear and op == "per_sample_fisher":
        variants += forms(
            "products of squares by hand",
            opponents.fisher_by_products,
            lambda x: (tuple(p.detach() for p in model_of(x.x).parameters()), *x),
        )
    return Case(
        op=op,
        size={"network": network, "N": samples},
        inputs=inputs,
        oracle=oracle,
        error=lambda output, expected, _: relative_error(output, expected),
        # In float32 a unit of a deep network may be on the other side of 0.
        tolerance=1e-3,
        # What a network needs is torch's affair.
        work=lambda _: Work(0, 0),
        variants=tuple(variants),
        small=network == SMALL,
        memory=True,
    )


def fisher(network: str, samples: int) -> Case:
    return importance(
        *("per_sample_fisher", network, samples),
        *(opponents.log_likelihood, torch.square),
        ops.per_sample_fisher,
    )


def mas(network: str, samples: int) -> Case:
    return importance(
        *("mas_importance", network, samples),
        *(opponents.squared_norm, torch.abs),
        lambda model, x, _: ops.mas_importance(model, x),
    )


CASES = [
    make(network, 3 if network == SMALL else 128) for make in (fisher, mas) for network in NETWORKS
]
