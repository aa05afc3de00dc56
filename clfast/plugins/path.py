"""`PathIntegral`: what a step has brought, parameter by parameter, while a task is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from .. import _arguments
from ..ops import add_penalty_gradients_, path_integral_
from .quadratic import QuadraticPlugin, pull_of
from .tables import Group, Table

Gradient: TypeAlias = Literal["task", "total"]


class _Walk(NamedTuple):
    """A step of the parameters of a group, which it has begun with these values and gradients."""

    names: list[str]
    parameters: list[Tensor]
    before: list[Tensor]
    grads: list[Tensor]


class PathIntegral(QuadraticPlugin):
    """Keeps omega, the sum over the task's steps of -gradient x step, in its table of that name.

    ``after_backward`` copies gradients and parameters, ``after_step`` looks at how far these have
    moved. Gradients are copied since they need not stay until then: clipping scales them in place,
    and optimisers may add to them. A step that is skipped, as GradScaler does, adds nothing.
    """

    _TABLES: ClassVar[tuple[str, ...]] = ("omegas",)

    def __init__(self, model: nn.Module, strength: float, gradient: Gradient) -> None:
        super().__init__(model, strength)
        _arguments.one_of(gradient, ("task", "total"), "gradient", type(self).__name__)
        self._gradient = gradient
        self._walks: list[_Walk] = []
        self._walkers: list[Group] | None = None  # whose they are
        self._moving = False  # a step has begun, and not ended

    def _with_gradients(self, groups: list[Group], scale: float, in_loss: bool) -> None:
        if self._gradient == "total":
            return
        self._begin(groups, scale)
        if in_loss:
            factor = self._FACTOR * self.strength
            for group, walk in zip(groups, self._walks, strict=True):
                # The penalty's gradient is taken from the copies: that around the parameters of
                # the anchors.
                values, anchors, importances = pull_of(group)
                add_penalty_gradients_(walk.grads, anchors, values, importances, factor)

    def _after_pull(self, groups: list[Group], scale: float) -> None:
        if self._gradient == "total":
            self._begin(groups, scale)

    def _begin(self, groups: list[Group], scale: float) -> None:
        self._moving = False
        if self._walkers is not groups:
            self._walks = [_walk_of(group) for group in groups]
            self._walkers = groups
        with torch.no_grad():
            for walk in self._walks:
                grads = [_zeros(p) if (g := p.grad) is None else g for p in walk.parameters]
                torch._foreach_copy_(walk.before + walk.grads, walk.parameters + grads)
                if scale != 1:
                    torch._foreach_div_(walk.grads, scale)
        self._moving = True

    def after_step(self) -> None:
        """Adds what the step has brought.

        Raises:
            RuntimeError: ``after_backward`` was not called before the step.
        """
        if not self._moving:
            raise RuntimeError(
                f"{type(self).__name__}.after_step: there is no gradient of this step; call "
                "after_backward() between loss.backward() and optimizer.step()"
            )
        self._moving = False
        for walk in self._walks:
            omegas = [self._omegas[name] for name in walk.names]
            path_integral_(omegas, walk.grads, walk.parameters, before=walk.before)

    def _check_path(self) -> None:
        where = f"{type(self).__name__}.on_task_end"
        self._tables.fit(where)
        for name, omega in self._omegas.items():
            if not bool(omega.isfinite().all()):
                raise RuntimeError(
                    f"{where}: the path integral of {name} holds NaN or infinities, and nothing "
                    "was taken over; the task's training has diverged"
                )
        if not any(bool(omega.any()) for omega in self._omegas.values()):
            values, anchors = self._values(), self._tables["anchors"]
            if any(not torch.equal(value, anchors[name]) for name, value in values.items()):
                raise RuntimeError(
                    f"{where}: parameters have moved in this task, but no step of it was seen, and "
                    "nothing was taken over; call after_backward() between loss.backward() and "
                    "optimizer.step(), and after_step() behind that"
                )

    def _end_task(self, **tables: Table) -> None:
        super()._end_task(**tables)
        self._moving = False

    def _no_path(self) -> Table:
        return {name: torch.zeros_like(omega) for name, omega in self._omegas.items()}

    @property
    def _omegas(self) -> Table:
        return self._tables["omegas"]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._moving = False


@torch.inference_mode(False)
def _walk_of(group: Group) -> _Walk:
    omegas = group.kept["omegas"]
    before, grads = ([torch.zeros_like(omega) for omega in omegas] for _ in range(2))
    return _Walk(group.names, list(group.parameters), before, grads)


def _zeros(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter, requires_grad=False)
