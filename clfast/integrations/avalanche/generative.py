"""`GeneratorStrategy`: a generative learner as the generator of Avalanche's generative replay."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ... import _arguments
from ...methods.generative import GenerativeClassifier
from .strategy import pairs_of


class Generator:
    """What Avalanche asks of a generator, of a :class:`clfast.methods.DGMw`, ``DGMa``, ``DGR`` or
    ``MeRGAN``: images in [0, 1], by networks in eval mode always.

    A deep copy, which is what GenerativeReplayPlugin generates from, has the learner as it is.
    """

    def __init__(self, learner: GenerativeClassifier) -> None:
        self.learner = learner

    def generate(self, batch_size: int | None = None, condition: Tensor | None = None) -> Tensor:
        """Images [batch_size, channels, size, size], or one without the first dimension.

        Args:
            batch_size: at least 1.
            condition: [batch_size] int64, the class of each; None: drawn from those that were
                learnt, with equal probability, by torch's global generator, as the noise is.

        Raises:
            TypeError, ValueError: an argument of another kind, another number of classes than of
                images, a class that was not learnt, or none.
        """
        where = "Generator.generate"
        count = 1
        if batch_size is not None:
            count = _arguments.integer(batch_size, "batch_size", where, least=1)
        known = torch.tensor(self.learner.classes, dtype=torch.int64)
        if condition is None:
            if not len(known):
                raise ValueError(f"{where}: the learner has learnt no class yet; train it first")
            condition = known[torch.randint(len(known), (count,))]
        if not isinstance(condition, Tensor) or condition.shape != (count,):
            shape = list(condition.shape) if isinstance(condition, Tensor) else type(condition)
            raise ValueError(f"{where}: condition must be a tensor [{count}], got {shape}")
        labels = condition.tolist()
        made = [self.learner.generate(labels.count(c), [c]).images for c in sorted(set(labels))]
        # Images are in order of class; the k-th smallest label is of the k-th image.
        images = torch.cat(made)[condition.argsort(stable=True).argsort().to(made[0].device)]
        return images if batch_size is not None else images[0]

    def eval(self) -> Generator:
        return self

    def to(self, device: torch.device) -> Generator:
        """Itself: the learner stays where it is, and images are moved by who asks for them."""
        del device
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Generator:
        return Generator(copy.deepcopy(self.learner, memo))


class GeneratorStrategy:
    """``generator_strategy`` of Avalanche's GenerativeReplayPlugin, over a learner of ours.

    The plugin asks for images before it knows of their classes, and has them labelled by a copy of
    the strategy's model; with TrainGeneratorAfterExpPlugin beside it the learner learns each
    experience when it has ended. The plugin wants a stream of samples (x, y, task label), as of
    ``nc_benchmark``.

    Args:
        learner: of images as the stream has them.
        mb_size: samples that are read of the data set at once; the learner has a batch of its own.

    Attributes:
        model: the `Generator`.

    Raises:
        TypeError, ValueError: an argument that cannot be.
    """

    def __init__(self, learner: GenerativeClassifier, *, mb_size: int = 256) -> None:
        where = "GeneratorStrategy"
        given: object = learner
        if not isinstance(given, GenerativeClassifier):
            kind = type(given).__name__
            raise TypeError(
                f"{where}: learner must be one of DGMw, DGMa, DGR and MeRGAN, got {kind}"
            )
        self._mb_size = _arguments.integer(mb_size, "mb_size", where, least=1)
        self.model = Generator(learner)

    def train(self, experience: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Learns the classes of an experience; see ``fit_task`` of the learner."""
        del args, kwargs
        return self.model.learner.fit_task(pairs_of(experience.dataset, self._mb_size))
