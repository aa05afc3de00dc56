"""`Hebb`, `MbPA` and `Mixture`: the strategy's model predicts through a memory."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ... import _arguments, methods
from ...memory import KeyValueMemory
from ...methods.attachment import Attachment, attach, attached
from ...methods.neighbours import NeighbourLearner
from .adapter import check_options
from .strategy import (
    NOT_BEGUN,
    Often,
    Stores,
    Strategy,
    check_one_head,
    samples,
    trained_on,
)


class PredictionHead(Stores):
    """:func:`clfast.attach` in a strategy: in ``strategy.eval`` the model's output layer adapts to
    the neighbours of its input; training is as without.

    A model in the place of the one before, as GDumbPlugin has in each experience, is attached to,
    and the memory, whose keys are features of the one before, begins anew.

    Args:
        head: name of the model's output layer, an ``nn.Linear``: ``"classifier"`` of SimpleMLP,
            ``"classifier.classifier"`` of an IncrementalClassifier of that name. It may grow.
        memory: as of `attach`; None: one without bound.
        write: ``"experience"``: when one has ended its samples are written, in one pass over them;
            ``"iteration"``: each mini-batch after its step, for streams that are seen once.
        mb_size: samples of a batch of that pass; None: the strategy's of training.
        options: of the method, as ``k=200``.

    Attributes:
        attachment: None before the first call of ``train`` or ``eval``.

    Raises:
        TypeError, ValueError: an argument that cannot be, here; a model without the head, or whose
            head has an attachment already, with the first ``train`` or ``eval``.
        RuntimeError: a model that wants task labels, a MultiTaskModule, with the first ``train`` or
            ``eval``; before the forward pass, where each mini-batch is to be written and a replay
            plugin has put past samples into it.
    """

    supports_distributed = False
    attachment: Attachment | None

    _KIND: ClassVar[type[NeighbourLearner]]

    def __init__(
        self,
        head: str,
        *,
        memory: KeyValueMemory | None = None,
        write: Often = "experience",
        mb_size: int | None = None,
        **options: Any,
    ) -> None:
        where = type(self).__name__
        if not isinstance(head, str):
            raise TypeError(f"{where}: head must be a layer's name, got {type(head).__name__}")
        self._store_every(write, "write")
        if mb_size is not None:
            mb_size = _arguments.integer(mb_size, "mb_size", where, least=1)
        placed = ("head", "memory", "base_optimizer")
        check_options(self._KIND, options, where, without=placed, beside=("write", "mb_size"))
        self.attachment = None
        self._head, self._memory, self._options = head, memory, options
        self._mb_size = mb_size

    def before_training_exp(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        self._follow(strategy.model)

    def before_eval(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        self._follow(strategy.model)

    def _keep(self, x: Tensor, y: Tensor) -> None:
        self._attached().write(x, y)

    def after_training_exp(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        attachment = self._attached()
        if self._often == "experience":
            for x, y, *_ in samples(strategy, trained_on(strategy), self._mb_size):
                attachment.write(x.to(strategy.device), y.to(strategy.device))
        attachment.on_task_end()

    def _follow(self, model: nn.Module) -> None:
        before = self.attachment
        if before is not None and before.model is model:
            return
        if before is not None:
            copied = attached(model)
            if copied is not None and copied.memory is before.memory:
                copied.detach()
        check_one_head(model, type(self).__name__)
        memory = self._memory if before is None else before.memory
        method = self._KIND.__name__.lower()
        try:
            made = attach(model, self._head, memory, method=method, **self._options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{type(self).__name__}: {error}") from error
        if before is not None:
            before.detach()
            before.memory.clear()
        self.attachment = made

    def _attached(self) -> Attachment:
        if self.attachment is None:
            raise RuntimeError(NOT_BEGUN.format(type(self).__name__))
        return self.attachment


class Hebb(PredictionHead):
    """:class:`clfast.methods.Hebb` on the strategy's model, see `PredictionHead`."""

    _KIND = methods.Hebb


class MbPA(PredictionHead):
    """:class:`clfast.methods.MbPA` on the strategy's model, see `PredictionHead`."""

    _KIND = methods.MbPA


class Mixture(PredictionHead):
    """:class:`clfast.methods.Mixture` on the strategy's model, see `PredictionHead`."""

    _KIND = methods.Mixture
