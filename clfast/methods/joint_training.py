"""`JointTraining`: real samples of all classes, the upper bound of generative memories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .generative import GenerativeClassifier
from .generative_options import ClassifierOptions
from .images import Samples, Shape
from .task_run import Run


@dataclass(frozen=True)
class JointOptions(ClassifierOptions):
    """The defaults are DGM's authors' for the critic, but for epochs: it has no generator to wait
    for."""

    epochs: int = 10


class StoredImages(nn.Module):
    """Images of classes, kept as they are.

    Args:
        shape: of an image, [channels, size, size].
    """

    images: Tensor  # [N, channels, size, size], class after class
    ends: Tensor  # [1 + classes] int64; class c has the images from ends[c] to ends[c + 1]

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.register_buffer("images", torch.empty(0, *shape))
        self.register_buffer("ends", torch.zeros(1, dtype=torch.int64))

    def add(self, images: Tensor) -> None:
        """Of the next class."""
        self.images = torch.cat([self.images, images])
        self.ends = torch.cat([self.ends, self.ends.new_tensor([len(self.images)])])

    def forward(self, u: Tensor, classes: Tensor) -> Tensor:
        """Image number floor(u n) of the n of each class: u [B] in [0, 1), classes [B] int64."""
        return self.images[self.ends[classes] + (u * self._counts()[classes]).long()]

    def all(self) -> Tensor:
        """[classes, R, ...], R being the largest number of a class; smaller ones begin again."""
        counts = self._counts()
        most = int(counts.max()) if len(counts) else 0
        numbers = torch.arange(most, device=counts.device) % counts[:, None]
        return self.images[self.ends[:-1, None] + numbers]

    def _counts(self) -> Tensor:
        return self.ends.diff()


class JointTraining(GenerativeClassifier):
    """Joint training (JT): what a classifier reaches that has the real samples of all classes.

    Nothing is adversarial in it (section 4 of the DGM paper): with each task a critic that has
    learnt nothing is taught to classify, by the task's samples and as many of each past class, all
    of which are kept. ``generate`` gives samples that are kept, drawn with replacement.

    Args:
        channels, seed, device, dtype: as of `DGMw`.
        options: the fields of :class:`JointOptions`, by keyword.

    Raises:
        TypeError, ValueError: options out of range.
    """

    generator: StoredImages
    options: JointOptions

    _OPTIONS = JointOptions
    _LOSSES = ("classifier",)
    _keeps_critic = False

    @torch.inference_mode(False)
    def __init__(self, channels: int = 1, **arguments: Any) -> None:
        super().__init__(channels, **arguments)
        self.generator = self._empty()

    def _empty(self) -> StoredImages:
        with torch.device("cpu"):
            return StoredImages(self._shape).to(self.device, self.dtype)

    def _replayed(self, count: int) -> Tensor:
        del count
        return self.generator.all()

    def _learn_batch(self, run: Run, x: Tensor, y: Tensor, batch: int, batches: int) -> Tensor:
        self._the_critic("fit_task").train()
        return self._classify(run, x, y)[None]

    def _finish(self, samples: Samples) -> dict[str, Any]:
        for label in samples.classes:
            self.generator.add(samples.x[samples.y == label])
        return {"bytes": {"images": self.generator.images.nbytes}}

    def _noise(self, positions: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.rand(len(positions), generator=generator, dtype=self.dtype, device=self.device)

    def _sampler(self, task: int) -> Callable[[Tensor, Tensor], Tensor]:
        del task
        return self.generator

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        stored = self.generator = self._empty()
        stored.images = stored.images.new_empty(state["generator"]["images"].shape)
        stored.ends = stored.ends.new_empty(state["generator"]["ends"].shape)
