"""An iteration of DGMw as on MNIST: the fifth of ten classes is learnt, and four are replayed.

The generator has grown as after tasks of one batch. Every call begins from the same parameters,
moments and noise, which are put back in the time of all variants alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from clfast.methods import DGMw
from clfast.methods.task_run import Progress

from ..baselines.dgm import AsPublished, PlainDGM
from ..case import Case, Variant, Work

TASK, EPOCH, BATCH = 4, 50, 10  # from 0; where s e is neither small nor saturated
OPTIONS: dict[str, Any] = {"compensation": "reference"}  # else the authors' for MNIST
SMALL: dict[str, Any] = {**OPTIONS, "batch": 8, "noise": 16, "critic_width": 4}


class Batch(NamedTuple):
    x: Tensor  # [N, 1, 32, 32] in [-1, 1]
    y: Tensor  # [N]


class _HalfwayError(Exception):
    """Ends a task in the middle of it."""


@lru_cache
def _state(small: bool) -> dict[str, Any]:
    """Of a learner in the middle of the fifth task."""
    options = SMALL if small else OPTIONS
    learner = DGMw(**options, epochs=1)
    generator = torch.Generator().manual_seed(0)
    size = learner.options.batch

    def of_class(label: int, count: int) -> list[tuple[Tensor, Tensor]]:
        return [(torch.rand(count, 1, 32, 32, generator=generator), torch.full((count,), label))]

    for label in range(TASK):
        learner.fit_task(of_class(label, size))
    found: dict[str, Any] = {}

    def after_batch(at: Progress) -> None:
        if at.batch == 5:
            found.update(learner.state_dict())
            raise _HalfwayError

    try:
        learner.fit_task(of_class(TASK, 8 * size), after_batch=after_batch)
    except _HalfwayError:
        found["run"]["epoch"] = EPOCH
    return found


class Iteration:
    """One that begins from the same state whenever it is called.

    Args:
        tensors: all that it changes.
        random: which it draws from.
        run: of a batch.
        parameters: that are looked at.
    """

    def __init__(
        self,
        tensors: list[Tensor],
        random: Generator,
        run: Callable[[Tensor, Tensor], None],
        parameters: Callable[[], list[Tensor]],
    ) -> None:
        self.tensors, self.random, self.run, self.parameters = tensors, random, run, parameters
        self.start = [t.detach().clone() for t in tensors]
        self.drawn = random.get_state()

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """All parameters after it."""
        with torch.no_grad():
            torch._foreach_copy_([t.detach() for t in self.tensors], self.start)
        self.random.set_state(self.drawn)
        self.run(x, y)
        return torch.cat([p.detach().flatten() for p in self.parameters()])


def _changed(networks: list[torch.nn.Module], optimizers: Mapping[str, Any]) -> list[Tensor]:
    found = [t for network in networks for t in network.state_dict(keep_vars=True).values()]
    return found + [
        value
        for optimizer in optimizers.values()
        for of in optimizer.state.values()
        for value in of.values()
    ]


def _ours(small: bool, like: Tensor) -> Iteration:
    learner = DGMw(
        **(SMALL if small else OPTIONS), epochs=101, device=like.device, dtype=like.dtype
    )
    learner.load_state_dict(copy.deepcopy(_state(small)))
    run = learner._run
    critic, generator = learner.critic, learner.generator
    assert run is not None
    assert critic is not None
    tensors = _changed([generator, critic], run.optimizers)

    def iterate(x: Tensor, y: Tensor) -> None:
        with torch.enable_grad():
            learner._learn_batch(run, x, y, BATCH, 94)

    return Iteration(
        tensors, learner._random, iterate, lambda: [*generator.learnt(), *critic.parameters()]
    )


def _plain(kind: type[PlainDGM], small: bool, like: Tensor, **options: Any) -> Iteration:
    given = DGMw(**(SMALL if small else OPTIONS)).options
    plain = kind(copy.deepcopy(_state(small)), given, like, **options)
    tensors = _changed([plain.critic, plain.norms, plain.last], plain.adam)
    tensors += [*plain.weights, *plain.embeddings]
    top = (given.max_scale - 1 / given.max_scale) * EPOCH / 101 + 1 / given.max_scale
    scale = (top - 1 / top) * BATCH / 94 + 1 / top

    def iterate(x: Tensor, y: Tensor) -> None:
        plain.iterate(x, y, scale, top)

    return Iteration(tensors, plain.random, iterate, plain.parameters)


def dgm_iteration(small: bool) -> Case:
    """Of networks as on MNIST, or of narrow ones."""

    def inputs(generator: Generator) -> Batch:
        size = DGMw(**(SMALL if small else OPTIONS)).options.batch
        return Batch(torch.rand(size, 1, 32, 32, generator=generator) * 2 - 1, _labels(size))

    def oracle(batch: Batch) -> Tensor:
        wide = batch.x.double()
        return _plain(AsPublished, small, wide)(wide, batch.y)

    def error(output: Tensor, expected: Tensor, _: Batch) -> float:
        """Of what the iteration changed, but for one in a thousand of its entries: Adam makes whole
        steps of gradients that are nothing but rounding."""
        state, count = _state(small), TASK
        g = state["generator"]
        names = [*(f"{kind}.{i}" for kind in ("weights", "embeddings") for i in range(3))]
        names += [f"norms.{i}.parts.{count}.{p}" for i in range(3) for p in ("weight", "bias")]
        names.append(f"lasts.{count}.weight")
        critic = [v for n, v in state["critic"].items() if "running" not in n and "num" not in n]
        start = torch.cat([t.flatten() for t in [*(g[n] for n in names), *critic]]).to(expected)
        apart = (output - expected).abs().sort().values[: -(-len(output) * 999 // 1000)]
        return float(apart.norm() / (expected - start).norm())

    cl = {"layout": torch.channels_last}

    def variant(name: str, kind: Any, kind_of: type[PlainDGM] | None, **options: Any) -> Variant:
        def arguments(batch: Batch) -> tuple[Any, ...]:
            if kind_of is None:
                return (_ours(small, batch.x), *batch)
            return (_plain(kind_of, small, batch.x, **options), *batch)

        return Variant(name, kind, lambda iteration, x, y: iteration(x, y), arguments)

    return Case(
        op="DGMw iteration",
        size={"network": "narrow" if small else "MNIST", "N": 8 if small else 64, "past": TASK},
        inputs=inputs,
        oracle=oracle,
        error=error,
        tolerance=2e-3 if small else 1e-2,  # kinks of LeakyReLU, behind second derivatives
        # What networks need is torch's affair.
        work=lambda _: Work(0, 0),
        memory=True,
        small=small,
        variants=(
            variant("clfast", "clfast", None),
            variant("vectorised", "torch", PlainDGM),
            variant("vectorised, channels_last", "torch", PlainDGM, **cl),
            variant("vectorised, channels_last, compiled", "torch", PlainDGM, **cl, compiled=True),
            variant("as published", "loop", AsPublished),
        ),
    )


def _labels(size: int) -> Tensor:
    return torch.full((size,), TASK)
