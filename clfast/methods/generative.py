"""`GenerativeClassifier`: a classifier that learns old classes again from images of a generator."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..optim import MaskedAdam
from .fingerprint import fingerprint
from .generative_memory import GenerativeMemory
from .images import Samples, samples_of
from .protocol import Batches
from .task_run import Progress, Run


class GenerativeClassifier(GenerativeMemory):
    """A `GenerativeMemory` whose critic is taught by its images and by those of new classes.

    Args:
        channels, seed, device, dtype, options: as of `GenerativeMemory`.
    """

    def fit_task(
        self, loader: Batches, *, after_batch: Callable[[Progress], None] | None = None
    ) -> dict[str, float]:
        """Learn the classes that the loader shows.

        The loader is read once; its samples stay in memory, on the device, until the task is
        learnt. A learner that took over the state of another in the middle of a task goes on there:
        it needs the same samples in the same order.

        Args:
            loader: batches x [B, channels, size, size], y [B].
            after_batch: called after each batch, but not of ``classifier_epochs``; it may take the
                `state_dict`. What it raises ends the task as any error does.

        Returns:
            The losses by name, means over the last epoch; those of all are in `history`.

        Raises:
            TypeError, ValueError: no samples; images or labels that are none; a class of an
                earlier task; more classes than ``max_classes``; other samples than those of the
                task that was begun.
            RuntimeError: a loss or a parameter became NaN or infinite, with the step.
            In each case the learner is as before the call.
        """
        where = f"{type(self).__name__}.fit_task"
        with torch.inference_mode(False), torch.enable_grad():
            samples = self._taken(loader, where)
            before = self.state_dict()
            try:
                self._fit(samples, after_batch, where)
            except BaseException:
                self._load(before)
                raise
        return {name: curve[-1] for name, curve in self.history[-1]["losses"].items()}

    def _fit(
        self, samples: Samples, after_batch: Callable[[Progress], None] | None, where: str
    ) -> None:
        if self._run is None:
            self._run = self._begin(samples)
        run, size = self._run, self.options.batch
        batches = -(-run.size // size)
        steps = self.options.epochs * batches
        # Classes of a task are ascending in `classes`, after those of the tasks before.
        own = torch.tensor(samples.classes, device=self.device)
        targets = torch.searchsorted(own, samples.y) + len(self.classes) - len(own)
        while run.epoch < self.options.epochs:
            if run.batch == 0:
                run.order = torch.randperm(run.size, generator=self._random, device=self.device)
                run.sums = run.sums.new_zeros(len(self._LOSSES))
            for batch in range(run.batch, batches):
                rows = run.order[batch * size : (batch + 1) * size]
                try:
                    losses = self._learn_batch(run, samples.x[rows], targets[rows], batch, batches)
                except (RuntimeError, ValueError):  # of an op that met NaN
                    self._check_losses(where)
                    raise
                run.sums += losses
                run.batch = batch + 1
                self._unchecked.append(losses)
                if len(self._unchecked) >= self.options.check_every:
                    self._check_losses(where)
                if after_batch is not None:
                    step = run.epoch * batches + batch
                    after_batch(Progress(self.tasks, run.epoch, batch, step, steps))
            run.means.append((run.sums / batches).tolist())
            self._epoch_ended(run, batches)
            run.epoch, run.batch = run.epoch + 1, 0
        self._check_losses(where)
        curves = list(zip(*run.means, strict=True))
        self.history.append(
            {
                "task": self.tasks,
                "classes": samples.classes,
                "samples": run.size,
                "losses": {n: list(c) for n, c in zip(self._LOSSES, curves, strict=True)},
                **self._finish(samples),
            }
        )
        self._task_ended(samples, where)
        self._run = None

    def _taken(self, loader: Batches, where: str) -> Samples:
        """All samples; ValueError where they are not those of the next task, or of this one."""
        samples = samples_of(loader, self._shape, self.device, self.dtype, where)
        known = dict(zip(self.classes, self._task_of, strict=True))
        run, classes = self._run, samples.classes
        for label in classes:
            if known.get(label, self.tasks) < self.tasks:
                raise ValueError(f"{where}: class {label} was learnt, in task {known[label]}")
        if run is not None:
            begun = sorted(label for label, task in known.items() if task == self.tasks)
            if classes != begun or len(samples.y) != run.size:
                raise ValueError(
                    f"{where}: task {self.tasks} was begun with {run.size} samples of classes "
                    f"{begun}; got {len(samples.y)} of {classes}"
                )
            if run.samples != fingerprint(samples.x, samples.y):
                raise ValueError(
                    f"{where}: task {self.tasks} was begun with other samples, or in another "
                    "order; pass the same ones, from a loader that does not shuffle"
                )
        elif len(known) + len(classes) > self.options.max_classes:
            raise ValueError(
                f"{where}: with {classes} there are {len(known) + len(classes)} classes; "
                f"max_classes is {self.options.max_classes}"
            )
        return samples

    def _begin(self, samples: Samples) -> Run:
        """A run at its first batch; the critic knows the new classes."""
        replay = self._replayed(samples.each)
        self._classifier = None
        self.classes += samples.classes
        self._task_of += [self.tasks] * len(samples.classes)
        self._renew_critic(len(samples.classes))
        empty = replay.new_zeros(len(self._LOSSES))
        order = torch.empty(0, dtype=torch.int64, device=self.device)
        seen = fingerprint(samples.x, samples.y)
        return Run(self._optimizers(), replay, len(samples.y), seen, order, empty)

    def _renew_critic(self, added: int) -> None:
        """A critic for all classes, a new one or that of the tasks before."""
        if self.critic is None or not self._keeps_critic:
            self.critic = self._critic(len(self.classes))
        else:
            with torch.device("cpu"):
                self.critic.add_classes(added, self._initial)

    def _replayed(self, count: int) -> Tensor:
        """What is kept of the past for a task that begins: so many images of each past class."""
        return self._remembered(count)

    def _remembered(self, count: int) -> Tensor:
        """So many images of each class, [classes, count, ...] in [-1, 1]."""
        found = [
            self._images(position, count, self._random) for position in range(len(self.classes))
        ]
        if found:
            return torch.stack(found)
        shape = (0, count, *self._shape)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"critic": MaskedAdam(self._the_critic("fit_task").parameters(), **self._adam())}

    def _adam(self) -> dict[str, Any]:
        """Options of `MaskedAdam` by keyword."""
        first, second = map(float, self.options.betas)
        return {"lr": self.options.lr, "betas": (first, second)}

    @abstractmethod
    def _learn_batch(self, run: Run, x: Tensor, y: Tensor, batch: int, batches: int) -> Tensor:
        """One iteration on images in [-1, 1] and positions of their classes; the `_LOSSES`."""

    def _epoch_ended(self, run: Run, batches: int) -> None:
        """After the last batch of an epoch."""

    @abstractmethod
    def _finish(self, samples: Samples) -> dict[str, Any]:
        """After the last epoch; what is to be told of it in `history`."""

    def _task_ended(self, samples: Samples, where: str) -> None:
        """After that, when images of the new classes can be made."""

    def _classify(self, run: Run, x: Tensor, y: Tensor) -> Tensor:
        """Steps of the critic on cross-entropy of the batch and of as many images of each past
        class, mixed, in minibatches of the batch's size; the mean loss."""
        critic = self._the_critic("fit_task")
        past, count = run.replay.shape[:2]
        if past:
            each = -(-len(x) // (len(self.classes) - past))
            options: dict[str, Any] = {"generator": self._random, "device": self.device}
            drawn = torch.randint(count, (past, each), **options)
            labels = torch.arange(past, device=self.device)
            old = run.replay[labels[:, None], drawn].flatten(0, 1)
            mixed = torch.randperm(len(x) + len(old), **options)
            x = torch.cat([x, old])[mixed]
            y = torch.cat([y, labels.repeat_interleave(each)])[mixed]
        size = self.options.batch
        losses = []
        for images, targets in zip(x.split(size), y.split(size), strict=True):
            loss = nn.functional.cross_entropy(critic(images)[1], targets)
            run.optimizers["critic"].zero_grad()
            loss.backward()
            run.optimizers["critic"].step()
            losses.append(loss.detach())
        return torch.stack(losses).mean()
