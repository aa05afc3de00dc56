"""Bases of Mammoth's models, to be put before its ``ContinualModel``:

@register_model("my-ewc")
class MyEWC(PluginModel, ContinualModel):
    NAME = "my-ewc"
    COMPATIBILITY = ["class-il"]

    def make_plugin(self):
        return EWC(self.net, strength=100.0)
"""

from __future__ import annotations

import inspect
import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ...memory import KeyValueMemory
from ...methods import Attachment, attach
from ...methods.classifier import Classifier
from ...plugins import Plugin

_Made = TypeVar("_Made")


class _Tasks:
    """What ContinualModel, which stands between these bases and this one, does with a task."""

    def begin_task(self, dataset: Any) -> None:
        """Before it."""

    def end_task(self, dataset: Any) -> None:
        """After it."""


class _MammothModel(nn.Module, _Tasks):
    """What all share: the option ``--clfast``, and the samples of a task."""

    NAME: ClassVar[str]
    # Of ContinualModel:
    net: nn.Module
    opt: torch.optim.Optimizer
    loss: Callable[[Tensor, Tensor], Tensor]
    args: Namespace

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Adds ``--clfast``."""
        parser.add_argument(
            "--clfast",
            type=_json_object,
            default={},
            help="options of the method in clfast, as '{\"strength\": 100}'",
        )
        return parser

    def begin_task(self, dataset: Any) -> None:
        """Mammoth has made the optimiser anew; before the first task the method is made, of the
        network on its device.

        Raises:
            TypeError, ValueError: options that the method does not take.
        """
        super().begin_task(dataset)

    def end_task(self, dataset: Any) -> None:
        """Gives the method the samples of the task."""
        super().end_task(dataset)

    def _made(self, kind: Callable[..., _Made], *parts: Any) -> _Made:
        """Of the options on the command line."""
        taken = [
            p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY
        ]
        where = f"{self.NAME}: --clfast"
        given = self.args.clfast
        if not isinstance(given, Mapping):
            raise TypeError(f"{where} must be a mapping of options, got {type(given).__name__}")
        try:
            return kind(*parts, **given)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}; options are {', '.join(taken)}") from error

    def _samples(self, dataset: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the task's labelled samples, as the network sees them in training."""
        for batch in dataset.train_loader:
            parts = batch if isinstance(batch, list | tuple) else [batch]
            if len(parts) < 2 or not all(isinstance(part, Tensor) for part in parts[:2]):
                kinds = ", ".join(type(part).__name__ for part in parts)
                raise TypeError(
                    f"{self.NAME}: dataset.train_loader must give batches (inputs, labels, ...) of "
                    f"tensors, got ({kinds})"
                )
            x, y = parts[:2]
            labelled = y != -1
            if labelled.any():
                yield (x, y) if bool(labelled.all()) else (x[labelled], y[labelled])


class PluginModel(_MammothModel):
    """Any plugin of :mod:`clfast.plugins` around a step on the batch."""

    PLUGIN: ClassVar[Callable[..., Plugin]]
    IN_LOSS: ClassVar[bool] = False
    """Whether the plugin changes the loss, as `LwF` must, or the gradients, which costs less."""
    plugin: Plugin | None = None
    """None before the first task."""

    def make_plugin(self) -> Plugin:
        """For ``self.net``; the class's own, with the options of the command line."""
        return self._made(type(self).PLUGIN, self.net)

    def begin_task(self, dataset: Any) -> None:
        super().begin_task(dataset)
        if self.plugin is None:
            self.plugin = self.make_plugin()

    def observe(
        self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None
    ) -> float:
        """A step; the loss is the batch's own, without what the plugin adds."""
        plugin = _begun(self.plugin, self.NAME)
        self.opt.zero_grad()
        loss = self.loss(self.net(inputs), labels)
        (plugin.before_backward(loss) if self.IN_LOSS else loss).backward()
        plugin.after_backward()
        self.opt.step()
        plugin.after_step()
        return loss.item()

    def end_task(self, dataset: Any) -> None:
        _begun(self.plugin, self.NAME).on_task_end(self._samples(dataset))
        super().end_task(dataset)


class LearnerModel(_MammothModel):
    """A learner of :mod:`clfast.methods` that has a model and an optimiser, as `ARM`."""

    LEARNER: ClassVar[Callable[..., Classifier]]
    learner: Classifier | None = None
    """None before the first task."""

    def make_learner(self) -> Classifier:
        """For ``self.net`` and ``self.opt``; the class's own, with the options of the command
        line."""
        return self._made(type(self).LEARNER, self.net, self.opt)

    def begin_task(self, dataset: Any) -> None:
        super().begin_task(dataset)
        if self.learner is None:
            self.learner = self.make_learner()
        self.learner.optimizer = self.opt

    def observe(
        self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None
    ) -> dict[str, float]:
        """The learner's step and its losses by name, the batch's own as "loss"."""
        return _begun(self.learner, self.NAME).observe(inputs, labels)

    def end_task(self, dataset: Any) -> None:
        _begun(self.learner, self.NAME).on_task_end(self._samples(dataset))
        super().end_task(dataset)


class MemoryModel(_MammothModel):
    """Plain training, and predictions through a memory: :func:`clfast.attach` on the backbone.

    When a task ends, its samples are written to the memory, each once and as the network then sees
    them. Until then there are predictions as without the memory.

    Options are those of `attach`, with ``"head"``, the name of the output layer, ``"classifier"``
    in Mammoth's backbones, and ``"capacity"``, of a memory that samples of the stream stay in with
    equal probability; without it all stay.
    """

    METHOD: ClassVar[str]
    attachment: Attachment | None = None
    """None before the first task."""

    def make_attachment(self) -> Attachment:
        """To ``self.net``; of the class's own method, with the options of the command line."""
        return self._made(_attach, self.net, type(self).METHOD)

    def begin_task(self, dataset: Any) -> None:
        super().begin_task(dataset)
        if self.attachment is None:
            self.attachment = self.make_attachment()

    def observe(
        self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None
    ) -> float:
        """A step on the batch."""
        self.opt.zero_grad()
        loss = self.loss(self.net(inputs), labels)
        loss.backward()
        self.opt.step()
        return loss.item()

    def end_task(self, dataset: Any) -> None:
        _begun(self.attachment, self.NAME).on_task_end(self._samples(dataset))
        super().end_task(dataset)


def _attach(
    net: nn.Module,
    method: str,
    *,
    head: str = "classifier",
    capacity: int | None = None,
    **options: Any,
) -> Attachment:
    layer, memory = dict(net.named_modules()).get(head), None
    if capacity is not None and isinstance(layer, nn.Linear):
        memory = KeyValueMemory(
            layer.in_features,
            capacity=capacity,
            policy="reservoir",
            device=layer.weight.device,
        )
    return attach(net, head, memory, method=method, **options)


def _begun(made: _Made | None, name: str) -> _Made:
    if made is None:
        raise RuntimeError(f"{name}: no task has begun; call meta_begin_task(dataset) first")
    return made


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArgumentTypeError(f"must be a JSON object, as '{{\"k\": 10}}': {error}") from None
    if not isinstance(found, dict):
        raise ArgumentTypeError(f"must be a JSON object, as '{{\"k\": 10}}', got {text}")
    return found
