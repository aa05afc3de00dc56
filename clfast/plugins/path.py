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
        self._stepping = False  # whether these are of a step that has not ended

    def _with_gradients(self, parameters: Mapping[str, nn.Parameter], scale: float) -> None:
        if self._gradient == "total":
            return
        self._copy(parameters, scale)
        if self._in_loss:
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
        for name, p in parameters.items():
            omega = self._omegas[name]
            for table, value in ((self._grads, p.grad), (self._before, p.detach())):
                held = table.get(name)
                if held is None or (held.shape, held.device) != (p.shape, p.device):
                    table[name] = held = torch.empty_like(omega)
                if value is None:
                    held.zero_()
                else:
                    held.copy_(value)
        for table in (self._grads, self._before):
            for name in table.keys() - parameters.keys():  # frozen meanwhile
                del table[name]
        if scale != 1:
            torch._foreach_div_(list(self._grads.values()), scale)
        self._stepping = True

    @torch.no_grad()
    def after_step(self) -> None:
        """Adds what the step has brought.

        Raises:
            RuntimeError: ``after_backward`` was not called before the step.
        """
        where = f"{type(self).__name__}.after_step"
        if not self._stepping:
            raise RuntimeError(
                f"{where}: there is no gradient of this step; call after_backward() between "
                "loss.backward() and optimizer.step()"
            )
        self._stepping = False
        now = self._values()
        for names in grouped(self._before):
            deltas = [now[name].sub_(self._before[name]) for name in names]
            omegas, grads = ([table[n] for n in names] for table in (self._omegas, self._grads))
            path_integral_(omegas, grads, deltas)

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
        self._stepping = False
