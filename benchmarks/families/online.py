"""Online adaptation end to end, as section B.2 of the Hebb paper times it: from images to
log-probabilities, through a network, the memory and the adaptation of the output layer.

What a method costs over Parametric hangs on the network: one is a single layer, the other a
ResNet-18 for images of 32x32, which costs what the paper's does. Their weights are random, which
changes no time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from clfast.experiments.naive import naive_scores
from clfast.memory import KeyValueMemory
from clfast.methods import Hebb, MbPA, Mixture, Parametric

from ..case import Case, Variant, Work
from ..opponents import online as opponents
from ..opponents.adaptation import Layer, Memory, Rule

Method = Literal["Parametric", "Mixture", "MbPA", "Hebb"]
Network = Literal["one layer", "ResNet-18"]
METHODS: tuple[Method, ...] = ("Parametric", "Mixture", "MbPA", "Hebb")
NETWORKS: tuple[Network, ...] = ("one layer", "ResNet-18")
# Table 8 of the paper, ResnetV1: seconds of one run.
PAPER = {"Parametric": 45.5, "Mixture": 51.4, "MbPA": 65.5, "Hebb": 67.7}

SIDE, DIM, CLASSES, ROWS, K = 32, 512, 100, 25_000, 200
THETA, GAMMA, BETA, ETA = 1.0, 0.1, 0.5, 1.5
RULE = Rule(5, "rmsprop", 1e-4, eta=ETA)
FLOAT = 4  # bytes


class Online(NamedTuple):
    x: Tensor  # [B, 3, 32, 32]
    keys: Tensor  # [M, d]
    labels: Tensor  # [M]


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.around: nn.Module = nn.Identity()
        if inside != outside:
            convolution = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.around = nn.Sequential(convolution, nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.around(x))


def _resnet18() -> nn.Module:
    """He et al. 2016, with the first layer that images of 32x32 take."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    width = 64
    for outside in (64, 128, 256, DIM):
        layers += [_Block(width, outside, 1 if outside == 64 else 2), _Block(outside, outside, 1)]
        width = outside
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@lru_cache
def network_and_head(kind: Network) -> tuple[nn.Module, nn.Linear]:
    """The same in every process and for all who compete."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = (
            _resnet18()
            if kind == "ResNet-18"
            else nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, DIM), nn.ReLU())
        )
        head = nn.Linear(DIM, CLASSES)
    return network.eval().requires_grad_(False), head.requires_grad_(False)


def learner(method: Method, kind: Network, x: Online, dtype: torch.dtype) -> Parametric:
    """With copies of the network and the head, and a memory of its own."""
    network, head = (copy.deepcopy(part).to(dtype) for part in network_and_head(kind))
    memory = KeyValueMemory(DIM, dtype=dtype)
    memory.add(x.keys.to(dtype), x.labels)
    adapted: dict[str, Any] = {"k": K, "eps": RULE.eps, "steps": RULE.steps, "lr": RULE.lr}
    if method == "Parametric":
        return Parametric(network, head, memory)
    if method == "Mixture":
        return Mixture(network, head, memory, k=K, theta=THETA, gamma=GAMMA)
    if method == "MbPA":
        return MbPA(network, head, memory, **adapted)
    return Hebb(network, head, memory, beta=BETA, eta=ETA, base_classes=(), **adapted)


def predict(method: Method, kind: Network, B: int) -> Case:
    def inputs(generator: Generator) -> Online:
        """An image of each class, and others like it; keys like the features of the first."""
        centres = torch.rand(CLASSES, 3, SIDE, SIDE, generator=generator)
        of = torch.randint(CLASSES, (B,), generator=generator)
        x = centres[of] + 0.1 * torch.randn(B, 3, SIDE, SIDE, generator=generator)
        features = network_and_head(kind)[0](centres)
        labels = torch.randint(CLASSES, (ROWS,), generator=generator)
        noise = torch.randn(ROWS, DIM, generator=generator)
        return Online(x, (features[labels] + 0.5 * features.std() * noise).relu(), labels)

    def expected(x: Online) -> Tensor:
        double = learner(method, kind, x, torch.float64)
        scores = naive_scores(double, x.x.double())
        if scores is None:  # without neighbours there is no loop
            return double.predict_log_proba(x.x.double())
        return scores.log_softmax(1)

    def torch_arguments(x: Online) -> tuple[Any, ...]:
        network, head = network_and_head(kind)
        memory = Memory(x.keys, x.labels, x.keys.square().sum(1))
        shared = (x.x, network, Layer(head.weight, head.bias))
        counts = torch.bincount(x.labels, minlength=CLASSES)
        interpolation = (1 - BETA) / (1 - BETA ** counts.double())
        return {
            "Parametric": shared,
            "Mixture": (*shared, memory, K, THETA, GAMMA),
            "MbPA": (*shared, memory, K, RULE),
            "Hebb": (*shared, memory, K, RULE, interpolation.float()),
        }[method]

    rivals: dict[Method, Callable[..., Tensor]] = {
        "Parametric": opponents.parametric,
        "Mixture": opponents.mixture,
        "MbPA": opponents.mbpa,
        "Hebb": opponents.hebb,
    }
    variants = [
        Variant(
            "clfast",
            "clfast",
            lambda learner, x: learner.predict_log_proba(x),
            lambda x: (learner(method, kind, x, torch.float32), x.x),
            devices=("cpu",),
        ),
        Variant("batched", "torch", rivals[method], torch_arguments, devices=("cpu",)),
    ]
    if method != "Parametric":
        variants.append(
            Variant(
                "loop",
                "loop",
                lambda learner, x: _in_log(naive_scores(learner, x)),
                lambda x: (learner(method, kind, x, torch.float32), x.x),
                devices=("cpu",),
            )
        )
    return Case(
        op="predict",
        size={"method": method, "network": kind, "B": B, "M": ROWS, "d": DIM, "C": CLASSES, "K": K},
        inputs=inputs,
        oracle=expected,
        error=lambda output, expected, _: float((output.exp() - expected.exp()).abs().max()),
        tolerance=1e-3,
        # Of the memory alone: what a network needs is torch's affair.
        work=lambda _: Work(FLOAT * (B * 3 * SIDE * SIDE + ROWS * DIM), FLOAT * B * CLASSES),
        variants=tuple(variants),
    )


def _in_log(scores: Tensor | None) -> Tensor:
    assert scores is not None
    return scores.log_softmax(1)


CASES = [
    predict(method, kind, B) for kind in NETWORKS for B in (1, 100) for method in METHODS
]
