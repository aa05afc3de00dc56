"""`RehearsalPlugin`: what ER, ER-MIR, A-GEM and GEM share; `BufferPlugin`: one buffer for all
tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _arguments
from .._logits import logits_of
from .._wrapped import distributed, unwrapped
from ..memory import ReplayBuffer
from ..nn.buffers import saved_buffers
from .base import (
    Batches,
    Plugin,
    batches,
    check_model,
    check_parts,
    check_samples,
    generator_state,
    own_pass,
)
from .gradients import all_finite, averaged, check_dense
from .step import Step


class RehearsalPlugin(Plugin):
    """Stored samples of earlier tasks have a say in the gradients of a step.

    They get in on one of two ways: a stream calls ``store(x, y)`` after each step; a loop over the
    data of tasks calls ``on_task_end(loader)``, which stores what the loader gives unless
    ``store`` was called during the task, so that nothing is stored twice. Samples of the task that
    is being learnt are not rehearsed.

    Past samples go through the model in a pass of their own, in the mode that it is in and under
    the autocast that the call is under: in training mode batch normalisation counts them, too.

    * Several ``backward()`` before a step (accumulation): one call of ``after_backward`` after the
      last.
    * ``GradScaler``: ``scaler.unscale_(opt)``, then ``after_backward()``; or, without the first,
      ``after_backward(scale=scaler.get_scale())``, which keeps small gradients of past samples in
      16 bits, too. Gradients that hold NaN or infinities, whose step the scaler will skip, are left
      alone.
    * ``torch.compile``: pass the compiled model or the one inside. DistributedDataParallel: pass
      the wrapper; each process has a store of its own, and gradients of past samples are the mean
      over all processes, as those of the batch are.
    * Which parameters take part is looked up in every step: those of the model that require grad
      and have a gradient. Where the optimiser lacks some of them, freeze these.

    Args:
        model: from x [N, ...] to logits [N, C].

    Raises:
        TypeError, ValueError: an argument of a wrong kind or out of range.
    """

    _PARTS: ClassVar[tuple[str, ...]]  # of `_own_state`
    _DENSE: ClassVar[bool] = True  # whether sparse gradients are refused

    model: nn.Module
    """May be replaced between steps."""
    task: int
    """How many have ended; the number of the one that is being learnt."""
    loss: Tensor | None
    """The mean loss of past samples in the last step, without a graph; None: there were none."""

    def __init__(self, model: nn.Module) -> None:
        check_model(model, type(self).__name__)
        self.model = model
        self.task = 0
        self.loss = None
        self._stored = -1  # the task of which something was stored last
        self._step = Step()

    # A step

    def after_backward(self, *, scale: float = 1.0) -> None:
        """Once a step, when all gradients are there: changes ``p.grad``.

        Raises:
            RuntimeError: no parameter has a gradient that is new since the last call.
            TypeError, ValueError: ``scale`` is no number > 0; the model cannot take the stored
                samples. Gradients, running statistics and draws are as before.
        """
        where = f"{type(self).__name__}.after_backward"
        scale = _arguments.real(scale, "scale", where, least=0, open_ends="(")
        trainable = self._trainable()
        self._step.check_gradients(trainable, where)
        if self._DENSE:
            check_dense(trainable, where)
        if not self._step.in_loss():
            weights = [weight for weight in trainable if weight.grad is not None]
            if self._has_past() and all_finite(w.grad for w in weights if w.grad is not None):
                with self._whole():
                    self.loss = self._rehearse(weights, scale)
            else:
                self.loss = None
        self._step.end(trainable)

    @abstractmethod
    def _rehearse(self, weights: Sequence[nn.Parameter], scale: float) -> Tensor | None:
        """Change the gradients, which all of the weights have, and which are the loss's times
        ``scale``. Returns the mean loss of past samples, if there are any."""

    def _has_past(self) -> bool:
        """Whether there may be samples to rehearse; the same in all processes."""
        return bool(self.task)

    def _trainable(self) -> list[nn.Parameter]:
        return [p for p in unwrapped(self.model).parameters() if p.requires_grad]

    def _loss_on(self, samples: Mapping[str, Tensor]) -> Tensor:
        """The mean cross-entropy of x and y, with its graph.

        DistributedDataParallel is left out: it would expect all processes to have past samples,
        and one backward pass after each pass through it.
        """
        where = f"{type(self).__name__}, of stored samples"
        ddp = distributed(self.model)
        network = self.model if ddp is None else ddp.module
        x, y = self._taken(samples)
        logits = logits_of(network, x, where)
        least, most = (int(label) for label in y.aminmax())
        if least < 0 or most >= logits.shape[1]:
            raise ValueError(
                f"{where}: y holds {least if least < 0 else most}, but model gives logits for "
                f"[0, {logits.shape[1]}); the stored samples are those of another model or head"
            )
        return F.cross_entropy(logits, y)

    def _taken(self, samples: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """x and y on the model's device."""
        device = next(self.model.parameters()).device
        return samples["x"].to(device), samples["y"].to(device)

    def _slopes(
        self, samples: Mapping[str, Tensor] | None, weights: Sequence[nn.Parameter], scale: float
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """The loss on samples, and the gradients of it times ``scale``, means over all processes;
        None where they are 0. ``.grad`` stays."""
        loss: Tensor | None = None
        slopes: list[Tensor | None] = [None for _ in weights]
        if samples is not None:
            loss = self._loss_on(samples)
            slopes = list(torch.autograd.grad(loss * scale, weights, allow_unused=True))
            loss = loss.detach()
        ddp = distributed(self.model)
        return loss, slopes if ddp is None else averaged(slopes, weights, ddp)

    def _against(
        self, samples: Mapping[str, Tensor] | None, weights: Sequence[nn.Parameter], scale: float
    ) -> tuple[Tensor | None, list[Tensor]]:
        """As `_slopes`, zeros being written out."""
        loss, slopes = self._slopes(samples, weights, scale)
        filled = [
            torch.zeros_like(weight) if slope is None else slope
            for slope, weight in zip(slopes, weights, strict=True)
        ]
        return loss, filled

    @staticmethod
    def _overflown(own: Sequence[Tensor], slopes: Sequence[Tensor], scale: float) -> bool:
        """Whether gradients of past samples are too large at this scale. Then those of the step
        are made so, too: the scaler skips it, and goes on with a smaller scale."""
        if scale == 1 or all_finite(slopes):
            return False
        for grad, slope in zip(own, slopes, strict=True):
            grad.add_(slope)
        return True

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Gradients, and passes of the plugin's own; when the block raises, draws and running
        statistics are as before."""
        put_back, statistics = self.saved(), saved_buffers(unwrapped(self.model))
        try:
            with own_pass(), torch.inference_mode(False), torch.enable_grad():
                yield
        except BaseException:
            put_back()
            statistics()
            raise

    def saved(self) -> Callable[[], None]:
        """A call that puts back what steps change of the plugin, less the samples stored."""
        loss = self.loss

        def put_back() -> None:
            self.loss = loss

        return put_back

    # Samples

    @torch.inference_mode(False)
    def store(self, x: Tensor, y: Tensor) -> None:
        """Stores samples of the task that is being learnt; call it after the step on them.

        Args:
            x: [n, ...], as the model takes them; n may be 0.
            y: [n] int64 class labels.

        Raises:
            TypeError, ValueError: other than that, or than what is stored; NaN in x, which would
                be rehearsed for ever. Nothing has changed.
        """
        where = f"{type(self).__name__}.store"
        check_samples(x, y, where)
        _check_no_nan(x, where)
        if len(y):
            self._keep(x, y)
            self._stored = self.task

    @torch.inference_mode(False)
    def on_task_end(self, loader: Batches | None = None) -> None:
        """What is stored so far is of the past.

        Args:
            loader: the task's samples, batches (x, y, ...), all of which are stored as by ``store``
                if that was not called during the task, and no other plugin has stored samples of
                it in a buffer that they share; else it is not looked at.

        Raises:
            TypeError, ValueError: nothing was stored during the task and the loader gives nothing,
                or something else. What is stored is as before, and the task has not ended.
        """
        where = f"{type(self).__name__}.on_task_end"
        if self._stored != self.task and not self._others_stored():
            self._store_all(loader, where)
        self._begin(self.task + 1)

    def _begin(self, task: int) -> None:
        self.task = task
        self._step.forget()

    def _store_all(self, loader: Batches | None, where: str) -> None:
        if loader is None:
            raise TypeError(
                f"{where}: nothing was stored during this task and loader is None; call "
                "store(x, y) after every step, or pass the samples of the task that ended"
            )
        put_back, count = self._saved_samples(), 0
        try:
            for x, y in batches(loader, self._place(), where, labels=True):
                assert y is not None
                _check_no_nan(x, where)
                if len(y):
                    self._keep(x, y)
                count += len(y)
            if not count:
                raise ValueError(
                    f"{where}: loader gave no samples; pass the samples of the task that ended"
                )
        except BaseException:
            put_back()
            raise
        self._stored = self.task

    def _others_stored(self) -> bool:
        """Whether samples of the task have got in by another plugin."""
        return False

    @abstractmethod
    def _place(self) -> torch.device:
        """Where samples are stored."""

    @abstractmethod
    def _keep(self, x: Tensor, y: Tensor) -> None:
        """Store samples of the task that is being learnt, or change nothing."""

    @abstractmethod
    def _saved_samples(self) -> Callable[[], None]:
        """A call that takes samples out again that were stored since, of a task of which there
        were none."""

    # State

    def state_dict(self) -> dict[str, Any]:
        return {"task": self.task, "stored": self._stored, **self._own_state()}

    @torch.inference_mode(False)
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        where = f"{type(self).__name__}.load_state_dict"
        check_parts(state_dict, ("task", "stored", *self._PARTS), where)
        task = _arguments.integer(state_dict["task"], "task", where, least=0)
        stored = _arguments.integer(state_dict["stored"], "stored", where, least=-1)
        try:
            self._load_own_state(state_dict)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{where}: {error}; nothing was loaded") from error
        self._stored = stored
        self.loss = None
        self._begin(task)

    @abstractmethod
    def _own_state(self) -> dict[str, Any]: ...

    @abstractmethod
    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        """All of it, or nothing and an error."""


def _check_no_nan(x: Tensor, where: str) -> None:
    if x.is_floating_point() and bool(x.isnan().any()):
        raise ValueError(f"{where}: x holds NaN; leave such samples out")


class BufferPlugin(RehearsalPlugin):
    """Rehearsal from one buffer for all tasks.

    Args:
        model: see `RehearsalPlugin`.
        memory: a `ReplayBuffer` that is empty, or holds x, y and task as ``store`` stores them;
            then the tasks that are in it are past.
        replay: samples of a step, drawn without replacement; all there are where there are fewer.
        past_only: False: samples of the task that is being learnt are rehearsed, too, as in a
            stream without tasks.
        generator: on the CPU, draws them; None: one of the plugin's own with seed 0.
    """

    _PARTS: ClassVar[tuple[str, ...]] = ("memory", "generator")

    memory: ReplayBuffer

    def __init__(
        self,
        model: nn.Module,
        memory: ReplayBuffer,
        *,
        replay: int = 10,
        past_only: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model)
        where = type(self).__name__
        given: object = memory
        if not isinstance(given, ReplayBuffer):
            raise TypeError(f"{where}: memory must be a ReplayBuffer, got {type(given).__name__}")
        _check_rows(memory, where)
        if generator is None:
            generator = torch.Generator("cpu").manual_seed(0)
        if len(memory):
            self.task = int(memory.rows["task"].max()) + 1
        self.memory = memory
        self._seen = memory.seen  # by the buffer, when the task began
        self.replay = _arguments.integer(replay, "replay", where, least=1)
        self.past_only = _arguments.boolean(past_only, "past_only", where)
        self.generator = _arguments.cpu_generator(generator, where)

    def _has_past(self) -> bool:
        return bool(self.task) or not self.past_only

    def _past(self, count: int) -> Mapping[str, Tensor] | None:
        """So many samples to rehearse; None where there are none."""
        if not len(self.memory):
            return None
        _check_rows(self.memory, type(self).__name__)
        among = self.memory.rows["task"] != self.task if self.past_only else None
        drawn = self.memory.sample(count, self.generator, where=among)
        return drawn if len(drawn["y"]) else None

    def saved(self) -> Callable[[], None]:
        put_back, state = super().saved(), self.generator.get_state()

        def put_all_back() -> None:
            put_back()
            self.generator.set_state(state)

        return put_all_back

    def _begin(self, task: int) -> None:
        super()._begin(task)
        self._seen = self.memory.seen

    def _others_stored(self) -> bool:
        if not len(self.memory):
            return False
        _check_rows(self.memory, type(self).__name__)
        # A buffer need not have kept any; a state that was loaded in the middle of a task has not
        # seen them come.
        stored = bool((self.memory.rows["task"] == self.task).any())
        return stored or self.memory.seen > self._seen

    def _place(self) -> torch.device:
        return self.memory.device

    def _keep(self, x: Tensor, y: Tensor) -> None:
        self.memory.add(x=x, y=y, task=torch.full_like(y, self.task))

    def _saved_samples(self) -> Callable[[], None]:
        state = self.memory.state_dict()
        return lambda: self.memory.load_state_dict(state)

    def _own_state(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict(), "generator": self.generator.get_state()}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        generator = generator_state(state["generator"])
        self.memory.load_state_dict(state["memory"])
        self.generator.set_state(generator)


def _check_rows(memory: ReplayBuffer, where: str) -> None:
    if len(memory) and memory.rows.keys() != {"x", "y", "task"}:
        raise ValueError(
            f"{where}: memory must be empty or hold x, y and task, got {', '.join(memory.rows)}"
        )
