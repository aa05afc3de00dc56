"""`AGEM`: averaged gradient episodic memory."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..ops import project_gradients_
from .rehearsal import BufferPlugin


class AGEM(BufferPlugin):
    """A step that, to first order, does not raise the mean loss on past samples.

    Chaudhry et al., "Efficient Lifelong Learning with A-GEM": ``after_backward`` takes from the
    gradients what goes against that of past samples, see :func:`clfast.ops.project_gradients_`.

    Args:
        model, memory, replay, past_only, generator: see :class:`BufferPlugin`.
    """

    def _rehearse(self, weights: Sequence[nn.Parameter], scale: float) -> Tensor | None:
        loss, slopes = self._against(self._past(self.replay), weights, scale)
        own = [weight.grad for weight in weights if weight.grad is not None]
        if not self._overflown(own, slopes, scale):
            project_gradients_(own, slopes)
        return loss
