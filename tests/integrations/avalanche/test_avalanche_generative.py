"""A generative learner as the generator of Avalanche's plugin, which is written out here."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from clfast.integrations import avalanche
from clfast.methods import DGR, DGMw

SMALL: dict[str, Any] = {
    "size": 16,
    "epochs": 1,
    "batch": 8,
    "width": 1,
    "noise": 4,
    "critic_width": 2,
    "critic_steps": 1,
    "max_classes": 4,
}


def images(task: int, *, arity: int = 3, count: int = 10) -> list[Any]:
    generator = torch.Generator().manual_seed(task)
    x = torch.rand(count, 1, 16, 16, generator=generator)
    labels = [2 * task + i % 2 for i in range(count)]
    tail = (0,) if arity == 3 else ()
    return [(x[i], label, *tail) for i, label in enumerate(labels)]


def strategy(kind: Any = DGR, *, tasks: int = 2, arity: int = 3) -> avalanche.GeneratorStrategy:
    options = {n: v for n, v in SMALL.items() if kind is DGR or n != "critic_steps"}
    made = avalanche.GeneratorStrategy(kind(**options), mb_size=4)
    for task in range(tasks):
        losses = made.train(SimpleNamespace(dataset=images(task, arity=arity)))
        assert losses
    return made


@pytest.mark.parametrize("arity", [2, 3])
@pytest.mark.parametrize("kind", [DGR, DGMw])
def test_what_the_plugin_asks_for(kind: Any, arity: int) -> None:
    made = strategy(kind, arity=arity)
    assert made.model.learner.classes == [0, 1, 2, 3]
    old = copy.deepcopy(made.model)
    old.eval()
    torch.manual_seed(0)
    found = old.generate(7).to(torch.device("cpu"))
    assert found.shape == (7, 1, 16, 16)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert old.generate().shape == (1, 16, 16)
    torch.manual_seed(0)
    assert torch.equal(made.model.generate(7), found)


def test_a_copy_is_of_the_past() -> None:
    made = strategy(tasks=1)
    old = copy.deepcopy(made.model)
    made.train(SimpleNamespace(dataset=images(1)))
    assert old.learner.classes == [0, 1]
    assert made.model.learner.classes == [0, 1, 2, 3]
    assert old.to(torch.device("cpu")) is old


def test_images_are_of_the_classes_that_were_asked_for() -> None:
    class Constant:
        """A learner whose images tell of their class."""

        classes = (5, 0, 3)

        def generate(self, n: int, classes: list[int]) -> Any:
            (label,) = classes
            return SimpleNamespace(images=torch.full((n, 1, 2, 2), float(label)))

    constant: Any = Constant()
    generator = avalanche.Generator(constant)
    wanted = torch.tensor([3, 0, 0, 5, 3, 0])

    def shown(found: Tensor) -> list[float]:
        return found[:, 0, 0, 0].tolist()

    assert shown(generator.generate(6, wanted)) == wanted.tolist()
    torch.manual_seed(0)
    drawn = torch.tensor(shown(generator.generate(3000))).long().bincount()
    assert drawn.nonzero()[:, 0].tolist() == [0, 3, 5]
    assert float((drawn[drawn > 0] / 1000 - 1).abs().max()) < 0.1
