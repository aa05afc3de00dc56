"""torch.set_default_device, which scripts for a GPU set, does not reach what learners make for
themselves: draws, indices, layers of new tasks. Data and networks say where they lie."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from exemplar_learners import PHASES, samples
from exemplar_learners import learner as phase_learner
from method_helpers import batch, learner
from test_dgm import SMALL as DGM_SMALL
from test_dgm import task
from test_generative_replay import SMALL as GAN_SMALL
from torch import Tensor, nn

from clfast.memory import ReplayBuffer
from clfast.methods import (
    ADI,
    ARM,
    DGR,
    ER,
    ERMIR,
    EWCM,
    HAT,
    DeepInversion,
    DGMa,
    DGMw,
    Herding,
    MeRGAN,
    Mnemonics,
    RandomSelection,
)
from clfast.methods import LwF as DistillingLwF
from clfast.nn import HATConv2d, TaskBatchNorm2d, TaskHeads
from clfast.optim import MaskedAdam

Learn = Callable[[Any], list[Tensor]]
"""Learns with every call in the context that it is given; what came of it."""


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def rehearsal(kind: Any, *, stores: bool = False, **options: Any) -> Learn:
    def learn(context: Any) -> list[Tensor]:
        model, optimizer = network()
        batches = [batch(6, seed) for seed in range(3)]
        with context():
            memory = [ReplayBuffer(10)] if stores else []
            made = kind(model, optimizer, *memory, **options)
            for x, y in batches:
                made.observe(x, y)
                made.on_task_end()
        return [p.detach() for p in model.parameters()]

    return learn


def hebb(name: str) -> Learn:
    def learn(context: Any) -> list[Tensor]:
        made, (x, y) = learner(name), batch(6)
        with context():
            made.observe(x, y)
            return [made.predict(x)]

    return learn


def phases(name: str, selection: Any) -> Learn:
    def learn(context: Any) -> list[Tensor]:
        data = [samples(classes, seed=seed) for seed, classes in enumerate(PHASES)]
        made = phase_learner(name)
        made.selection = selection
        with context():
            for each in data:
                made.fit_task([each])
        return [p.detach() for p in made.model.parameters()]

    return learn


def generative(kind: Any, **options: Any) -> Learn:
    def learn(context: Any) -> list[Tensor]:
        batches = [task(label) for label in range(3)]
        random = torch.Generator().manual_seed(0)
        with context():
            made = kind(**options)
            for each in batches:
                made.fit_task(each)
            return [made.generate(2, generator=random).images]

    return learn


def hat(context: Any) -> list[Tensor]:
    model = nn.Sequential(HATConv2d(1, 4, 3), TaskBatchNorm2d(4), nn.Flatten(), TaskHeads(16, 5))
    x, y = batch(12)
    with context():
        made = HAT(model)
        for _ in range(2):
            made.fit_task([(x, y)])
        other = HAT(model)
        other.load_state_dict(made.state_dict())
    return [p.detach() for p in other.model.parameters()]


def masked_adam(context: Any) -> list[Tensor]:
    model, _ = network()
    x, y = batch(6)
    with context():
        optimizer = MaskedAdam(model.parameters())
        for _ in range(2):
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return [p.detach() for p in model.parameters()]


CASES: dict[str, Learn] = {
    "ARM": rehearsal(ARM, images=8, steps=2),
    "ARM, noise": rehearsal(ARM, images=8, steps=2, start="noise"),
    "ADI": rehearsal(ADI, images=8, steps=2),
    "DeepInversion": rehearsal(DeepInversion, images=8, steps=2),
    "LwF": rehearsal(DistillingLwF),
    "ER": rehearsal(ER, stores=True),
    "ERMIR": rehearsal(ERMIR, stores=True),
    "Mixture": hebb("Mixture"),
    "MbPA": hebb("MbPA"),
    "Hebb": hebb("Hebb"),
    "LwF with exemplars": phases("LwF", RandomSelection()),
    "ICaRL": phases("ICaRL", Herding()),
    "BiC": phases("BiC", RandomSelection()),
    "LUCIR": phases("LUCIR", Mnemonics("bop_fc", steps=2, epochs=2, lr=0.1)),
    "DGMw": generative(DGMw, **DGM_SMALL),
    "DGMa": generative(DGMa, **DGM_SMALL),
    "DGMw, own classifier": generative(DGMw, **DGM_SMALL, classifier_epochs=1),
    "DGR": generative(DGR, **GAN_SMALL),
    "MeRGAN": generative(MeRGAN, **GAN_SMALL),
    "EWC": generative(EWCM, **GAN_SMALL, fisher_samples=3),
    "HAT": hat,
    "MaskedAdam": masked_adam,
}


@pytest.mark.parametrize("name", CASES)
def test_learning_is_what_it_is_without_one(name: str) -> None:
    found = []
    for context in (nullcontext, lambda: torch.device("meta")):
        torch.manual_seed(0)
        found.append(CASES[name](context))
    for theirs, ours in zip(*found, strict=True):
        assert ours.device.type == "cpu"
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
