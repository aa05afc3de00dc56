"""What several tests of the methods share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clfast.memory import KeyValueMemory
from clfast.methods import Hebb, MbPA, Mixture, Parametric

DIM, CLASSES, OLD = 6, 5, (0, 2)

Make = Callable[..., Parametric]
WITH_MEMORY: dict[str, Make] = {"Mixture": Mixture, "MbPA": MbPA, "Hebb": Hebb}
METHODS: dict[str, Make] = {"Parametric": Parametric, **WITH_MEMORY}


class Net(nn.Module):
    """Features with everything that prediction may disturb: batch norm, dropout, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()
        )
        self.out = nn.Linear(8, DIM)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.out(self.body(x))
        return features


def batch(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 4, 4, generator=generator).to(dtype)
    return x, torch.randint(CLASSES, (count,), generator=generator)


def model(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> tuple[nn.Module, nn.Linear]:
    """Seeded modules in train mode, with batch-norm statistics that are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features, head = Net(), nn.Linear(DIM, CLASSES, bias=bias)
        features(batch(32, seed=9)[0])
    return features.to(dtype), head.to(dtype)


def learner(
    name: str,
    *,
    rows: int = 40,
    dtype: torch.dtype = torch.float32,
    memory: KeyValueMemory | None = None,
    lr: float | None = None,
    **options: Any,
) -> Parametric:
    """A method on a seeded model, after `rows` samples have been written to its memory."""
    features, head = model(dtype)
    if memory is None:
        memory = KeyValueMemory(DIM, dtype=dtype)
    if name == "Hebb":
        options.setdefault("base_classes", OLD)
    if lr is not None:
        parameters = [*features.parameters(), *head.parameters()]
        options["base_optimizer"] = torch.optim.Adam(parameters, lr=lr)
    made = METHODS[name](features, head, memory, **options)
    made.fit_memory([batch(rows, seed=1, dtype=dtype)])
    return made


def everything(of: Parametric) -> dict[str, Any]:
    """Copies of all that a call may change: states, modes, gradients, flags, random state."""
    modules = [*of.features.modules(), *of.head.modules()]
    parameters = [*of.features.parameters(), *of.head.parameters()]
    return {
        **of.state_dict(),
        "modes": [module.training for module in modules],
        "grads": [None if p.grad is None else p.grad.clone() for p in parameters],
        "flags": [p.requires_grad for p in parameters],
        "grad mode": torch.is_grad_enabled(),
        "random": torch.get_rng_state(),
    }


def same(first: Any, second: Any) -> bool:
    """Equal bit for bit, dtypes included."""
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[n], second[n]) for n in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@contextmanager
def unchanged(of: Parametric) -> Iterator[None]:
    """After the block, everything is bit for bit as before."""
    before = copy.deepcopy(everything(of))
    yield
    assert same(before, everything(of))
