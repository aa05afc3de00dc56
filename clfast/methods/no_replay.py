"""`NoReplay`: nothing is done against forgetting, the lower bound of generative memories."""

from __future__ import annotations

from torch import Tensor

from .conditional_gan import ConditionalGan, Past
from .task_run import Run


class NoReplay(ConditionalGan):
    """Fine-tuning on the new task alone: "no replay" in figure 2 of the DGM paper.

    Critic and generator are those of `MeRGAN`, and go on learning from task to task; no image of a
    past class is seen, real or generated, and nothing ties the generator to what it was. Only
    ``classifier_epochs`` and ``recompute_statistics`` ask it for past classes, whatever it gives.

    Args:
        channels, seed, device, dtype: as of `DGMw`.
        options: the fields of :class:`GanOptions`, by keyword.

    Raises:
        TypeError, ValueError: options out of range.
    """

    def _replayed(self, count: int) -> Tensor:
        del count
        return self._remembered(0)

    def _past(self, run: Run, count: int) -> Past | None:
        del run, count
        return None
