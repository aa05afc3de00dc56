"""`ER` and `ERMIR`: past samples are trained on again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .. import _arguments
from .._wrapped import unwrapped
from ..memory import ReplayBuffer
from ..ops import mir_scores
from .base import check_loss
from .rehearsal import BufferPlugin
from .step import check_loss_of, trains


class _Replay(BufferPlugin):
    """The gradient of the loss on past samples is added."""

    @abstractmethod
    def _chosen(self, scale: float) -> Mapping[str, Tensor] | None:
        """The samples; gradients that are there are the loss's times ``scale``."""

    def _rehearse(self, weights: Sequence[nn.Parameter], scale: float) -> Tensor | None:
        trainable = self._trainable()
        loss, slopes = self._slopes(self._chosen(scale), trainable, scale)
        for weight, slope in zip(trainable, slopes, strict=True):
            if slope is None:
                continue
            if weight.grad is None:  # of those that past samples alone have gone through
                weight.grad = torch.zeros_like(weight)
            weight.grad.add_(slope)
        return loss


class ER(_Replay):
    """Experience replay: the loss of the batch plus the mean cross-entropy of past samples.

    Chaudhry et al., "On Tiny Episodic Memories in Continual Learning"; the two losses are means,
    from two passes, as in the code of Aljundi et al. that the ARM paper compares to.

    Past samples enter a step in one of two ways, of which a loop may make both calls: as a part of
    the loss by ``before_backward``, or by ``after_backward``, which takes their gradient alone and
    frees its graph. Where losses are accumulated, ``before_backward`` of one of them.

    Args:
        model, memory, replay, past_only, generator: see :class:`BufferPlugin`.

    Example:
        >>> er = ER(model, ReplayBuffer(1000), replay=10)
        >>> for loader in tasks:
        ...     for x, y in loader:
        ...         optimizer.zero_grad()
        ...         F.cross_entropy(model(x), y).backward()
        ...         er.after_backward()
        ...         optimizer.step()
        ...     er.on_task_end(loader)
    """

    _DENSE: ClassVar[bool] = False

    def before_backward(self, loss: Tensor) -> Tensor:
        """The loss with that of past samples.

        Raises:
            TypeError, ValueError: ``loss`` is no tensor of one number; the model cannot take the
                stored samples. Running statistics and draws are as before.
            RuntimeError: ``loss`` does not require grad, or is of another model.
        """
        where = f"{type(self).__name__}.before_backward"
        check_loss(loss, where)
        if not self._has_past() or not trains(loss, where):
            return loss
        check_loss_of(loss, self._trainable(), where)
        with self._whole():
            samples = self._past(self.replay)
            self.loss = None
            if samples is not None:
                own = self._loss_on(samples)
                self.loss = own.detach()
                loss = loss + own
            # Even without samples in this process: others may have some, and take no mean later.
            return self._step.watched(loss, self._trainable())

    def _chosen(self, scale: float) -> Mapping[str, Tensor] | None:
        return self._past(self.replay)


class ERMIR(_Replay):
    """Experience replay of the samples that the step would interfere with most.

    Aljundi et al., "Online Continual Learning with Maximally Interfered Retrieval": of
    ``candidates`` past samples the ``replay`` whose loss a step on the batch alone would raise
    most, see :func:`clfast.ops.mir_scores`. That takes the gradients of the batch, so all is done
    in ``after_backward``. Both losses are of passes in the mode that the model is in: with
    dropout in training mode their noise chooses, too.

    Args:
        model, memory, replay, past_only, generator: see :class:`BufferPlugin`.
        lr: >= 0, of that step, which is one of SGD. An attribute: it may follow a schedule.
        candidates: drawn to choose from.
    """

    def __init__(
        self,
        model: nn.Module,
        memory: ReplayBuffer,
        *,
        lr: float,
        replay: int = 10,
        candidates: int = 50,
        past_only: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(model, memory, replay=replay, past_only=past_only, generator=generator)
        where = type(self).__name__
        self.lr = _arguments.real(lr, "lr", where, least=0)
        self.candidates = _arguments.integer(candidates, "candidates", where, least=1)

    def _chosen(self, scale: float) -> Mapping[str, Tensor] | None:
        samples = self._past(self.candidates)
        if samples is None:
            return None
        network = unwrapped(self.model)
        grads = [
            p.grad.detach() / scale if p.requires_grad and p.grad is not None else None
            for p in network.parameters()
        ]
        x, y = self._taken(samples)
        scores = mir_scores(network, x, y, grads, self.lr)
        worst = scores.topk(min(self.replay, len(scores))).indices
        return {"x": x[worst], "y": y[worst]}
