"""`PhaseLearner`: a classifier that learns classes phase by phase, and keeps exemplars of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .._arguments import cpu_generator, integer, one_of
from ..memory import ExemplarMemory
from ..nn import statistics_kept
from . import checks
from .exemplar_selection import Exemplars, ExemplarSelection, Herding
from .fingerprint import fingerprint
from .network_parts import Parts, narrowed, parts
from .phase_options import Phase, PhaseProgress, PhaseRun
from .phase_samples import check_sizes, samples_of
from .protocol import Batches
from .seen import SeenClassifier
from .weight_transfer import Transfer, WeightTransfer, kernels


class PhaseLearner(SeenClassifier):
    """Learns new classes in phases, each with exemplars of the classes before it.

    `fit_task` is a phase: epochs over new samples and exemplars together, in which the network of
    the phase before teaches; then exemplars of the new classes are selected, old ones adjusted, and
    the network is fine-tuned on all of them if ``phase`` says so. For a stream there are
    ``observe``, a step on a batch, and `on_task_end`, which selects exemplars of what the loader
    gives.

    The model has outputs for all classes from the start. Labels may come in any order and leave
    numbers out; outputs of classes not seen yet take no part in losses and predictions. Samples are
    floating point, or uint8, which stands for x / 255.

    Args:
        model: from x [B, ...] to logits [B, C]. To select exemplars by its features, and for those
            who need them, it has modules ``features`` and ``head``: logits are head(features(x)).
        optimizer: of its parameters. A phase begins with the learning rates that it has between
            phases, and without state.
        exemplars: the memory, which must be empty; its budget is that of the learner.
        selection: which exemplars there are; default: `Herding()`.
        phase: epochs, batches, and all that a phase is told; default: `Phase()`.
        transfer: from the second phase on convolutions learn "scale" or "scale_shift" of what they
            were after the first, see `WeightTransfer`; None: their weights.
        replay: exemplars that ``observe`` draws to each batch.
        generator: on the CPU, draws orders, augmentations and exemplars; None: one of the learner's
            own with seed 0.
        snapshot, teach_from: see `SnapshotClassifier`.

    Raises:
        TypeError, ValueError: as `Classifier`; an option that cannot be.
    """

    exemplars: ExemplarMemory
    phases: int
    """That `fit_task` has learnt."""

    _PER_CLASS: ClassVar[int] = 20

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        exemplars: ExemplarMemory | None = None,
        selection: ExemplarSelection | None = None,
        phase: Phase | None = None,
        transfer: Transfer | None = None,
        replay: int = 0,
        generator: torch.Generator | None = None,
        snapshot: Literal["task"] | int = "task",
        teach_from: int | None = None,
    ) -> None:
        super().__init__(model, optimizer, snapshot, teach_from)
        name = type(self).__name__
        exemplars = ExemplarMemory(self._PER_CLASS) if exemplars is None else exemplars
        selection = Herding() if selection is None else selection
        phase = Phase() if phase is None else phase
        for kind, given, what in (
            (ExemplarMemory, exemplars, "exemplars"),
            (ExemplarSelection, selection, "selection"),
            (Phase, phase, "phase"),
        ):
            if not isinstance(given, kind):
                came = type(given).__name__
                raise TypeError(f"{name}: {what} must be of {kind.__name__}, got {came}")
        if len(exemplars):
            raise ValueError(
                f"{name}: exemplars must be empty, got {len(exemplars)} of them; load_state_dict "
                "brings back those of a learner"
            )
        if exemplars.share(1) and snapshot != "task":
            raise ValueError(f"{name}: snapshot must be 'task' to keep exemplars, got {snapshot!r}")
        one_of(transfer, (None, "scale", "scale_shift"), "transfer", name)
        if transfer is not None and not kernels(model):
            raise ValueError(f"{name}: transfer is {transfer}, but model has no convolution")
        if generator is None:
            generator = torch.Generator("cpu").manual_seed(0)
        self.exemplars = exemplars
        self.selection = selection
        self.phase = phase
        self.transfer = transfer
        self.replay = integer(replay, "replay", name, least=0)
        self.generator = cpu_generator(generator, name)
        self.phases = 0
        self._run: PhaseRun | None = None
        self._transferred: WeightTransfer | None = None

    @property
    def memories(self) -> list[ExemplarMemory]:
        """All samples that are kept of phases before, which share the budget."""
        return [self.exemplars]

    # Learning

    def fit_task(
        self,
        loader: Batches,
        *,
        after_epoch: Callable[[PhaseProgress], None] | None = None,
    ) -> dict[str, float]:
        """Learn the classes that the loader shows: a phase, to its end; ``on_task_end`` is not
        called after it.

        The loader is read once; its samples are in memory, on the model's device, until the phase
        is learnt. A learner that took over the state of another in the middle of a phase goes on
        there: it needs the same samples in the same order.

        Args:
            loader: batches x [B, ...], y [B] int64.
            after_epoch: called after each epoch; it may take the `state_dict`. What it raises ends
                the phase as any error does.

        Returns:
            The losses by name, means over the last epoch.

        Raises:
            TypeError, ValueError: no samples, or other than the model takes; NaN in them; samples
                of another shape than the exemplars; labels that are none of the model's outputs; a
                class of an earlier phase; of a class fewer samples than exemplars are kept of each;
                other samples than those of the phase that was begun; a gradient that is NaN or
                infinite.
            RuntimeError: the selection failed.
            In each case the learner is as before the call.
        """
        where = f"{type(self).__name__}.fit_task"
        self._check(where)
        if self.snapshot != "task":
            raise ValueError(f"{where}: snapshot must be 'task', got {self.snapshot!r}")
        x, y = self._taken(loader, where)
        with self._whole(where):
            if self._run is None:
                self._run = self._begin(x, y, where)
            run = self._run
            if run.size != len(y) or run.classes != y.unique().tolist():
                raise ValueError(
                    f"{where}: phase {self.phases} was begun with {run.size} samples of classes "
                    f"{run.classes}; got {len(y)} of {y.unique().tolist()}"
                )
            if run.samples != fingerprint(x, y):
                raise ValueError(
                    f"{where}: phase {self.phases} was begun with other samples, or in another "
                    "order; pass the same ones, from a loader that does not shuffle"
                )
            x, y = x[run.rows.to(x.device)], y[run.rows.to(y.device)]
            self._train(run, *self._with_exemplars(x, y), after_epoch, where)
            self._end(x, y, where)
            self._set_lrs(run.lrs)
            self.phases += 1
            self._run = None
        return run.losses

    def on_task_end(self, loader: Batches | None = None) -> None:
        """Between tasks of a stream: select exemplars of what the loader gives, and all else that
        ends a phase. A learner that keeps none needs no loader.

        Raises:
            TypeError, ValueError, RuntimeError: as `fit_task`; no loader. The learner is as before.
        """
        if not self.exemplars.share(1):
            super().on_task_end(loader)
            return
        where = f"{type(self).__name__}.on_task_end"
        if self._run is not None:
            raise RuntimeError(f"{where}: a phase is being learnt; call fit_task to its end")
        if loader is None:
            raise TypeError(f"{where}: loader must give the task's samples, to select exemplars of")
        x, y = self._taken(loader, where)
        with self._whole(where):
            classes = self._check_classes(x, y, where)
            self.seen.update(classes)
            check_sizes(y, self._share(y), where)
            rows = self._trained(x, y)
            self._end(x[rows.to(x.device)], y[rows.to(y.device)], where)

    def _learn(self, x: Tensor, y: Tensor, where: str) -> dict[str, Tensor]:
        x = self._inputs(x)
        if self.replay and len(self.exemplars):
            checks.check_labels(y, len(x), self._outputs(x, where), x.device, where)
            drawn = torch.randperm(len(self.exemplars), generator=self.generator, device="cpu")
            drawn = drawn[: self.replay]
            drawn = drawn.to(self.exemplars.x.device)
            more = self._inputs(self.exemplars.x[drawn]).to(x)
            x, y = torch.cat([x, more]), torch.cat([y, self.exemplars.y[drawn].to(y)])
        losses = self._train_on(x, y, self._teacher(), where)
        self.calls += 1
        return losses

    @abstractmethod
    def _objective(
        self, x: Tensor, y: Tensor, old: nn.Module | None, where: str
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What a step goes down on, and losses by name.

        old: the network of the phase before, which teaches; None: classification alone.
        """

    def _train_on(
        self, x: Tensor, y: Tensor, old: nn.Module | None, where: str
    ) -> dict[str, Tensor]:
        """A step on a batch."""
        total, losses = self._objective(x, y, old, where)
        with self._held(old):
            self._step(total, where)
        return losses

    def _held(self, old: nn.Module | None) -> AbstractContextManager[Any]:
        """A context in which a step leaves parameters alone that are to stay."""
        del old
        return nullcontext()

    def _step(self, loss: Tensor, where: str) -> None:
        if self._transferred is None:
            super()._step(loss, where)
        else:
            self._backward(loss, where)
            self._transferred.step()

    def _stepper(self) -> torch.optim.Optimizer:
        return self.optimizer if self._transferred is None else self._transferred.optimizer

    def _set_lrs(self, lrs: Sequence[float]) -> None:
        for group, lr in zip(self._stepper().param_groups, lrs, strict=True):
            group["lr"] = lr

    # A phase

    def _begin(self, x: Tensor, y: Tensor, where: str) -> PhaseRun:
        classes = self._check_classes(x, y, where)
        self.seen.update(classes)
        check_sizes(y, self._share(y), where)
        if self.transfer is not None and self.phases and self._transferred is None:
            self._transferred = WeightTransfer(self.model, self.optimizer, self.transfer)
        if self._transferred is not None:
            self._transferred.take_options(self.optimizer)
        self._stepper().state.clear()
        lrs = [float(group["lr"]) for group in self._stepper().param_groups]
        self._welcome(x, y, classes)
        rows = self._trained(x, y).cpu()
        if count := self._share(y):  # hours later it would be late to learn of a mistake
            old = self.exemplars.y if len(self.exemplars) else None
            self.selection.check(self._judge(y.device)[1], x[:1], count, old)
        return PhaseRun(classes, len(y), fingerprint(x, y), rows, lrs)

    def _welcome(self, x: Tensor, y: Tensor, classes: list[int]) -> None:
        """Prepare for new classes, before they are learnt."""

    def _trained(self, x: Tensor, y: Tensor) -> Tensor:
        """Which samples of new classes [n] int64 a phase trains on and selects exemplars of."""
        del x
        return torch.arange(len(y), device="cpu")

    def _with_exemplars(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if not len(self.exemplars):
            return x, y
        old = self.exemplars.x.to(x.device)
        if old.dtype != x.dtype:
            x, old = self._inputs(x), self._inputs(old)
        return torch.cat([x, old]), torch.cat([y, self.exemplars.y.to(y.device)])

    def _train(
        self,
        run: PhaseRun,
        x: Tensor,
        y: Tensor,
        after_epoch: Callable[[PhaseProgress], None] | None,
        where: str,
    ) -> None:
        epochs = self.phase.epochs
        while run.epoch < epochs:
            factor = self.phase.lr_factor(run.epoch)
            self._set_lrs([factor * lr for lr in run.lrs])
            run.losses = self._epoch(x, y, self.old, where)
            run.epoch += 1
            if after_epoch is not None:
                after_epoch(PhaseProgress(self.phases, run.epoch, epochs))

    def _epoch(self, x: Tensor, y: Tensor, old: nn.Module | None, where: str) -> dict[str, float]:
        """Once over the samples; the mean losses."""
        order = torch.randperm(len(y), generator=self.generator, device="cpu").to(x.device)
        # Of sizes that differ by one at most: a rest of one sample has no statistics.
        batches = order.tensor_split(-(-len(order) // self.phase.batch))
        found = []
        for rows in batches:
            images = self._inputs(x[rows])
            if self.phase.augment is not None:
                images = self._augmented(images, where)
            try:
                found.append(self._train_on(images, y[rows], old, where))
            except ValueError as error:
                if len(rows) > 1:
                    raise
                raise ValueError(
                    f"{error} (a batch of one: phase.batch is {self.phase.batch}, of {len(y)} "
                    "samples)"
                ) from error
        return {
            name: float(torch.stack([each[name] for each in found]).mean()) for name in found[0]
        }

    def _augmented(self, images: Tensor, where: str) -> Tensor:
        assert self.phase.augment is not None
        found: object = self.phase.augment(images, self.generator)
        if not isinstance(found, Tensor) or len(found) != len(images):
            came = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"{where}: phase.augment must give as many images as it takes, {len(images)}, "
                f"got {came}"
            )
        return found

    def _end(self, x: Tensor, y: Tensor, where: str) -> None:
        """Exemplars, fine-tuning, and the network now becomes the network before."""
        if count := self._share(y):
            try:
                self._select(x, y, count)
            except RuntimeError as error:
                if type(error) is not RuntimeError:  # of the machine: memory that is out
                    raise
                raise RuntimeError(f"{where}: {error}") from error
        if self.phase.finetune_epochs and len(self.exemplars):
            lrs = [group["lr"] for group in self._stepper().param_groups]
            self._set_lrs([self.phase.finetune_lr] * len(lrs))
            self._stepper().state.clear()
            with statistics_kept(self.model):
                for _ in range(self.phase.finetune_epochs):
                    self._epoch(*self._with_exemplars(x[:0], y[:0]), None, where)
            self._set_lrs(lrs)
        self._take_snapshot()

    def _share(self, y: Tensor) -> int:
        """Exemplars of each class; of a total budget no more than the smallest new class has."""
        count = self.exemplars.share(len(self.seen))
        if self.exemplars.total is not None:
            count = min(count, int(y.unique(return_counts=True)[1].min()))
        return count

    def _select(self, x: Tensor, y: Tensor, count: int) -> None:
        """Of new classes; and those of old classes are adjusted."""
        classes, network = self._judge(y.device)
        picked = self.selection.select(
            network, x, torch.searchsorted(classes, y), count, generator=self.generator
        )
        self.exemplars.keep(count)
        if len(self.exemplars):
            old_x, old_y = self.exemplars.x.to(x.device), self.exemplars.y.to(y.device)
            old = Exemplars(old_x, torch.searchsorted(classes, old_y))
            old = self.selection.adjust(network, old, generator=self.generator)
            self.exemplars.put(old.x, classes[old.y])
        self.exemplars.put(picked.x, classes[picked.y])

    def _judge(self, device: torch.device) -> tuple[Tensor, Parts]:
        """All classes seen, ascending, and the network with outputs for these."""
        classes = torch.tensor(sorted(self.seen), device=device)
        features, head = parts(self.model, type(self).__name__)
        return classes, Parts(features, narrowed(head, classes))

    # What comes in

    def _taken(self, loader: Batches, where: str) -> tuple[Tensor, Tensor]:
        like = self.exemplars.x if len(self.exemplars) else None
        return samples_of(loader, like, next(self.model.parameters()).device, where)

    def _check_classes(self, x: Tensor, y: Tensor, where: str) -> list[int]:
        """The classes in y, ascending; all of them are outputs, and none is of a phase before."""
        checks.check_labels(y, len(y), self._outputs(self._inputs(x[:1]), where), y.device, where)
        classes: list[int] = y.unique().tolist()
        if learnt := sorted({*classes} & {*self.old_classes}):
            raise ValueError(f"{where}: class {learnt[0]} was learnt in a phase before")
        if foreign := sorted({*self.exemplars.classes} - self.seen):
            raise ValueError(
                f"{where}: exemplars holds class {foreign[0]}, which was never learnt here: a "
                "memory is of one learner alone"
            )
        return classes

    def _known(self, y: Tensor, logits: Tensor, where: str) -> None:
        if self._run is None:  # a phase has looked at all labels
            super()._known(y, logits, where)

    # State

    @contextmanager
    def _whole(self, where: str) -> Iterator[None]:
        """All or nothing: when the block raises, the learner is as before, and so are the global
        random states, of which dropout draws."""
        device = next(self.model.parameters()).device
        on_cuda = device if device.type == "cuda" else None
        with torch.inference_mode(False):
            before, drawn = self.state_dict(), torch.get_rng_state()
            drawn_there = None if on_cuda is None else torch.cuda.get_rng_state(on_cuda)
            try:
                with self._guarded(where):
                    yield
            except BaseException:
                self._load(before)
                torch.set_rng_state(drawn)
                if on_cuda is not None and drawn_there is not None:
                    torch.cuda.set_rng_state(drawn_there, on_cuda)
                raise

    def _undo(self) -> Callable[[], None]:
        undo, generator = super()._undo(), self.generator.get_state()
        transferred = None if self._transferred is None else self._transferred.state_dict()

        def put_back() -> None:
            undo()
            self.generator.set_state(generator)
            if self._transferred is not None and transferred is not None:
                self._transferred.load_state_dict(transferred)

        return put_back

    def _own_state(self) -> dict[str, Any]:
        return {
            **super()._own_state(),
            "phases": self.phases,
            "exemplars": self.exemplars.state_dict(),
            "generator": self.generator.get_state(),
            "run": None if self._run is None else self._run.state_dict(),
            "transferred": None if self._transferred is None else self._transferred.state_dict(),
        }

    def _load_own_state(self, state: Mapping[str, Any]) -> None:
        super()._load_own_state(state)
        self.phases = integer(state["phases"], "phases", type(self).__name__, least=0)
        self.exemplars.load_state_dict(state["exemplars"])
        self.generator.set_state(state["generator"].cpu())
        self._run = None if state["run"] is None else PhaseRun(**state["run"])
        transferred = None
        if state["transferred"] is not None:
            if self.transfer is None:
                raise ValueError("transferred: the learner was made without transfer")
            transferred = WeightTransfer(self.model, self.optimizer, self.transfer)
            transferred.load_state_dict(state["transferred"])
        self._transferred = transferred
