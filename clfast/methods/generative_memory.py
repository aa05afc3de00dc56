"""`GenerativeMemory`: what a learner of images knows, its use and its state."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import _arguments
from .._modes import evaluating
from ..nn.convolutional_critic import dcgan_critic
from ..nn.critic import Critic
from . import checks
from .generative_options import ClassifierOptions, checked
from .images import Generated, Shape, as_images
from .protocol import TaskLearner
from .restorable import Restorable
from .task_run import Run

_CHUNK = 500  # images of a class that are generated at once


class GenerativeMemory(Restorable, TaskLearner):
    """A generator that remembers classes, and a `Critic` that tells them apart.

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
    """Classifies, unless there is a network for it alone; None before the first task."""
    classes: list[int]
    """In the order in which they came; outputs of the classifier are in this order."""
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
        # Initial weights are drawn on the CPU, whatever torch's default device is.
        self._initial = torch.Generator("cpu").manual_seed(seed)
        self.critic = None
        self._classifier: Critic | None = None  # between tasks, where it is not the critic
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
    def classifier(self) -> Critic | None:
        """The network that predicts; None before the first task."""
        return self.critic if self._classifier is None else self._classifier

    @property
    def _shape(self) -> Shape:
        return self.channels, self.options.size, self.options.size

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
    def _noise(self, positions: Tensor, generator: torch.Generator | None) -> Tensor:
        """z [B, ...] for images of classes."""

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
        classifier = self._classifier or self._the_critic(method)
        where = f"{type(self).__name__}.{method}"
        x = as_images(x, self._shape, self.device, self.dtype, where)
        with evaluating(classifier):
            parts = [classifier(part)[1] for part in x.split(_CHUNK)]
        logits = torch.cat(parts) if parts else x.new_zeros(0, len(self.classes))
        checks.check_outputs(logits, where)
        return logits

    # Networks

    def _the_critic(self, method: str) -> Critic:
        if self.critic is None:
            name = type(self).__name__
            raise RuntimeError(f"{name}.{method}: nothing was learnt yet; call fit_task first")
        return self.critic

    def _critic(self, classes: int) -> Critic:
        o = self.options
        widths = {"width": o.critic_width, "size": o.size}
        with torch.device("cpu"):
            made = dcgan_critic(self.channels, classes, **widths, generator=self._initial)
        made.to(self.device, self.dtype)
        if self.device.type == "cpu":  # where convolutions are faster with it
            nn.utils.convert_conv2d_weight_memory_format(made, torch.channels_last)
        return made

    @abstractmethod
    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """New ones for the networks as they are."""

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
                "classifier": None if self._classifier is None else self._classifier.state_dict(),
                "generator": self.generator.state_dict(),
                "run": None if self._run is None else self._run.state_dict(),
                **self._own_state(),
            }
        )

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
        for name in ("critic", "classifier", "generator"):
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
        self.critic, self._classifier = (
            None if parts[name] is None else self._critic(len(self.classes))
            for name in ("critic", "classifier")
        )
        for name, network in (("critic", self.critic), ("classifier", self._classifier)):
            if network is not None:
                network.load_state_dict(parts[name])
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
