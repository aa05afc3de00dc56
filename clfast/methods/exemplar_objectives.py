"""What trained exemplars are judged by: the loss on real images of a network that learnt from them.

Liu et al., "Mnemonics Training", CVPR 2020, Eq. 7 to 9, and what the authors' code does in its
place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from .._modes import evaluating
from ..ops import softmax_descent
from .exemplar_selection import Network
from .unrolled import NotFiniteError, Tensors, unrolled_sgd


@dataclass(frozen=True)
class InnerTraining:
    """Of the temporary network, see `Mnemonics`."""

    steps: int
    lr: float
    momentum: float
    batch: int | None
    first_order: bool
    checkpoint_every: int

    def rows(self, count: int, generator: torch.Generator) -> list[Tensor] | None:
        """Of each step, which of the exemplars it is on; None: all are on all.

        Exemplars are gone through in shuffled order, time after time.
        """
        if self.batch is None or self.batch >= count:
            return None
        found: list[Tensor] = []
        while len(found) < self.steps:
            order = torch.randperm(count, generator=generator, device="cpu")
            found += order.tensor_split(-(-count // self.batch))
        return found[: self.steps]


class Objective(ABC):
    """The loss on real images, as a function of exemplars. The network is in the modes it is to be
    judged in, and is not changed."""

    def __init__(
        self, network: Network, training: InnerTraining, generator: torch.Generator
    ) -> None:
        self.features, self.head = network.features, network.head
        self.training = training
        self.generator = generator

    sees_features: ClassVar[bool] = False
    """Real images count by their features, which exemplars do not change."""

    def seen(self, x: Tensor) -> Tensor:
        """What `__call__` takes of real images [B, ...]."""
        return x

    @abstractmethod
    def __call__(
        self, exemplars: Tensor, labels: Tensor, real: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss on real images, as `seen` [B, ...], with labels y [B], and its gradient in the
        exemplars [M, ...]."""


class ThroughNetwork(Objective):
    """The temporary network is the whole one: "bop_full"."""

    def __call__(
        self, exemplars: Tensor, labels: Tensor, real: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        network = nn.Sequential(OrderedDict(features=self.features, head=self.head))
        return self._unrolled(network, exemplars, labels, real, y)

    def _unrolled(
        self, network: nn.Module, exemplars: Tensor, labels: Tensor, real: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        def on(rows: Tensor | None) -> Callable[[Tensors, Tensor], Tensor]:
            def inner(params: Tensors, images: Tensor) -> Tensor:
                if rows is None:
                    return F.cross_entropy(functional_call(network, params, (images,)), labels)
                logits = functional_call(network, params, (images[rows],))
                return F.cross_entropy(logits, labels[rows])

            return inner

        def outer(params: Tensors) -> Tensor:
            return F.cross_entropy(functional_call(network, params, (real,)), y)

        rows = self.training.rows(len(labels), self.generator)
        inner: Sequence[Callable[[Tensors, Tensor], Tensor]] = (
            [on(None)] * self.training.steps
            if rows is None
            else [on(each.to(labels.device)) for each in rows]
        )
        try:
            return unrolled_sgd(
                inner,
                outer,
                dict(network.named_parameters()),
                exemplars,
                steps=self.training.steps,
                lr=self.training.lr,
                momentum=self.training.momentum,
                first_order=self.training.first_order,
                checkpoint_every=self.training.checkpoint_every,
            )
        except NotFiniteError as error:
            step = "" if error.step is None else f" in step {error.step}"
            raise RuntimeError(
                f"Mnemonics: {error.what} is NaN or infinite{step} of the training on exemplars; "
                f"inner_lr is {self.training.lr:g}"
            ) from error


class ThroughHead(ThroughNetwork):
    """The temporary network is the head on features that stay: "bop_fc"."""

    sees_features = True

    @torch.no_grad()
    def seen(self, x: Tensor) -> Tensor:
        features: Tensor = self.features(x)
        return features

    def __call__(
        self, exemplars: Tensor, labels: Tensor, real: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        images = exemplars.detach().requires_grad_()
        inside = self.features(images)
        if self._closed():
            assert isinstance(self.head, nn.Linear)
            bias = None if self.head.bias is None else self.head.bias.detach()
            layer = softmax_descent(
                *(inside, labels, self.head.weight.detach(), bias),
                steps=self.training.steps,
                lr=self.training.lr,
            )
            real = real.to(layer[0].dtype)  # which is float32 where the network has 16 bits
            loss = F.cross_entropy(F.linear(real, *layer), y)
            return loss.detach(), torch.autograd.grad(loss, images)[0]
        loss, gradient = self._unrolled(self.head, inside.detach(), labels, real, y)
        return loss, torch.autograd.grad(inside, images, gradient)[0]

    def _closed(self) -> bool:
        """Whether the steps have a closed form: those of plain softmax regression."""
        training = self.training
        plain = training.momentum == 0 and training.batch is None and not training.first_order
        trained = all(p.requires_grad for p in self.head.parameters())
        return plain and trained and type(self.head) is nn.Linear


class Prototypes(Objective):
    """Real images are classified by cosines with the classes' mean features of exemplars, and no
    network is trained: "proto", what the authors' code does."""

    sees_features = True

    @torch.no_grad()
    def seen(self, x: Tensor) -> Tensor:
        return F.normalize(self.features(x).flatten(1))

    def __call__(
        self, exemplars: Tensor, labels: Tensor, real: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        images = exemplars.detach().requires_grad_()
        inside = self.features(images).flatten(1)
        classes, members = labels.unique(return_inverse=True)
        sums = inside.new_zeros(len(classes), inside.shape[1]).index_add(0, members, inside)
        # A mean has the direction of the sum.
        logits = real @ F.normalize(sums).T
        loss = F.cross_entropy(logits, torch.searchsorted(classes, y))
        return loss.detach(), torch.autograd.grad(loss, images)[0]


@contextmanager
def judging(network: Network, *, on_batches: bool) -> Iterator[None]:
    """Inside, the modules are in eval mode, but with `on_batches` batch normalisation takes the
    statistics of its batch. Running ones stay, and modes are as before afterwards."""
    with evaluating(network.features, network.head):
        norms = [norm for norm in batch_norms(network) if norm.track_running_stats]
        if on_batches:
            for norm in norms:
                norm.training, norm.track_running_stats = True, False
        try:
            yield
        finally:
            if on_batches:
                for norm in norms:
                    norm.training, norm.track_running_stats = False, True


def batch_norms(network: Network) -> list[nn.modules.batchnorm._BatchNorm]:
    modules = [*network.features.modules(), *network.head.modules()]
    return [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)]
