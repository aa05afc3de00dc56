"""`ARM`: images that the model recalls, replayed after each step of a strategy."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ... import methods
from .adapter import check_options
from .strategy import OfModel, Strategy, check_one_head, mini_batch


class ARM(OfModel):
    """:class:`clfast.methods.ARM` in a strategy: after its step on a mini-batch, images of the
    mini-batch are changed until the network of the last experience and the network now disagree,
    and a second step brings the latter back. The network before is taken when an experience ends.

    Args:
        options: of :class:`clfast.methods.ARM` by keyword, less ``snapshot``; inputs that come as
            vectors want ``image_shape``.

    Attributes:
        learner: None before the first experience.

    Raises:
        TypeError: an option that there is not. What may be refused of values is refused when the
            first experience begins.
        RuntimeError: when an experience begins, for a model that wants task labels, a
            MultiTaskModule, or that has grown since the first.
    """

    supports_distributed = False
    learner: methods.ARM | None

    def __init__(self, **options: Any) -> None:
        super().__init__()
        check_options(methods.ARM, options, type(self).__name__, without=("optimizer", "snapshot"))
        self._options = options
        self._shapes: dict[str, torch.Size] = {}  # of what the network before has
        self.learner = None

    def before_training_exp(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        check_one_head(strategy.model, type(self).__name__)
        self._check_not_grown(strategy)

        def make(model: nn.Module) -> methods.ARM:
            return methods.ARM(model, strategy.optimizer, **self._options)

        self.learner = self.of(strategy, make, self.learner)
        self.learner.optimizer = strategy.optimizer

    def after_update(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        x, y, *_ = mini_batch(strategy, type(self).__name__)
        self._begun(self.learner).teach(x, y)

    def after_training_exp(self, strategy: Strategy, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        self._begun(self.learner).on_task_end()
        self._shapes = _shapes(strategy.model)

    def _check_not_grown(self, strategy: Strategy) -> None:
        own = set(strategy.model.parameters())
        stale = any(
            p not in own for group in strategy.optimizer.param_groups for p in group["params"]
        )
        if stale or (self._shapes and self._shapes != _shapes(strategy.model)):
            raise RuntimeError(
                f"{type(self).__name__}: strategy.model has grown, but its logits are compared to "
                "those of the network before; give its head outputs for all classes from the "
                "start, not an IncrementalClassifier"
            )


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters()}
