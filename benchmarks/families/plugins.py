"""What a plugin of `clfast.plugins` adds to a step: EWC's pull after some tasks, and what SI keeps
of the way."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from clfast.plugins import EWC, SI

from ..case import Case, Variant, Work, forms, in_float64, relative_error
from ..opponents import plugins as opponents
from ..opponents.consolidation import STRENGTH, Grads, Tensors
from .consolidation import FLOAT, NETWORKS, Shapes


class Held(NamedTuple):
    """By P parameters in a row, after T tasks."""

    grads: Tensor  # [P]
    params: Tensor  # [P]
    anchors: Tensor  # [T, P]
    importances: Tensor  # [T, P]


class Walk(NamedTuple):
    grads: Tensor  # [P]
    params: Tensor  # [P]
    steps: Tensor  # [P]


class _Network(nn.Module):
    """Parameters with gradients, and nothing to run."""

    def __init__(self, params: Tensors, grads: Grads) -> None:
        super().__init__()
        self.all = nn.ParameterList(p.clone() for p in params)
        self._own = list(self.all)
        self._next = [[grad.clone() for grad in grads] for _ in range(2)]
        self.renew()

    def renew(self) -> None:
        """Other gradients, as a backward pass leaves them: a plugin takes none twice."""
        self._next.reverse()
        for parameter, grad in zip(self._own, self._next[0], strict=True):
            parameter.grad = grad

    @property
    def grads(self) -> Grads:
        return tuple(p.grad for p in self._own if p.grad is not None)


def _split(row: Tensor, shapes: Shapes) -> Tensors:
    parts = row.split([prod(shape) for shape in shapes])
    return tuple(part.view(shape).clone() for part, shape in zip(parts, shapes, strict=True))


def _collapsed(x: Held) -> tuple[Tensor, Tensor]:
    """Sum F, and the mean of theta* weighted by it."""
    anchors, importances = x.anchors.double(), x.importances.double()
    total = importances.sum(0)
    return total.to(x.grads), ((importances * anchors).sum(0) / total).to(x.grads)


def ewc(network: str, tasks: int) -> Case:
    """In place, and more is added with every call; a call works the same whatever is there."""
    shapes = NETWORKS[network]
    elements = sum(prod(shape) for shape in shapes)

    def make(generator: Generator) -> Held:
        grads, params = torch.randn(2, elements, generator=generator)
        moves, roots = torch.randn(2, tasks, elements, generator=generator)
        return Held(grads, params, params + 0.1 * moves, roots**2)

    def plugin(x: Held) -> tuple[EWC, _Network]:
        model = _Network(_split(x.params, shapes), _split(x.grads, shapes))
        made = EWC(model, strength=STRENGTH)
        names = [name for name, _ in model.named_parameters()]
        total, mean = (dict(zip(names, _split(row, shapes), strict=True)) for row in _collapsed(x))
        made.load_state_dict({"tasks": tasks, "importances": total, "anchors": mean})
        return made, model

    def ours(plugin: EWC, model: _Network) -> Grads:
        model.renew()
        plugin.after_backward()
        return model.grads

    def lists(x: Held) -> tuple[Any, ...]:
        return (
            *(_split(row, shapes) for row in x[:2]),
            *([_split(row, shapes) for row in rows] for rows in x[2:]),
        )

    def leaves(x: Held) -> tuple[Any, ...]:
        grads, params, *others = lists(x)
        made = tuple(p.requires_grad_() for p in params)
        for param, grad in zip(made, grads, strict=True):
            param.grad = grad
        return (grads, made, *others)

    def sums(x: Held) -> tuple[Any, ...]:
        total, mean = _collapsed(x)
        rows = (x.grads, x.params, total, total * mean)
        return tuple(_split(row, shapes) for row in rows)

    def oracle(x: Held) -> Grads:
        wide: Held = in_float64(x)
        pull = (wide.importances * (wide.params - wide.anchors)).sum(0)
        return _split(wide.grads + STRENGTH * pull, shapes)

    return Case(
        op="EWC.after_backward",
        size={"network": network, "P": elements, "tasks": tasks},
        inputs=make,
        oracle=oracle,
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-5,
        # Two tensors a parameter are enough for any number of tasks.
        work=lambda _: Work(4 * FLOAT * elements, FLOAT * elements, 4 * elements),
        variants=(
            Variant("clfast", "clfast", ours, plugin),
            Variant("autograd, a term a task", "loop", opponents.pulled_by_every_task, leaves),
            Variant(
                "foreach, a task at a time", "torch", opponents.pulled_by_every_task_foreach, lists
            ),
            *forms("foreach, tasks in one", opponents.pulled_at_once, sums),
        ),
        small=elements < 1000,
    )


def si(network: str) -> Case:
    """A step of the first task, which the optimiser makes of the same size in every call."""
    shapes = NETWORKS[network]
    elements = sum(prod(shape) for shape in shapes)

    def make(generator: Generator) -> Walk:
        grads, params, steps = torch.randn(3, elements, generator=generator)
        return Walk(grads, params, 1e-3 * steps)

    def plugin(x: Walk) -> tuple[Any, ...]:
        model = _Network(_split(x.params, shapes), _split(x.grads, shapes))
        params = [p.detach() for p in model.parameters()]
        return SI(model, strength=STRENGTH), model, params, _split(x.steps, shapes)

    def ours(plugin: SI, model: _Network, params: list[Tensor], steps: Tensors) -> Tensors:
        model.renew()
        plugin.after_backward()
        opponents.stepped(params, steps)
        plugin.after_step()
        return tuple(plugin._tables["omegas"].values())

    def by_name(x: Walk) -> tuple[Any, ...]:
        def named(row: Tensor) -> dict[str, Tensor]:
            return {str(i): part for i, part in enumerate(_split(row, shapes))}

        zeros = torch.zeros_like(x.params)
        return named(x.params), named(x.grads), named(zeros), {}, _split(x.steps, shapes)

    def lists(x: Walk) -> tuple[Any, ...]:
        zeros = torch.zeros_like(x.params)
        rows = (x.params, x.grads, zeros, zeros, zeros, x.steps)
        return tuple(_split(row, shapes) for row in rows)

    def oracle(x: Walk) -> Tensors:
        after = (x.params + x.steps).double()
        return _split(-x.grads.double() * (after - x.params.double()), shapes)

    return Case(
        op="SI's step",
        size={"network": network, "P": elements},
        inputs=make,
        oracle=oracle,
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-3,  # differences of parameters
        # Copies of gradients and parameters, the step, and what it brought.
        work=lambda _: Work(8 * FLOAT * elements, 4 * FLOAT * elements, 4 * elements),
        variants=(
            Variant("clfast", "clfast", ours, plugin),
            Variant("by name", "loop", opponents.walked_by_name, by_name),
            *forms("foreach", opponents.walked_foreach, lists),
        ),
        small=elements < 1000,
    )


CASES = [
    ewc("one layer", 2),
    *(ewc("MLP 784-100-100-10", tasks) for tasks in (1, 5, 10, 50)),
    *(ewc("ResNet-18, width 20", tasks) for tasks in (1, 5, 10, 50)),
    *(si(network) for network in ("one layer", "MLP 784-100-100-10", "ResNet-18, width 20")),
]
