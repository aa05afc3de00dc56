"""`QuadraticPlugin`: what EWC, SI, MAS and RWalk share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import _arguments
from .._wrapped import distributed, unwrapped
from ..ops import add_penalty_gradients_, quadratic_penalty
from .base import (
    Batches,
    Plugin,
    batches,
    check_loss,
    check_model,
    check_parts,
    generator_state,
    own_pass,
)
from .gradients import check_dense
from .processes import together
from .step import Step, check_loss_of, trains
from .tables import Group, ParameterTables, Table


class QuadraticPlugin(Plugin):
    """A pull of every parameter to where it mattered: strength sum F (theta - theta*)^2.

    Two tensors a parameter hold it, however many tasks there were. It enters a step in one of two
    ways: ``loss = plugin.before_backward(loss)`` makes it a part of the loss, in the graph;
    ``plugin.after_backward()`` adds its gradient in closed form to the gradients that are there,
    which costs one pass over them. A loop that makes both calls is pulled once. Until the first
    task has ended there is no pull.

    * Several ``backward()`` before a step (accumulation): one call of ``after_backward`` after the
      last, or ``before_backward`` of one of the losses.
    * ``GradScaler``: ``scaler.scale(plugin.before_backward(loss))``; or ``scaler.unscale_(opt)``,
      then ``after_backward()``; or ``after_backward(scale=scaler.get_scale())`` on scaled
      gradients. Then ``scaler.step(opt)``.
    * ``torch.compile``: pass the compiled model or the one inside. DistributedDataParallel: pass
      the wrapper; each process gives ``on_task_end`` its share of the samples, and importances are
      those of all.
    * Frozen parameters are not pulled. A parameter that requires grad is, also in a step in which
      it took no part.
    * Heads may grow in dimension 0, and parameters of new names appear: new entries have no
      importance until the next task has ended.

    Args:
        model: whose parameters are pulled, as it is before its first task.
        strength: finite and >= 0.

    Raises:
        TypeError, ValueError: an argument of a wrong kind or out of range.
    """

    _TABLES: ClassVar[tuple[str, ...]] = ()  # beside anchors and importances
    _FACTOR: ClassVar[float] = 1.0  # of strength
    _generator: torch.Generator | None = None  # of draws when a task ends
    _NOT_NEGATIVE: ClassVar[tuple[str, ...]] = ("importances",)  # tables

    @torch.inference_mode(False)
    def __init__(self, model: nn.Module, strength: float) -> None:
        where = type(self).__name__
        check_model(model, where)
        self.strength = _arguments.real(strength, "strength", where, least=0)
        self._model, self._network = model, unwrapped(model)
        self._tables = ParameterTables(self._network, ("importances", *self._TABLES), where)
        self.tasks = 0
        """How many have ended."""
        self._step = Step()

    def penalty(self) -> Tensor:
        """The scalar that the loss has beside the task's own, up to a constant where several tasks
        are held in one; differentiable in the parameters."""
        groups = self._tables.fit(f"{type(self).__name__}.penalty")
        value = next(self._network.parameters()).new_zeros((), requires_grad=False)
        if self.tasks:
            for group in groups:
                found = quadratic_penalty(*pull_of(group)).to(value.device)
                value = value + self._FACTOR * self.strength * found
        return value

    def before_backward(self, loss: Tensor) -> Tensor:
        """The loss with the penalty.

        Raises:
            RuntimeError: the loss does not require grad, or is of another model.
        """
        where = f"{type(self).__name__}.before_backward"
        check_loss(loss, where)
        if not self.tasks or not trains(loss, where):
            return loss
        check_loss_of(loss, self._network.parameters(), where)
        with torch.enable_grad():
            penalised = loss + self.penalty()
        return self._step.watched(penalised, self._network.parameters())

    def after_backward(self, *, scale: float = 1.0) -> None:
        """Adds the penalty's gradient to ``p.grad``, unless ``backward`` of a loss of
        ``before_backward`` has done so.

        Raises:
            RuntimeError: no parameter has a gradient that is new since the last call, or the
                parameters are not those of before.
        """
        where = f"{type(self).__name__}.after_backward"
        scale = _arguments.real(scale, "scale", where, least=0, open_ends="(")
        groups = self._tables.fit(where)
        parameters = [p for group in groups for p in group.parameters]
        self._step.check_gradients(parameters, where)
        check_dense(parameters, where)
        in_loss = self._step.in_loss()
        self._with_gradients(groups, scale, in_loss)
        if self.tasks and not in_loss:
            factor = scale * self._FACTOR * self.strength
            for group in groups:
                add_penalty_gradients_(_grads(group.parameters), *pull_of(group), factor)
        self._after_pull(groups, scale)
        self._step.end(parameters)

    def _with_gradients(self, groups: list[Group], scale: float, in_loss: bool) -> None:
        """Told of the gradients of the loss that ``backward`` was called of."""

    def _after_pull(self, groups: list[Group], scale: float) -> None:
        """Told of the gradients that the optimiser will see."""

    def mean_over(
        self,
        loader: Batches | None,
        found: Callable[[nn.Module, Tensor, Tensor | None], Table],
        *,
        labels: bool = True,
    ) -> Table:
        """What ``found`` says of the network and batches (x, y): their mean by size, over all
        processes."""
        where = f"{type(self).__name__}.on_task_end"
        self._tables.fit(where)
        device = next(self._network.parameters()).device
        totals = {n: torch.zeros_like(t) for n, t in self._tables["anchors"].items()}
        count = 0
        with together(self._model, where), own_pass():
            for x, y in batches(loader, device, where, labels=labels):
                for name, mean in found(self._network, x, y).items():
                    totals[name].add_(mean, alpha=len(x))
                count += len(x)
        if (ddp := distributed(self._model)) is not None:
            counted = torch.tensor(float(count), device=device, dtype=torch.float64)
            for tensor in (counted, *totals.values()):
                dist.all_reduce(tensor, group=ddp.process_group)
            count = int(counted)
        if not count:
            raise ValueError(
                f"{where}: loader gave no samples; pass the samples of the task that ended"
            )
        return {name: total / count for name, total in totals.items()}

    def _end_task(self, **tables: Table) -> None:
        """Takes over what a task has ended with, if it is finite."""
        where = f"{type(self).__name__}.on_task_end"
        for name, importance in tables["importances"].items():
            if not bool(importance.isfinite().all()):
                raise RuntimeError(
                    f"{where}: the importance of {name} holds NaN or infinities, and nothing was "
                    "taken over; the task's training, or the model on these samples, has diverged"
                )
        self._tables.replace(**tables)
        self.tasks += 1
        self._step.forget()

    def _values(self) -> Table:
        """Copies of the parameters as they are."""
        parameters = dict(self._network.named_parameters())
        return {
            name: parameters[name].detach().to(held.dtype, copy=True)
            for name, held in self._tables["anchors"].items()
        }

    def state_dict(self) -> dict[str, Any]:
        self._tables.fit(f"{type(self).__name__}.state_dict")
        drawn = {} if self._generator is None else {"generator": self._generator.get_state()}
        return {"tasks": self.tasks, **self._tables.state(), **drawn}

    @torch.inference_mode(False)
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        where = f"{type(self).__name__}.load_state_dict"
        generator = self._generator
        drawn = [] if generator is None else ["generator"]
        check_parts(state_dict, ["tasks", *self._tables.names, *drawn], where)
        tasks = _arguments.integer(state_dict["tasks"], "state_dict['tasks']", where, least=0)
        if tasks and not state_dict["anchors"]:
            raise ValueError(
                f"{where}: anchors is empty, although {tasks} tasks have ended; nothing was loaded"
            )
        try:
            state = None if generator is None else generator_state(state_dict["generator"])
            for table in self._NOT_NEGATIVE:
                _check_not_negative(state_dict[table], table)
            self._tables.load(state_dict)
        except ValueError as error:
            raise ValueError(f"{where}: {error}; nothing was loaded") from error
        self.tasks = tasks
        if generator is not None and state is not None:
            generator.set_state(state)
        self._step.forget()


def pull_of(group: Group) -> tuple[list[nn.Parameter], list[Tensor], list[Tensor]]:
    """What an op takes of the penalty."""
    return group.parameters, group.kept["anchors"], group.kept["importances"]


def _grads(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Zeros where a parameter took no part, as autograd would have made them for the penalty."""
    for parameter in parameters:
        if parameter.grad is None:
            with torch.inference_mode(False):
                parameter.grad = torch.zeros_like(parameter)
    return [grad for p in parameters if (grad := p.grad) is not None]


def _check_not_negative(given: object, table: str) -> None:
    tensors = given.items() if isinstance(given, Mapping) else ()
    for name, tensor in tensors:
        if isinstance(tensor, Tensor) and bool((tensor < 0).any()):
            raise ValueError(f"{table} of {name} are negative somewhere")
