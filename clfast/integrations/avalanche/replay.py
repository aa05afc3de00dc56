"""`Replay`: experience replay from tensors that are in memory."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ... import _arguments
from ...memory import ReplayBuffer
from .strategy import Often, Strategy, check_not_joined, columns, mini_batch, samples, trained_on

_NAMES = ("x", "y", "task")


class Replay:
    """Past samples in every mini-batch, as Avalanche's ReplayPlugin puts them there.

    Until the first experience has ended nothing is replayed. From then on every mini-batch of new
    samples is followed by ``batch_size_mem`` of the buffer, in x, in y and, where the stream has
    them, in the task labels, so that model and criterion see both. The buffer holds tensors:
    drawing is a gather, and no data set or loader is made.

    It differs from ReplayPlugin in that the samples of a mini-batch are drawn anew, without
    replacement, where a loader goes through the buffer in shuffled passes; in that samples are
    stored as the experience's data set gives them, so that a random augmentation is not repeated;
    and in that the policy is over samples or classes, not over experiences.

    Args:
        capacity: the most samples the buffer holds, at least 1.
        policy: ``"class_balanced"``, ``"reservoir"`` or ``"ring"``, see
            :class:`clfast.memory.ReplayBuffer`.
        batch_size_mem: samples of the buffer in a mini-batch; all, while it holds fewer. None: as
            many as the strategy's training mini-batch has.
        store: ``"experience"``, when one has ended its samples are stored, as by ReplayPlugin; or
            ``"iteration"``, each mini-batch after its step, for streams that are seen once; then
            samples of the experience that is under way are replayed, too.
        device: where samples live; they move to the strategy's device when they are drawn.
        generator: see :class:`clfast.memory.ReplayBuffer`.

    Attributes:
        buffer: the :class:`clfast.memory.ReplayBuffer`, with rows x, y, and task where the stream
            has task labels.

    Raises:
        TypeError, ValueError: an argument that cannot be.
        RuntimeError: when an experience of another strategy begins; when a mini-batch begins that
            is to be stored, and into which another replay plugin has put past samples.
    """

    supports_distributed = False

    def __init__(
        self,
        capacity: int,
        *,
        policy: Literal["class_balanced", "reservoir", "ring"] = "class_balanced",
        batch_size_mem: int | None = None,
        store: Often = "experience",
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> None:
        where = type(self).__name__
        capacity = _arguments.integer(capacity, "capacity", where, least=1)
        if batch_size_mem is not None:
            batch_size_mem = _arguments.integer(batch_size_mem, "batch_size_mem", where, least=1)
        _arguments.one_of(store, ("experience", "iteration"), "store", where)
        self.buffer = ReplayBuffer(capacity, policy=policy, device=device, generator=generator)
        self.batch_size_mem, self.store = batch_size_mem, store
        self._strategy: Strategy | None = None
        self._new = 0  # samples of the mini-batch that are not of the buffer

    def before_training_exp(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        if self._strategy is None:
            self._strategy = strategy
        elif self._strategy is not strategy:
            raise RuntimeError(
                f"{type(self).__name__}: it is of another strategy, whose samples it would replay; "
                "make a new one, and give it the state_dict() of this one if they shall be replayed"
            )

    def before_training_iteration(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        batch = self._parts(strategy)
        if self.store == "iteration":
            check_not_joined(strategy, type(self).__name__)
        self._new = len(batch[0])
        if len(self.buffer):
            drawn = self.buffer.sample(self.batch_size_mem or strategy.train_mb_size)
            old = (drawn[name] for name in _NAMES[: len(batch)])
            strategy.mbatch = [
                torch.cat([part, rows.to(part.device)])
                for part, rows in zip(batch, old, strict=True)
            ]

    def after_training_iteration(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        if self.store == "iteration":
            self._add([part[: self._new] for part in self._parts(strategy)])

    def after_training_exp(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        if self.store == "experience":
            read = samples(strategy, trained_on(strategy), None)
            self._add(columns(read, type(self).__name__))

    def state_dict(self) -> dict[str, Any]:
        return self.buffer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.buffer.load_state_dict(state_dict)

    def _parts(self, strategy: Strategy) -> list[Tensor]:
        """The mini-batch, whose parts are those that are stored."""
        where = type(self).__name__
        batch = mini_batch(strategy, where)
        stored = len(self.buffer.rows)
        if stored and stored != len(batch):
            raise ValueError(
                f"{where}: strategy.mbatch has {len(batch)} parts, but samples of {stored} are "
                "stored; use experiences of one benchmark, or a new Replay"
            )
        return batch

    def _add(self, parts: list[Tensor]) -> None:
        self.buffer.add(**dict(zip(_NAMES, parts, strict=False)))
