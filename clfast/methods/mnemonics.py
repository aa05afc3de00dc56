"""`Mnemonics`: exemplars that are trained (Liu et al., "Mnemonics Training: Multi-Class Incremental
Learning without Forgetting", CVPR 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._arguments import boolean, integer, one_of, real
from .exemplar_objectives import (
    InnerTraining,
    Objective,
    Prototypes,
    ThroughHead,
    ThroughNetwork,
    batch_norms,
    judging,
)
from .exemplar_selection import (
    Exemplars,
    ExemplarSelection,
    Herding,
    Network,
    RandomSelection,
    as_inputs,
)
from .unrolled import unrolled_sgd

__all__ = ["Mnemonics", "unrolled_sgd"]

_OBJECTIVES: dict[str, type[Objective]] = {
    "bop_full": ThroughNetwork,
    "bop_fc": ThroughHead,
    "proto": Prototypes,
}
_Stepper = Callable[..., torch.optim.Optimizer]
# Where an argument is None: what the paper says, and for "proto" what the authors' code does.
_PAPER: dict[str, Any] = {
    "init": "random",
    "epochs": 50,
    "lr": 0.01,
    "halve_every": 10,
    "optimizer": torch.optim.SGD,
    "folds": 2,
}
_CODE: dict[str, Any] = {
    "init": "herding",
    "epochs": 1,
    "lr": 1e-5,
    "halve_every": 1,
    "optimizer": partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4),
    "folds": 1,
}


class Mnemonics(ExemplarSelection):
    """Exemplars begin as real images and go down, pixel by pixel, on the loss that real images have
    in a network that learnt from them.

    A copy of the network takes T steps of gradient descent on the exemplars (Eq. 8); the gradient
    of its cross-entropy on a batch of real images goes back through these into the exemplars
    (Eq. 9). Old exemplars, whose images are gone, are adjusted in folds: each fold goes down on the
    loss of all others (Eq. 10, which has two).

    Not said in the paper, and chosen here: the inner steps are on all exemplars of the call at
    once; folds hold as equal a share of each class as can be, and take turns every epoch.

    Args:
        objective: "bop_full", the paper's: all parameters of the network that require grad learn
            from exemplars, see `unrolled_sgd`. "bop_fc": those of its head alone, on features that
            stay, which is cheap. "proto", the authors' code: no network learns; real images are
            classified by cosines with the mean features of exemplars, and the defaults below are
            those of that code. (There old classes take part by their means.)
        steps, inner_lr: T and alpha_2, of the inner steps.
        inner_momentum: of the inner steps.
        inner_batch: exemplars of an inner step, drawn; None: all.
        first_order, checkpoint_every: see `unrolled_sgd`.
        epochs: over the real images; default 50, "proto": 1.
        lr: beta_1, of steps on exemplars; default 0.01, "proto": 1e-5.
        adjust_lr: beta_2, of steps on old exemplars, which no image judges; default: lr.
        halve_every: epochs after which lr is halved, each time; default 10, "proto": 1.
        optimizer: makes the optimizer, called with ([exemplars], lr=lr); default
            ``torch.optim.SGD``, "proto": with momentum 0.9 and weight decay 5e-4.
        batch: real images of a step, at most.
        batches: steps of an epoch; None: as many as the real images make.
        batch_norm: "running": batch normalisation uses its running statistics, as all of the
            network is in eval mode; "batch": it takes the statistics of each batch it sees.
            Running statistics never change.
        init: "random" or "herding", the images that exemplars begin as; default "random", "proto":
            "herding".
        values: (lowest, highest) of a pixel, to which exemplars are clipped after each step; None:
            any. Images in [0, 1] want (0, 1).
        folds: of old exemplars, at most as many as a class has; 1: these stay as they are. Default
            2, "proto": 1.
        progress: show a bar.

    Attributes:
        select_losses: mean loss on real images in each epoch of the last ``select``.
        adjust_losses: the same of the last ``adjust``, one list a fold.

    Raises:
        TypeError, ValueError: an argument that cannot be.
    """

    select_losses: list[float]
    adjust_losses: list[list[float]]

    def __init__(
        self,
        objective: Literal["bop_full", "bop_fc", "proto"] = "bop_full",
        *,
        steps: int = 50,
        inner_lr: float = 0.01,
        inner_momentum: float = 0.0,
        inner_batch: int | None = None,
        first_order: bool = False,
        checkpoint_every: int = 1,
        epochs: int | None = None,
        lr: float | None = None,
        adjust_lr: float | None = None,
        halve_every: int | None = None,
        optimizer: _Stepper | None = None,
        batch: int = 128,
        batches: int | None = None,
        batch_norm: Literal["running", "batch"] = "running",
        init: Literal["random", "herding"] | None = None,
        values: tuple[float, float] | None = None,
        folds: int | None = None,
        progress: bool = False,
    ) -> None:
        where = "Mnemonics"
        one_of(objective, _OBJECTIVES, "objective", where)
        defaults = _CODE if objective == "proto" else _PAPER

        def chosen(name: str, value: Any) -> Any:
            return defaults[name] if value is None else value

        def positive(name: str, value: Any) -> float:
            return real(value, name, where, least=0, open_ends="(")

        self.objective = objective
        self.training = InnerTraining(
            steps=integer(steps, "steps", where, least=1),
            lr=positive("inner_lr", inner_lr),
            momentum=real(inner_momentum, "inner_momentum", where, least=0, most=1, open_ends=")"),
            batch=None
            if inner_batch is None
            else integer(inner_batch, "inner_batch", where, least=1),
            first_order=boolean(first_order, "first_order", where),
            checkpoint_every=integer(checkpoint_every, "checkpoint_every", where, least=1),
        )
        self.epochs = integer(chosen("epochs", epochs), "epochs", where, least=1)
        self.lr = positive("lr", chosen("lr", lr))
        self.adjust_lr = self.lr if adjust_lr is None else positive("adjust_lr", adjust_lr)
        self.halve_every = integer(
            chosen("halve_every", halve_every), "halve_every", where, least=1
        )
        self.optimizer: _Stepper = chosen("optimizer", optimizer)
        if not callable(self.optimizer):
            kind = type(optimizer).__name__
            raise TypeError(
                f"{where}: optimizer must be callable, as torch.optim.SGD is, got {kind}"
            )
        self.batch = integer(batch, "batch", where, least=1)
        self.batches = None if batches is None else integer(batches, "batches", where, least=1)
        one_of(batch_norm, ("running", "batch"), "batch_norm", where)
        self.batch_norm = batch_norm
        self.init = chosen("init", init)
        one_of(self.init, ("random", "herding"), "init", where)
        self.values = None if values is None else _range(values, where)
        self.folds = integer(chosen("folds", folds), "folds", where, least=1)
        self.progress = boolean(progress, "progress", where)
        self.select_losses = []
        self.adjust_losses = []

    def _select(
        self, network: Network, x: Tensor, y: Tensor, count: int, generator: torch.Generator
    ) -> Exemplars:
        where = "Mnemonics.select"
        dtype = self._check(network, x, y, where)
        begin = Herding() if self.init == "herding" else RandomSelection()
        first = begin.select(network, x, y, count, generator=generator)
        self._check_batches(network, len(y), len(first), "count", where)
        images, losses = self._train(network, [first], (x, y), dtype, generator, where)
        self.select_losses = losses[0]
        return Exemplars(images[0], first.y)

    def _adjust(
        self, network: Network, exemplars: Exemplars, generator: torch.Generator
    ) -> Exemplars:
        if self.folds == 1:
            return exemplars
        where = "Mnemonics.adjust"
        x, y = exemplars.x, exemplars.y
        dtype = self._check(network, x, y, where)
        self._check_folds(y, where)
        smallest, largest = len(y) // self.folds, -(-len(y) // self.folds)
        self._check_batches(network, len(y) - largest, smallest, "folds", where)
        folds = [rows.to(y.device) for rows in stratified(y.cpu(), self.folds, generator)]
        parts = [Exemplars(x[rows], y[rows]) for rows in folds]
        images, losses = self._train(network, parts, None, dtype, generator, where)
        adjusted = torch.cat(images)[torch.cat(folds).argsort()]
        self.adjust_losses = losses
        return Exemplars(adjusted, y)

    def _train(
        self,
        network: Network,
        parts: Sequence[Exemplars],
        real_images: tuple[Tensor, Tensor] | None,
        dtype: torch.dtype,
        generator: torch.Generator,
        where: str,
    ) -> tuple[list[Tensor], list[list[float]]]:
        """The images of each part after training, and the mean losses of its epochs.

        real_images: x and y that exemplars are judged by; None: each part by all others.
        """
        objective = _OBJECTIVES[self.objective](network, self.training, generator)
        losses: list[list[float]] = [[] for _ in parts]
        lr = self.adjust_lr if real_images is None else self.lr

        def seen(x: Tensor) -> Tensor:
            found = [objective.seen(as_inputs(part, dtype)) for part in x.split(self.batch)]
            return torch.cat(found)

        with torch.enable_grad():
            images = [as_inputs(part.x, dtype).clone() for part in parts]
            optimizers = [self.optimizer([each], lr=lr) for each in images]
            with judging(network, on_batches=self.batch_norm == "batch"):
                # Where images stay, and so do their features, these are the same in all epochs.
                once = objective.sees_features and self.batch_norm == "running"
                if once and real_images is not None:
                    real_images = seen(real_images[0]), real_images[1]
                for epoch in self._epochs(where):
                    for i, (part, optimizer) in enumerate(zip(parts, optimizers, strict=True)):
                        for group in optimizer.param_groups:
                            group["lr"] = lr * 0.5 ** (epoch // self.halve_every)
                        x, y = real_images or _others(images, parts, i)
                        found = [
                            self._step(
                                *(objective, images[i], part.y, optimizer),
                                *(x[rows] if once and real_images else seen(x[rows]), y[rows]),
                                f"{where}: exemplars hold NaN or Inf in epoch {epoch}",
                            )
                            for rows in self._batches(len(y), generator)
                        ]
                        losses[i].append(float(torch.stack(found).mean()))
        return [each.to(_kept(parts[0].x, dtype)) for each in images], losses

    def _step(
        self,
        objective: Objective,
        images: Tensor,
        labels: Tensor,
        optimizer: torch.optim.Optimizer,
        real: Tensor,
        y: Tensor,
        diverged: str,
    ) -> Tensor:
        loss, images.grad = objective(images, labels, real, y)
        optimizer.step()
        if self.values is not None:
            images.clamp_(*self.values)
        if not bool(images.isfinite().all()):
            lrs = f"lr ({self.lr:g}), adjust_lr ({self.adjust_lr:g})"
            raise RuntimeError(f"{diverged}; look at {lrs} and inner_lr ({self.training.lr:g})")
        return loss

    def _epochs(self, where: str) -> Iterable[int]:
        if not self.progress:
            return range(self.epochs)
        from rich.progress import track

        return track(range(self.epochs), description=where)

    def _batches(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Rows of each; of sizes that differ by one at most."""
        order = torch.randperm(count, generator=generator, device="cpu")
        found = list(order.tensor_split(-(-count // self.batch)))
        return found[: self.batches]

    def check(self, network: Network, x: Tensor, count: int, old: Tensor | None = None) -> None:
        self._check(
            network, x[:1], torch.zeros(1, dtype=torch.int64, device="cpu"), "Mnemonics.check"
        )
        if old is not None and self.folds > 1:
            self._check_folds(old, "Mnemonics.check", most=count)

    def _check_folds(self, y: Tensor, where: str, most: int | None = None) -> None:
        """Each fold has exemplars of every class: they are judged by the others' images of it.

        most: exemplars of a class that will be left.
        """
        classes, sizes = y.unique(return_counts=True)
        sizes = sizes if most is None else sizes.clamp(max=most)
        if int(sizes.min()) < self.folds:
            least = int(sizes.argmin())
            raise ValueError(
                f"{where}: folds is {self.folds}, but class {int(classes[least])} has "
                f"{int(sizes[least])} exemplars; make Mnemonics with at most so many folds, or "
                "with folds=1 to leave old exemplars as they are"
            )

    def _check(self, network: Network, x: Tensor, y: Tensor, where: str) -> torch.dtype:
        """Of the network's parameters; it takes x, and has outputs for y."""
        trained = [p for p in self._trained(network) if p.requires_grad]
        if not trained and self.objective != "proto":
            part = "its head" if self.objective == "bop_fc" else "it"
            raise ValueError(
                f"{where}: network has nothing to train: {part} has no parameter with "
                "requires_grad=True"
            )
        parameters = [*network.features.parameters(), *network.head.parameters()]
        dtype = parameters[0].dtype if parameters else torch.get_default_dtype()
        outputs = _outputs(network, as_inputs(x[:1], dtype), where)
        if self.objective != "proto" and int(y.max()) >= outputs:
            raise ValueError(
                f"{where}: y holds label {int(y.max())}, but the head of network has {outputs} "
                f"outputs; labels must be contiguous, from 0 to {outputs - 1}"
            )
        return dtype

    def _trained(self, network: Network) -> Iterable[nn.Parameter]:
        if self.objective == "bop_fc":
            return network.head.parameters()
        return [*network.features.parameters(), *network.head.parameters()]

    def _check_batches(
        self, network: Network, real: int, count: int, name: str, where: str
    ) -> None:
        """No batch is of a single sample, where that would have no statistics.

        Of `real` images, and of as many exemplars as the argument `name` makes.
        """
        if self.batch_norm == "running" or not batch_norms(network):
            return
        sizes = {"batch": _smallest(real, self.batch)}
        if self.objective != "proto":
            inner = self.training.batch
            name = name if inner is None or inner >= count else "inner_batch"
            sizes[name] = _smallest(count, inner or count)
        for name, size in sizes.items():
            if size == 1:
                raise ValueError(
                    f"{where}: {name} leads to a batch of one sample, of which batch normalisation "
                    "has no statistics; change it, or take batch_norm='running'"
                )


def _smallest(count: int, batch: int) -> int:
    """Of batches of at most so many samples whose sizes differ by one at most."""
    return count // -(-count // batch)


def stratified(y: Tensor, folds: int, generator: torch.Generator) -> list[Tensor]:
    """Rows of each fold, drawn: of each class, and of all, their numbers differ by one at most."""
    dealt = [
        rows[torch.randperm(len(rows), generator=generator, device="cpu")]
        for rows in ((y == label).nonzero()[:, 0] for label in y.unique())
    ]
    order = torch.cat(dealt)
    return [order[fold::folds] for fold in range(folds)]


def _others(
    images: Sequence[Tensor], parts: Sequence[Exemplars], own: int
) -> tuple[Tensor, Tensor]:
    rest = [i for i in range(len(parts)) if i != own]
    return torch.cat([images[i] for i in rest]), torch.cat([parts[i].y for i in rest])


def _kept(x: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if x.dtype == torch.uint8 else x.dtype


@torch.no_grad()
def _outputs(network: Network, x: Tensor, where: str) -> int:
    with judging(network, on_batches=False):
        try:
            logits = network.head(network.features(x))
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{where}: network cannot take x, images of {list(x.shape[1:])}: {reason}"
            ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"{where}: network must give logits [B, C], a row an image, got {shape} for one image"
        )
    return logits.shape[1]


def _range(values: object, where: str) -> tuple[float, float]:
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise ValueError(f"{where}: values must be (lowest, highest), got {values!r}")
    low, high = (real(value, "values", where) for value in values)
    if low >= high:
        raise ValueError(f"{where}: values must be (lowest, highest), got {values}")
    return low, high
