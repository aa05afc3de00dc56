"""Small learners with exemplars, and what to feed them, for several tests."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import same
from torch import Tensor, nn

from clfast.memory import ExemplarMemory
from clfast.methods import LUCIR, BiC, ICaRL, LwF, Phase
from clfast.methods.exemplar_selection import Exemplars, ExemplarSelection, Network
from clfast.methods.phases import PhaseLearner
from clfast.nn import CosineLinear

CLASSES, DIM = 5, 54
LEARNERS = ("LwF", "ICaRL", "BiC", "LUCIR")
PHASES = ([3, 0], [4], [1, 2])
"""Labels come in any order."""


def classes_of(phases: int) -> list[int]:
    """Of the first so many phases, ascending."""
    return sorted(label for classes in PHASES[:phases] for label in classes)


class First(ExemplarSelection):
    """The first samples of each class; old ones are made darker."""

    def _select(
        self, network: Network, x: Tensor, y: Tensor, count: int, generator: torch.Generator
    ) -> Exemplars:
        rows = torch.cat([(y == label).nonzero()[:count, 0] for label in y.unique()])
        return Exemplars(x[rows], y[rows])

    def _adjust(
        self, network: Network, exemplars: Exemplars, generator: torch.Generator
    ) -> Exemplars:
        return Exemplars(0.5 * exemplars.x, exemplars.y)


def network(
    *, cosine: bool = False, classes: int = CLASSES, dtype: torch.dtype = torch.float64
) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.Flatten(),
        )
        head = CosineLinear(DIM, classes) if cosine else nn.Linear(DIM, classes)
        return nn.Sequential(OrderedDict(features=features, head=head)).to(dtype)


def optimizer_of(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def learner(name: str, **options: Any) -> PhaseLearner:
    """With the first three samples of each class as exemplars."""
    sizes = {part: options.pop(part) for part in ("classes", "dtype") if part in options}
    model = network(cosine=name == "LUCIR", **sizes)
    options = {
        "exemplars": ExemplarMemory(3),
        "selection": First(),
        "phase": Phase(epochs=2, batch=4, milestones=(1,)),
        **options,
    }
    optimizer = optimizer_of(model)
    if name == "LwF":
        return LwF(model, optimizer, **{"temperature": 2.0, **options})
    kinds: dict[str, Any] = {"ICaRL": ICaRL, "BiC": BiC, "LUCIR": LUCIR}
    made: PhaseLearner = kinds[name](model.features, model.head, optimizer, **options)
    return made


def samples(classes: list[int], each: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] of 5 x 5, a bright row or column for each class, shuffled."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes).repeat(each)
    x = 0.5 * torch.rand(len(y), 1, 5, 5, generator=generator, dtype=torch.float64)
    for image, label in zip(x, y.tolist(), strict=True):
        image[0, label] += 0.5
    return x, y


def learnt(name: str, phases: int = 1, **options: Any) -> PhaseLearner:
    made = learner(name, **options)
    for number in range(phases):
        made.fit_task([samples(PHASES[number], seed=number)])
    return made


@contextmanager
def unchanged(of: PhaseLearner) -> Iterator[None]:
    """After the block everything is bit for bit as before."""

    def everything() -> dict[str, Any]:
        parameters = list(of.model.parameters())
        return {
            **of.state_dict(),
            "modes": [module.training for module in of.model.modules()],
            "grads": [None if p.grad is None else p.grad.clone() for p in parameters],
            "random": torch.get_rng_state(),
        }

    before = copy.deepcopy(everything())
    yield
    assert alike(before, everything())


def alike(first: Any, second: Any) -> bool:
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(alike, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(alike(first[k], second[k]) for k in first)
    return same(first, second)


def assert_same_models(one: nn.Module, other: nn.Module) -> None:
    for ours, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def cross_entropy(logits: Tensor, labels: list[int], among: list[int]) -> Tensor:
    """Mean over samples, by the definition."""
    terms = []
    for row, label in zip(logits, labels, strict=True):
        total = torch.stack([row[c].exp() for c in among]).sum()
        terms.append(total.log() - row[label])
    return torch.stack(terms).mean()


def distillation(logits: Tensor, target: Tensor, among: list[int], T: float) -> Tensor:
    """KL(target || logits) over some classes, mean over samples."""
    rows = []
    for row, wanted in zip(logits, target, strict=True):
        p = F.softmax(wanted[among] / T, 0)
        q = F.softmax(row[among] / T, 0)
        rows.append(torch.stack([a * (a / b).log() for a, b in zip(p, q, strict=True)]).sum())
    return torch.stack(rows).mean()


every_learner = pytest.mark.parametrize("name", LEARNERS)
