"""HAT: every task trains the units that it masks for itself, and past tasks keep theirs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import clip_grad_norm_

from .._arguments import cpu_generator, integer, one_of, real
from ..nn import TaskBatchNorm2d, TaskHeads, at_task, end_hat_task, hat_layers, masks_at
from ..nn.hat import HATLayer
from ..nn.tasks import TaskParts
from ..ops.masks import (
    anneal_scale,
    block_gradients_,
    compensate_embedding_gradients_,
    mask_sparsity,
)
from .classifier import Classifier
from .protocol import Batches, pairs


class HAT(Classifier):
    """Hard attention to the task, for streams that say which task a sample is of.

    Serrà, Surís, Miron and Karatzoglou 2018, "Overcoming catastrophic forgetting with hard
    attention to the task"; the defaults are their code's. Each task learns, beside the weights, a
    mask of the units of every `HATLinear` and `HATConv2d`, and has an output layer of its own. When
    it ends, its mask is kept and weights between its units are never changed again. With binary
    masks, which is how those layers begin, what a past task predicts does not change by a bit; with
    ``keep="soft"``, as in the authors' code, it may: a mask of 1e-9 is not 0.

    `fit_task` trains on a task as the paper does, with masks that harden in each epoch; `observe`
    takes one step. Labels count from 0 in every task, as ``SplitStream(relabel="task")`` has them.

    Args:
        model: from x [B, ...], floating point, to logits, with a `TaskHeads` and HAT layers. All
            else that is trained or keeps statistics must be a `TaskBatchNorm2d`.
        lr, momentum: of SGD, which begins anew with each task.
        epochs: of `fit_task`.
        max_scale: s_max > 0.
        sparsity: lambda >= 0, of the share of free units that the mask takes.
        compensation: of the gradients of embeddings, "analytic", or "reference", with cosh
            clamped as in the authors' code.
        embedding_limit: embeddings are clamped to +- this after each step.
        clip_norm: largest norm of all gradients together.
        generator: on the CPU, draws embeddings and heads of later tasks; None: one of the learner's
            own with seed 0.

    Raises:
        TypeError, ValueError: as `Classifier`; a model of another kind, named; options out of
            range.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 0.05,
        momentum: float = 0.0,
        epochs: int = 1,
        max_scale: float = 400.0,
        sparsity: float = 0.75,
        compensation: Literal["analytic", "reference"] = "analytic",
        embedding_limit: float = 6.0,
        clip_norm: float = 1e4,
        generator: torch.Generator | None = None,
    ) -> None:
        self.lr = real(lr, "lr", "HAT", least=0)
        self.momentum = real(momentum, "momentum", "HAT", least=0)
        self.epochs = integer(epochs, "epochs", "HAT", least=1)
        self.max_scale = real(max_scale, "max_scale", "HAT", least=0, open_ends="(")
        self.sparsity = real(sparsity, "sparsity", "HAT", least=0)
        one_of(compensation, ("analytic", "reference"), "compensation", "HAT")
        self.compensation = compensation
        self.embedding_limit = real(
            embedding_limit, "embedding_limit", "HAT", least=0, open_ends="("
        )
        self.clip_norm = real(clip_norm, "clip_norm", "HAT", least=0, open_ends="(")
        if generator is None:
            generator = torch.Generator("cpu").manual_seed(0)
        self.generator = cpu_generator(generator, "HAT")
        self._shape: list[int] | None = None
        """Of a sample, once one was seen."""
        _check_model(model)
        super().__init__(model, self._new_optimizer(model))

    @property
    def layers(self) -> dict[str, HATLayer]:
        """The HAT layers by name."""
        return hat_layers(self.model)

    @property
    def tasks(self) -> int:
        """How many tasks have begun; the newest is ``tasks - 1``."""
        return self._heads().tasks

    @property
    def ended(self) -> int:
        """How many tasks have ended."""
        return next(iter(self.layers.values())).mask.tasks - 1

    def capacity(self) -> dict[str, float]:
        """The share of each layer's units that past tasks have reserved, in [0, 1]."""
        return {n: float(m.mask.reserved_mask().float().mean()) for n, m in self.layers.items()}

    def begin_task(self, classes: int | None = None) -> None:
        """Begin the next task. `observe` and `fit_task` do it where it was not done; call it for a
        task with another number of classes than the one before.

        Raises:
            RuntimeError: the last task has not ended.
            TypeError, ValueError: classes that is no integer >= 1.
        """
        if self.tasks > self.ended:
            raise RuntimeError(
                f"HAT.begin_task: task {self.tasks - 1} is being learnt; call on_task_end first"
            )
        if classes is not None:
            classes = integer(classes, "classes", "HAT.begin_task", least=1)
        self._heads().add_task(classes, generator=self.generator)
        for module in self.model.modules():
            if isinstance(module, TaskBatchNorm2d):
                module.add_task()
        self.optimizer = self._new_optimizer(self.model)

    def observe(self, x: Tensor, y: Tensor, *, scale: float | None = None) -> dict[str, float]:
        """A step on a batch of the newest task, in train mode.

        Args:
            x: [B, ...], floating point.
            y: [B] int64 in [0, C), C as the task's head has it.
            scale: s > 0, of the masks; None: ``max_scale``.

        Returns:
            "loss", the cross-entropy, and "sparsity", the share of free units in the mask.

        Raises:
            TypeError, ValueError: as `Classifier.observe`; scale out of range. A task that would
                have begun with the batch has not.
        """
        where = "HAT.observe"
        scale = self.max_scale if scale is None else real(scale, "scale", where)
        if isinstance(x, Tensor) and not x.is_floating_point():
            raise TypeError(f"{where}: x must be floating point, got {x.dtype}")
        compensated = self.max_scale if self.compensation == "analytic" else None
        at_scale = masks_at(self.model, scale, compensated)
        with self._task_begun(), at_task(self.model, None), at_scale:
            found = super().observe(x, y)
        self._shape = list(x.shape[1:])
        return found

    def fit_task(self, loader: Batches) -> dict[str, float]:
        """Train on a task: ``epochs`` times its batches, the scale rising from 1 / s_max to s_max
        in each.

        Args:
            loader: pairs (x, y) as `observe` takes them; it has a length and can be read again, as
                a DataLoader or a list.

        Returns:
            The losses of `observe`, means over the batches of the last epoch.

        Raises:
            TypeError, ValueError: as `observe`, batches before the wrong one having been learnt; a
                loader without a length, or without a batch.
        """
        where = "HAT.fit_task"
        if not isinstance(loader, Sized):
            raise TypeError(
                f"{where}: loader must have a length, which masks harden by, got "
                f"{type(loader).__name__}; list(loader) has one"
            )
        losses: list[dict[str, float]] = []
        for epoch in range(self.epochs):
            losses = []
            for number, (x, y) in enumerate(pairs(loader, where)):
                place = (epoch, self.epochs, number, len(loader))
                scale = anneal_scale(*place, self.max_scale, schedule="hat")
                losses.append(self.observe(x, y, scale=scale))
        if not losses:
            raise ValueError(f"{where}: loader has no batch")
        return {name: sum(each[name] for each in losses) / len(losses) for name in losses[0]}

    def on_task_end(self, loader: Batches | None = None) -> None:
        """Keep the masks of the task, and reserve what it needs, see `end_hat_task`. A warning says
        where a mask is empty.

        Raises:
            RuntimeError: no task was being learnt.
        """
        del loader
        if self._shape is None or self.tasks == self.ended:
            raise RuntimeError("HAT.on_task_end: no batch was observed since the last task ended")
        end_hat_task(self.model, self._shape, self.max_scale, generator=self.generator)
        for name, layer in self.layers.items():
            if not layer.mask.of(self.ended - 1).any():
                warnings.warn(
                    f"HAT.on_task_end: the mask of task {self.ended - 1} has no unit of {name}, so "
                    "that its outputs do not depend on x; less sparsity, more epochs or a wider "
                    "layer keep some",
                    stacklevel=2,
                )

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        """The most probable class of every sample among those of its task: [B, ...] -> [B] int64.

        Args:
            x: as `observe` takes it.
            task: of all samples; None: the newest that has begun.

        Raises:
            TypeError, ValueError: a task that has not begun; as `Classifier.predict`.
        """
        return self._of_task(x, task, "HAT.predict").argmax(1)

    def predict_log_proba(self, x: Tensor, task: int | None = None) -> Tensor:
        """Log-probabilities [B, C] of the classes of the task.

        Raises as `predict`.
        """
        return self._of_task(x, task, "HAT.predict_log_proba").log_softmax(1)

    def _of_task(self, x: Tensor, task: int | None, where: str) -> Tensor:
        number = self.tasks - 1 if task is None else integer(task, "task", where, least=0)
        if number >= self.tasks:
            raise ValueError(f"{where}: task must be in 0..{self.tasks - 1}, got {number}")
        with at_task(self.model, number), masks_at(self.model, self.max_scale):
            return self._scores(x, where)

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        layers = self.layers.values()
        masks = [layer.mask for layer in layers]
        embeddings: list[Tensor] = [mask.embedding for mask in masks]
        scale, max_scale = masks[0].scale, masks[0].max_scale
        loss, _ = self._cross_entropy(x, y, where)
        used = mask_sparsity(embeddings, [m.reserved for m in masks], scale, max_scale=max_scale)
        self._backward(loss + self.sparsity * used, where)
        reserved = [each for layer in layers for each in layer.reserved().items()]
        held = [(p.grad, mask) for p, mask in reserved if p.grad is not None]
        block_gradients_([grad for grad, _ in held], [mask for _, mask in held])
        if max_scale is None:
            slopes = [e.grad for e in embeddings if e.grad is not None]
            compensate_embedding_gradients_(
                slopes, embeddings, scale, self.max_scale, mode="reference"
            )
        clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            for embedding in embeddings:
                embedding.clamp_(-self.embedding_limit, self.embedding_limit)
        return {"loss": loss.detach(), "sparsity": used.detach()}

    def _new_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Without momentum from tasks before, which would move what they reserved."""
        trained = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.SGD(trained, lr=self.lr, momentum=self.momentum)

    def _heads(self) -> TaskHeads:
        return next(m for m in self.model.modules() if isinstance(m, TaskHeads))

    @contextmanager
    def _task_begun(self) -> Iterator[None]:
        """A task that is not begun inside has not begun when the block raises."""
        if self.tasks > self.ended:
            yield
            return
        before = self.state_dict()
        try:
            self.begin_task()
            yield
        except BaseException:
            self._load(before)
            raise

    def _load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])  # has as many tasks now as the state
        self.optimizer = self._new_optimizer(self.model)
        super()._load(state)

    def _own_state(self) -> dict[str, Any]:
        return {"shape": self._shape, "generator": self.generator.get_state()}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        self._shape = state["shape"]
        self.generator.set_state(state["generator"])


def _check_model(model: object) -> None:
    """Nothing in the model that later tasks could change for earlier ones."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"HAT: model must be an nn.Module, got {type(model).__name__}")
    layers = hat_layers(model)
    if not layers:
        raise ValueError("HAT: model has no HATLinear and no HATConv2d")
    heads = [m for m in model.modules() if isinstance(m, TaskHeads)]
    if len(heads) != 1:
        raise ValueError(f"HAT: model must have one TaskHeads, got {len(heads)}")
    parts = [m for m in model.modules() if isinstance(m, TaskParts)]
    if any(part.tasks != 1 for part in parts) or any(m.mask.tasks != 1 for m in layers.values()):
        raise ValueError("HAT: model has learnt tasks already; load them with load_state_dict")
    of_tasks = {id(m) for part in parts for m in part.modules()}
    safe = {id(p) for part in parts for p in part.parameters()}
    for layer in layers.values():
        safe |= {id(p) for p in (*layer.reserved(), layer.mask.embedding)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in safe:
            raise ValueError(
                f"HAT: parameter {name} of model would change for past tasks; HATLinear, HATConv2d "
                "and modules with a part for each task keep theirs, or freeze it"
            )
    for name, module in model.named_modules():
        tracks = isinstance(module, _NormBase) and module.track_running_stats
        if tracks and id(module) not in of_tasks:
            raise ValueError(
                f"HAT: the running statistics of {name} would change for past tasks; use "
                "TaskBatchNorm2d"
            )
