"""Learners that keep samples of the stream: `ER` and `ERMIR` train on them again, `AGEM` and `GEM`
take no step against them. What they do in a step is what the plugins of their names do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from .. import plugins
from .._arguments import real
from ..memory import ReplayBuffer
from . import checks
from .classifier import Classifier
from .protocol import Batches

T = TypeVar("T")


class _OfPlugin(Generic[T]):
    """An attribute that the learner's plugin has."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, learner: Rehearsal, owner: type) -> T:
        value: T = getattr(learner.plugin, self._name)
        return value

    def __set__(self, learner: Rehearsal, value: T) -> None:
        setattr(learner.plugin, self._name, value)


class Rehearsal(Classifier):
    """One step on the batch, in which past samples have a say; then the batch is stored.

    Tasks are told apart by ``on_task_end``: samples of the task that is being learnt are not
    rehearsed, so before its first call nothing is.
    """

    plugin: plugins.RehearsalPlugin
    task = _OfPlugin[int]()
    """How many tasks have ended."""

    _LOSS: ClassVar[str] = "memory"

    def on_task_end(self, loader: Batches | None = None) -> None:
        """What was stored so far is of the past."""
        del loader
        self.task += 1

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        self.plugin.model = self.model
        loss, _ = self._cross_entropy(x, y, where)
        self._backward(loss, where)
        self._drop_gradients()
        self.plugin.after_backward()
        checks.check_gradients(self.optimizer, where)
        self.optimizer.step()
        past = {} if self.plugin.loss is None else {self._LOSS: self.plugin.loss}
        return {"loss": loss.detach(), **past}

    def _drop_gradients(self) -> None:
        """Those of parameters that the optimizer does not have: they take no part in the step."""
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for parameter in self.model.parameters():
            if id(parameter) not in held:
                parameter.grad = None

    def _store(self, x: Tensor, y: Tensor) -> None:
        self.plugin.store(x, y)

    def _undo(self) -> Callable[[], None]:
        return self.plugin.saved()

    def _own_state(self) -> dict[str, Any]:
        return self.plugin.state_dict()

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self.plugin.load_state_dict(state)


class BufferRehearsal(Rehearsal):
    """Rehearsal from one buffer for all tasks.

    Args:
        model, optimizer: see `Classifier`.
        memory: a `ReplayBuffer` that is empty, or holds x, y and task as the learner stores them;
            then the tasks that are in it are past.
        replay: samples of a step, drawn without replacement.
        generator: on the CPU, draws them; None: one of the learner's own with seed 0.
        options: others of the plugin, as ``past_only``.
    """

    memory = _OfPlugin[ReplayBuffer]()
    replay = _OfPlugin[int]()
    generator = _OfPlugin[torch.Generator]()

    _PLUGIN: ClassVar[type[plugins.BufferPlugin]]

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        memory: ReplayBuffer,
        *,
        replay: int = 10,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, optimizer)
        self.plugin = self._PLUGIN(model, memory, replay=replay, generator=generator, **options)


class ER(BufferRehearsal):
    """Experience replay: cross-entropy of the batch plus that of past samples, one step on both.

    See :class:`clfast.plugins.ER`.

    Args:
        model, optimizer, memory, replay, generator, options: see `BufferRehearsal`.

    Raises:
        TypeError, ValueError: as `Classifier`; options out of range.
    """

    _LOSS = "replay"
    _PLUGIN: ClassVar[type[plugins.BufferPlugin]] = plugins.ER


class ERMIR(ER):
    """Experience replay of the samples that the step would interfere with most.

    See :class:`clfast.plugins.ERMIR`. The model is in train mode, as in the authors' code.

    Args:
        model, optimizer, memory, replay, generator: see `BufferRehearsal`.
        candidates: drawn to choose from.
        lr: of the step on the batch alone; None: what the optimizer's first group has.

    Raises:
        TypeError, ValueError: as `Classifier`; options out of range.
    """

    plugin: plugins.ERMIR
    candidates = _OfPlugin[int]()

    _PLUGIN = plugins.ERMIR

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        memory: ReplayBuffer,
        *,
        replay: int = 10,
        candidates: int = 50,
        lr: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.lr = None if lr is None else real(lr, "lr", "ERMIR", least=0)
        super().__init__(
            *(model, optimizer, memory),
            replay=replay,
            generator=generator,
            candidates=candidates,
            lr=0.0 if self.lr is None else self.lr,  # until the first step
        )

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        lr = self.optimizer.param_groups[0]["lr"] if self.lr is None else self.lr
        self.plugin.lr = float(lr)
        return super()._learn(x, y, where)


class AGEM(BufferRehearsal):
    """A step that, to first order, does not raise the mean loss on past samples.

    See :class:`clfast.plugins.AGEM`.

    Args:
        model, optimizer, memory, replay, generator, options: see `BufferRehearsal`.

    Raises:
        TypeError, ValueError: as `Classifier`; options out of range.
    """

    _PLUGIN = plugins.AGEM


class GEM(Rehearsal):
    """A step that, to first order, does not raise the loss on the memory of any past task.

    See :class:`clfast.plugins.GEM`.

    Args:
        model, optimizer: see `Classifier`.
        per_task: samples stored of a task.
        margin: gamma >= 0, by which gradients shall agree; 0.5 in the authors' experiments.

    Raises:
        TypeError, ValueError: as `Classifier`; options out of range.
    """

    plugin: plugins.GEM
    memories = _OfPlugin[dict[int, ReplayBuffer]]()
    per_task = _OfPlugin[int]()
    margin = _OfPlugin[float]()

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        per_task: int,
        margin: float = 0.5,
    ) -> None:
        super().__init__(model, optimizer)
        self.plugin = plugins.GEM(model, per_task=per_task, margin=margin)
