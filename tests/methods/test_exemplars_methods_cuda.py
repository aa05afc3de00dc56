"""Learners with exemplars on a GPU; named after their ops, so that `make gpu-check` finds it."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from exemplar_learners import DIM, LEARNERS, PHASES, First, learner, optimizer_of, samples
from selections import images, mnemonics, network, seeded
from torch import Tensor

from clfast.memory import ExemplarMemory
from clfast.methods import Phase
from clfast.methods.phases import PhaseLearner
from clfast.streams import CropAndFlip

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda")


def _on(device: torch.device, name: str) -> PhaseLearner:
    phase = Phase(epochs=2, batch=4, milestones=(1,), augment=CropAndFlip(1), finetune_epochs=1)
    options: dict[str, Any] = {"transfer": "scale", "selection": First(), "phase": phase}
    made = learner(name, exemplars=ExemplarMemory(3, dtype=torch.float64), **options)
    made.model.to(device)
    made.optimizer = optimizer_of(made.model)
    return made


def _compare(one: PhaseLearner, other: PhaseLearner) -> None:
    for ours, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=1e-6, atol=1e-8)
    x, _ = samples([0, 3, 4], seed=7)
    device = next(one.model.parameters()).device
    ours, theirs = one.predict_log_proba(x.to(device)).cpu(), other.predict_log_proba(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", LEARNERS)
def test_phases_are_those_of_the_cpu(name: str) -> None:
    here, there = _on(torch.device("cpu"), name), _on(CUDA, name)
    for number in range(2):
        task = samples(PHASES[number], seed=number)
        here.fit_task([task])
        there.fit_task([task])
        assert there.exemplars.x.device.type == CUDA.type
    _compare(there, here)
    x, y = samples(PHASES[2])
    found, wanted = there.observe(x.to(CUDA), y.to(CUDA)), here.observe(x, y)
    assert found == pytest.approx(wanted, rel=1e-6)
    there.on_task_end([(x, y)])
    here.on_task_end([(x, y)])
    torch.testing.assert_close(there.exemplars.x.cpu(), here.exemplars.x)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_state_goes_on_where_it_is_loaded(name: str) -> None:
    states: list[bytes] = []

    def save(_: object) -> None:
        file = io.BytesIO()
        torch.save(there.state_dict(), file)
        states.append(file.getvalue())

    there = _on(CUDA, name)
    there.fit_task([samples(PHASES[0])])
    task = samples(PHASES[1], seed=1)
    there.fit_task([task], after_epoch=save)
    for place in ("cpu", CUDA):
        other = _on(CUDA, name)
        state = torch.load(io.BytesIO(states[0]), weights_only=True, map_location=place)
        other.load_state_dict(state)
        other.fit_task([task])
        for ours, theirs in zip(other.model.parameters(), there.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_a_head_of_cosines() -> None:
    made = _on(CUDA, "LUCIR")
    x: Tensor = torch.rand(5, DIM, dtype=torch.float64)
    head = made.model.get_submodule("head")
    there = head(x.to(CUDA)).cpu()
    torch.testing.assert_close(there, head.cpu()(x))


@pytest.mark.parametrize("objective", ["bop_full", "bop_fc", "proto"])
def test_exemplars_are_trained_as_on_the_cpu(objective: str) -> None:
    found = []
    for device in (torch.device("cpu"), CUDA):
        net = network()
        net.features.to(device)
        net.head.to(device)
        x, y = (t.to(device) for t in images(9))
        selection = mnemonics(objective, batch=5)
        chosen = selection.select(net, x, y, 2, generator=seeded())
        adjusted = selection.adjust(net, chosen, generator=seeded(2))
        assert adjusted.x.device.type == device.type
        found.append(torch.stack([chosen.x.cpu(), adjusted.x.cpu()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-10)
