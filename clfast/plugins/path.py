"""`PathIntegral`: what a step has brought, parameter by parameter, while a task is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from .. import _arguments
from ..ops import add_penalty_gradients_, path_integral_
from .quadratic import QuadraticPlugin, grouped
from .tables import Table

Gradient: TypeAlias = Literal["task", "total"]


class PathIntegral(QuadraticPlugin):
    """Keeps omega, the sum over the task's steps of -gradient x step, in its table of that name.

    ``after_backward`` copies gradients and parameters, ``after_step`` looks at how far these have
    moved. A step that is skipped, as GradScaler does, adds nothing.
    """

    _TABLES: ClassVar[tuple[str, ...]] = ("omegas",)

    def __init__(self, model: nn.Module, strength: float, gradient: Gradient) -> None:
        super().__init__(model, strength)
        _arguments.one_of(gradient, ("task", "total"), "gradient", type(self).__name__)
        self._gradient = gradient
        self._grads: Table = {}
        self._before: Table = {}
        # What is moved by a step that has not ended.
        self._moving: Mapping[str, nn.Parameter] | None = None

    def _with_gradients(
        self, parameters: Mapping[str, nn.Parameter], scale: float, in_loss: bool
    ) -> None:
        if self._gradient == "total":
            return
        self._copy(parameters, scale)
        if in_loss:
            for names in grouped(self._grads):
                self._take_pull(names, parameters)

    def _after_pull(self, parameters: Mapping[str, nn.Parameter], scale: float) -> None:
        if self._gradient == "total":
            self._copy(parameters, scale)

    def _take_pull(self, names: list[str], parameters: Mapping[str, Tensor]) -> None:
        """Takes the penalty's gradient from the copies: that around the parameters of the
        anchors."""
        values, anchors, importances = self._lists(parameters, names)
        factor = self._FACTOR * self.strength
        grads = [self._grads[name] for name in names]
        add_penalty_gradients_(grads, anchors, values, importances, factor)

    def _copy(self, parameters: Mapping[str, nn.Parameter], scale: float) -> None:
        self._moving = parameters
        for table in (self._grads, self._before):
            for name in table.keys() - parameters.keys():  # frozen meanwhile
                del table[name]
            for name, p in parameters.items():
                held = table.get(name)
                if held is None or (held.shape, held.device) != (p.shape, p.device):
                    table[name] = torch.empty_like(self._omegas[name])
        names = list(parameters)
        torch._foreach_copy_([self._before[n] for n in names], list(parameters.values()))
        torch._foreach_copy_(
            [self._grads[n] for n in names], [_grad_or_zeros(p) for p in parameters.values()]
        )
        if scale != 1:
            torch._foreach_div_(list(self._grads.values()), scale)

    @torch.no_grad()
    def after_step(self) -> None:
        """Adds what the step has brought.

        Raises:
            RuntimeError: ``after_backward`` was not called before the step.
        """
        where = f"{type(self).__name__}.after_step"
        if self._moving is None:
            raise RuntimeError(
                f"{where}: there is no gradient of this step; call after_backward() between "
                "loss.backward() and optimizer.step()"
            )
        moving, self._moving = self._moving, None
        deltas = self._before  # from here on
        for name, p in moving.items():
            torch.sub(p, deltas[name], out=deltas[name])
        for names in grouped(deltas):
            tables = (self._omegas, self._grads, deltas)
            path_integral_(*([table[name] for name in names] for table in tables))

    def _check_path(self) -> None:
        where = f"{type(self).__name__}.on_task_end"
        self._tables.fit(where)
        for name, omega in self._omegas.items():
            if not bool(omega.isfinite().all()):
                raise RuntimeError(
                    f"{where}: the path integral of {name} holds NaN or infinities, and nothing "
                    "was taken over; the task's training has diverged"
                )

    def _no_path(self) -> Table:
        return {name: torch.zeros_like(omega) for name, omega in self._omegas.items()}

    @property
    def _omegas(self) -> Table:
        return self._tables["omegas"]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._moving = None


def _grad_or_zeros(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
