"""`GenerativeClassifier`: a classifier that learns old classes again from images of a generator."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import _arguments
from ..nn.critic import Critic, dcgan_critic
from ..optim import MaskedAdam
from . import checks
from .generative_options import ClassifierOptions, checked
from .images import Generated, Samples, Shape, as_images, samples_of
from .modes import evaluating
from .protocol import Batches, TaskLearner
from .restorable import Restorable
from .task_run import Progress, Run

_CHUNK = 500  # images of a class that are generated at once


class GenerativeClassifier(Restorable, TaskLearner):
    """A generator that remembers classes, and a `Critic` that is taught by both it and new images.

    Images are [B, channels, size, size]: floating point in [0, 1], or uint8. Classes are any
    integers of at least 0; each belongs to the task that showed it.

    Args:
        channels: of the images.
        seed: of initial values, noise and the order of samples.
        device, dtype: of the networks.
        options: the fields of the learner's options, by keyword.
    """

    generator: nn.Module
    critic: Critic | None
    """Which is the classifier; None before the first task."""
    classes: list[int]
    """In the order in which they came; outputs of the critic are in this order."""
    history: list[dict[str, Any]]
    """What was found of each task; plain numbers, lists and text."""

    options: ClassifierOptions

    _OPTIONS: ClassVar[type[ClassifierOptions]]
    _LOSSES: ClassVar[tuple[str, ...]]
    _keeps_critic = True

    def __init__(
        self,
        channels: int = 1,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> None:
        name = type(self).__name__
        self.options = checked(self._OPTIONS, options, name)
        self.channels = _arguments.integer(channels, "channels", name, least=1)
        _arguments.one_of(dtype, (torch.float32, torch.float64), "dtype", name)
        self.device = _arguments.device(device, name)
        self.dtype = dtype
        seed = _arguments.integer(seed, "seed", name, least=0)
        self._random = torch.Generator(self.device).manual_seed(seed)
        self._initial = torch.Generator().manual_seed(seed)
        self.critic = None
        self.classes = []
        self.history = []
        self._task_of: list[int] = []  # of each of the classes
        self._run: Run | None = None
        self._unchecked: list[Tensor] = []  # losses of the last steps

    @property
    def tasks(self) -> int:
        """That were learnt."""
        return len(self.history)

    @property
    def _shape(self) -> Shape:
        return self.channels, self.options.size, self.options.size

    # Learning

    def fit_task(
        self, loader: Batches, *, after_batch: Callable[[Progress], None] | None = None
    ) -> dict[str, float]:
        """Learn the classes that the loader shows.

        The loader is read once; its samples stay in memory, on the device, until the task is
        learnt. A learner that took over the state of another in the middle of a task goes on there:
        it needs the same samples in the same order.

        Args:
            loader: batches x [B, channels, size, size], y [B].
            after_batch: called after each batch; it may take the `state_dict`. What it raises
                ends the task as any error does.

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
        elif len(known) + len(classes) > self.options.max_classes:
            raise ValueError(
                f"{where}: with {classes} there are {len(known) + len(classes)} classes; "
                f"max_classes is {self.options.max_classes}"
            )
        return samples

    def _begin(self, samples: Samples) -> Run:
        """A run at its first batch; the critic knows the new classes."""
        replay = self._replayed(round(len(samples.y) / len(samples.classes)))
        self.classes += samples.classes
        self._task_of += [self.tasks] * len(samples.classes)
        self._renew_critic(len(samples.classes))
        empty = replay.new_zeros(len(self._LOSSES))
        order = torch.empty(0, dtype=torch.int64, device=self.device)
        return Run(self._optimizers(), replay, len(samples.y), order, empty)

    def _renew_critic(self, added: int) -> None:
        """A critic for all classes, a new one or that of the tasks before."""
        if self.critic is None or not self._keeps_critic:
            self.critic = self._critic(len(self.classes))
        else:
            self.critic.add_classes(added, self._initial)

    def _critic(self, classes: int) -> Critic:
        o = self.options
        widths = {"width": o.critic_width, "size": o.size}
        made = dcgan_critic(self.channels, classes, **widths, generator=self._initial)
        made.to(self.device, self.dtype)
        if self.device.type == "cpu":  # where convolutions are faster with it
            nn.utils.convert_conv2d_weight_memory_format(made, torch.channels_last)
        return made

    def _replayed(self, count: int) -> Tensor:
        """So many images of each past class, [past, count, ...] in [-1, 1]."""
        past = [
            self._images(position, count, self._random) for position in range(len(self.classes))
        ]
        if past:
            return torch.stack(past)
        shape = (0, count, *self._shape)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """New ones for the networks as they are."""
        o = self.options
        betas = float(o.betas[0]), float(o.betas[1])
        critic = self._the_critic("fit_task").parameters()
        return {
            "critic": MaskedAdam(critic, lr=o.lr, betas=betas),
            "generator": MaskedAdam(self._learnt(), lr=o.lr, betas=betas, **self._kept()),
        }

    @abstractmethod
    def _learnt(self) -> list[nn.Parameter]:
        """The generator's, in this task."""

    def _kept(self) -> dict[str, Any]:
        """Of the generator: options of `MaskedAdam` by keyword."""
        return {}

    @abstractmethod
    def _learn_batch(self, run: Run, x: Tensor, y: Tensor, batch: int, batches: int) -> Tensor:
        """One iteration on images in [-1, 1] and positions of their classes; the `_LOSSES`."""

    def _epoch_ended(self, run: Run, batches: int) -> None:
        """After the last batch of an epoch."""

    @abstractmethod
    def _finish(self, samples: Samples) -> dict[str, Any]:
        """After the last epoch; what is to be told of it in `history`."""

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

    @abstractmethod
    def _noise(self, positions: Tensor, generator: torch.Generator | None) -> Tensor:
        """z [B, ...] for images of classes."""

    def _check_losses(self, where: str) -> None:
        """Of the steps since the last check, and the parameters now."""
        if self._run is None or not self._unchecked:
            return
        losses, self._unchecked = torch.stack(self._unchecked), []
        run = self._run
        batches = -(-run.size // self.options.batch)
        last = run.epoch * batches + run.batch - 1
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise RuntimeError(
                f"{where}: the {self._LOSSES[column]} loss is {float(losses[row, column])} at step "
                f"{last - len(losses) + 1 + row} of task {self.tasks}; try a smaller lr"
            )
        networks = [self.generator, self.critic]
        tensors = [p for network in networks if network is not None for p in network.parameters()]
        if not bool(torch.stack([t.detach().isfinite().all() for t in tensors]).all()):
            raise RuntimeError(
                f"{where}: a parameter is NaN or infinite after step {last} of task {self.tasks}; "
                "try a smaller lr"
            )

    # Use

    def generate(
        self,
        n: int,
        classes: Sequence[int] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Generated:
        """n images of each of the classes, in their order.

        The same call with a generator of the same state gives the same images.

        Args:
            classes: that were learnt; None: all, in the order in which they came.
            generator: on the learner's device, draws the noise; None: torch's global one.

        Raises:
            TypeError, ValueError: n below 1; a class that was not learnt, or is no integer; what
                is no generator on the device.
        """
        where = f"{type(self).__name__}.generate"
        n = _arguments.integer(n, "n", where, least=1)
        known = [c for c, t in zip(self.classes, self._task_of, strict=True) if t < self.tasks]
        wanted = known if classes is None else self._labels_in(classes, where)
        self._check_generator(generator, where)
        for label in wanted:
            if label not in known:
                raise ValueError(
                    f"{where}: classes holds {label}, which was not learnt; there are "
                    f"{', '.join(map(str, known)) or 'none yet'}"
                )
        if not wanted:
            raise ValueError(f"{where}: classes is empty")
        images = [self._images(self.classes.index(c), n, generator) for c in wanted]
        labels = torch.tensor(wanted, device=self.device).repeat_interleave(n)
        return Generated((torch.cat(images) + 1) / 2, labels)

    def _check_generator(self, generator: object, where: str) -> None:
        if generator is None:
            return
        if not isinstance(generator, torch.Generator):
            kind = type(generator).__name__
            raise TypeError(f"{where}: generator must be a torch.Generator, got {kind}")
        if generator.device != self._random.device:
            raise ValueError(
                f"{where}: generator must be on {self._random.device}, got {generator.device}"
            )

    @staticmethod
    def _labels_in(classes: object, where: str) -> list[int]:
        if not isinstance(classes, Iterable):
            kind = type(classes).__name__
            raise TypeError(f"{where}: classes must be a sequence of integers, got {kind}")
        return [_arguments.integer(label, "a class", where, least=0) for label in classes]

    @torch.no_grad()
    def _images(self, position: int, n: int, generator: torch.Generator | None) -> Tensor:
        """Of one class, in [-1, 1]; all by networks in eval mode."""
        positions = torch.full((n,), position, device=self.device)
        z = self._noise(positions, generator)
        with evaluating(self.generator):
            sample = self._sampler(self._task_of[position])
            parts = zip(z.split(_CHUNK), positions.split(_CHUNK), strict=True)
            return torch.cat([sample(*part) for part in parts])

    @abstractmethod
    def _sampler(self, task: int) -> Callable[[Tensor, Tensor], Tensor]:
        """From z [B, ...] and positions [B] of classes of a task that was learnt to images in
        [-1, 1]."""

    def predict(self, x: Tensor) -> Tensor:
        """The class of every image: [B, channels, size, size] -> [B] int64, on its own device.

        Raises:
            RuntimeError: nothing was learnt yet.
            TypeError, ValueError: x is not of images; outputs that hold NaN.
        """
        scores = self._scores(x, "predict")
        return torch.tensor(self.classes, device=self.device)[scores.argmax(1)]

    def predict_log_proba(self, x: Tensor) -> Tensor:
        """Log-probabilities [B, C] of `classes`, in their order. Raises as `predict`."""
        return self._scores(x, "predict_log_proba").log_softmax(1)

    @torch.no_grad()
    def _scores(self, x: Tensor, method: str) -> Tensor:
        critic = self._the_critic(method)
        where = f"{type(self).__name__}.{method}"
        x = as_images(x, self._shape, self.device, self.dtype, where)
        with evaluating(critic):
            parts = [critic(part)[1] for part in x.split(_CHUNK)]
        logits = torch.cat(parts) if parts else x.new_zeros(0, len(self.classes))
        checks.check_outputs(logits, where)
        return logits

    def _the_critic(self, method: str) -> Critic:
        if self.critic is None:
            name = type(self).__name__
            raise RuntimeError(f"{name}.{method}: nothing was learnt yet; call fit_task first")
        return self.critic

    # State

    @torch.inference_mode(False)
    def state_dict(self) -> dict[str, Any]:
        """All that was learnt, also in the middle of a task; then with the replayed images.

        Raises RuntimeError where a loss has become NaN: such a state is not worth keeping.
        """
        self._check_losses(f"{type(self).__name__}.state_dict")
        return copy.deepcopy(
            {
                "classes": self.classes,
                "task_of": self._task_of,
                "history": self.history,
                "random": self._random.get_state(),
                "initial": self._initial.get_state(),
                "critic": None if self.critic is None else self.critic.state_dict(),
                "generator": self.generator.state_dict(),
                "run": None if self._run is None else self._run.state_dict(),
                **self._own_state(),
            }
        )

    def _check_state(self, state: Mapping[str, Any]) -> None:
        classes, task_of, history = (list(state[n]) for n in ("classes", "task_of", "history"))
        if len(set(classes)) < len(classes) or len(classes) > self.options.max_classes:
            most = self.options.max_classes
            raise ValueError(f"classes must be different, and {most} at most, got {classes}")
        if len(task_of) != len(classes) or task_of != sorted(task_of):
            raise ValueError(f"task_of must be a task for each of {classes}, got {task_of}")
        begun = len(history) + (state["run"] is not None)
        if set(task_of) != set(range(begun)) or not all(isinstance(r, Mapping) for r in history):
            raise ValueError(
                f"history must have a mapping for each task that was learnt; it has {len(history)} "
                f"entries, and task_of is {task_of}"
            )
        for name in ("critic", "generator"):
            for key, value in (state[name] or {}).items():
                if not bool(value.isfinite().all()):
                    raise ValueError(f"the {name} holds NaN or Inf in {key}")

    @torch.inference_mode(False)
    def _load(self, state: Mapping[str, Any]) -> None:
        parts = copy.deepcopy(dict(state))
        self._unchecked = []
        self.classes, self._task_of = parts["classes"], parts["task_of"]
        self.history = parts["history"]
        self._load_own_state(parts)
        self.generator.load_state_dict(parts["generator"])
        self.critic = None
        if parts["critic"] is not None:
            self.critic = self._critic(len(self.classes))
            self.critic.load_state_dict(parts["critic"])
        self._run = None
        if (run := parts["run"]) is not None:
            optimizers = self._optimizers()
            for name, optimizer in optimizers.items():
                optimizer.load_state_dict(run["optimizers"][name])
            for name in ("replay", "order", "sums"):
                run[name] = run[name].to(self.device)
            self._run = Run(**{**run, "optimizers": optimizers})
        # Last: making the networks has drawn from it.
        self._initial.set_state(parts["initial"].cpu())
        self._random.set_state(parts["random"].cpu())

    def _own_state(self) -> dict[str, Any]:
        """What a subclass keeps beside this."""
        return {}

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take it over, and give the generator the shapes that its state has."""
        del state
