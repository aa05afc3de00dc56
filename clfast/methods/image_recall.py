"""Images that two networks are asked for: the inner loop of learners that rehearse without a buffer
(Ji et al., "Automatic Recall Machines", Algorithm 1)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from .._arguments import boolean, cpu_generator, integer, one_of, real
from .._backend import backend_in_use
from .._warnings import warn_caller
from ..nn import copies_stay_equal, row_multiplicity, statistics_kept
from ..nn.chain import linear_chains
from ..ops import recall_step_
from ..plugins.gradients import all_finite
from . import checks
from .graphed import Graphed


@dataclass(frozen=True)
class RecallOptions:
    """How images are recalled. Weights as in :func:`clfast.ops.image_prior`; the defaults are the
    ARM authors' for CIFAR-10."""

    images: int = 100
    """M, recalled in each step."""
    steps: int = 10
    """S, of gradient descent on them."""
    lr: float = 10.0
    """eta_1, of these."""
    divergence_weight: float = 1.0
    """Of 1 - D, D the divergence of the two networks."""
    tv_weight: float = 1.0
    l2_weight: float = 1.0
    start: Literal["batch", "noise"] = "batch"
    """From images of the batch, drawn with replacement where M is larger; or from uniform noise."""
    dedup: bool = True
    """Run each image once, however often it was drawn; exact, see :mod:`clfast.nn.multiplicity`."""
    bn_track_recall: bool = True
    """Recalled images move the running statistics of batch normalisation: the authors' code."""
    image_shape: tuple[int, int, int] | None = None
    """[Ch, H, W] of a sample that the model takes as a vector; None: samples are images."""
    autocast: torch.dtype | None = None
    """torch.bfloat16 or torch.float16, in which the networks run under torch.autocast."""
    cuda_graph: bool = False
    """Capture the S steps in a CUDA graph, see :class:`.graphed.Graphed`."""

    def check(self, where: str) -> None:
        """Raises TypeError or ValueError for what cannot be."""
        for name in ("images", "steps"):
            integer(getattr(self, name), name, where, least=1)
        real(self.lr, "lr", where, least=0)
        for field in fields(self):
            if field.type == "float":
                real(getattr(self, field.name), field.name, where)
            elif field.type == "bool":
                boolean(getattr(self, field.name), field.name, where)
        if self.start not in ("batch", "noise"):
            raise ValueError(f"{where}: start must be batch or noise, got {self.start!r}")
        if self.image_shape is not None:
            sizes = self.image_shape
            if not isinstance(sizes, tuple | list) or len(sizes) != 3:
                raise ValueError(f"{where}: image_shape must be (Ch, H, W), got {sizes!r}")
            for size in sizes:
                integer(size, "image_shape", where, least=1)
        one_of(self.autocast, (None, torch.bfloat16, torch.float16), "autocast", where)


class Drawn(NamedTuple):
    """Which rows of the batch are recalled from: M of them, or the distinct ones with how often."""

    rows: Tensor  # [K] int64
    multiplicity: Tensor | None  # [K] int64, on the images' device
    copies: Tensor  # [M] int64, which of the K each of the M is
    classes: Tensor  # int64: [P] of the batch, or [K] that the images shall be of


Objective: TypeAlias = "Callable[[Tensor], tuple[Tensor, Tensor]]"
"""From images [K, ...] to a loss and its gradient by them."""


class ImageRecall(ABC):
    """Draws images from a batch and optimises them; `generator`, on the CPU, decides which.

    `name` is the learner's, for messages.
    """

    def __init__(
        self, options: RecallOptions, generator: torch.Generator | None, name: str
    ) -> None:
        options.check(name)
        self.options = options
        self.generator = None if generator is None else cpu_generator(generator, name)
        self._name = name
        self._graphs = Graphed(name)
        self._tried: nn.Module | None = None
        self._exact = False  # whether copies stay equal in the model that was tried
        self._warned = False

    @abstractmethod
    def draw(self, model: nn.Module, x: Tensor, y: Tensor, seen: set[int]) -> Drawn:
        """With the same draws whether copies are run once or not; `seen`: classes learnt so far."""

    @abstractmethod
    def objective(self, old: nn.Module, new: nn.Module, drawn: Drawn) -> Objective:
        """What images minimise besides the prior."""

    def check(self, x: object, where: str) -> None:
        """Raises TypeError or ValueError for samples that are no images to optimise."""
        checks.check_samples(x, where)
        assert isinstance(x, Tensor)
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{where}: x must be float32 or float64 to be recalled, got {x.dtype}")
        shape = self.options.image_shape
        if shape is None and x.dim() != 4:
            raise ValueError(
                f"{where}: x must be images [B, Ch, H, W], got {x.dim()}-D; image_shape=(Ch, H, W) "
                "says what vectors are images of"
            )
        if shape is not None and math.prod(shape) != math.prod(x.shape[1:]):
            raise ValueError(
                f"{where}: a sample of x has shape {list(x.shape[1:])}, which is no image of "
                f"image_shape {tuple(shape)}"
            )
        if not len(x):
            raise ValueError(f"{where}: x is an empty batch")
        if not all_finite([x]):
            raise ValueError(f"{where}: x holds NaN or Inf")

    def random_state(self) -> Tensor:
        """Of what draws: the generator, or torch's global one."""
        return torch.get_rng_state() if self.generator is None else self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """After a failure: what `random_state` returned, and what was found out in the meantime."""
        if self.generator is None:
            torch.set_rng_state(state)
        else:
            self.generator.set_state(state)
        self.forget()

    def forget(self) -> None:
        """Try out again whether copies stay equal: the model may have changed. Drop the graphs."""
        self._tried = None
        self._graphs.forget()

    def begin(self, x: Tensor, drawn: Drawn) -> Tensor:
        """What the images are before the first step."""
        images = x.detach()[drawn.rows.to(x.device)]
        if self.options.start == "noise":
            noise = torch.rand(
                images.shape, generator=self.generator, dtype=images.dtype, device="cpu"
            )
            return noise.to(images.device)
        return images

    def refine(
        self, old: nn.Module, new: nn.Module, images: Tensor, drawn: Drawn
    ) -> tuple[Tensor, Tensor]:
        """S steps; returns the images [K, ...] and the loss before the last step, less the prior.

        No gradient of a parameter is computed, and on CUDA nothing waits for the device,
        but where a graph is captured.
        """

        def steps(
            images: Tensor, multiplicity: Tensor | None, classes: Tensor
        ) -> tuple[Tensor, Tensor]:
            given = drawn._replace(multiplicity=multiplicity, classes=classes)
            return self._steps(old, new, images, given)

        inputs = images, drawn.multiplicity, drawn.classes
        if not self.options.cuda_graph:
            return steps(*inputs)
        images, loss = self._graphs(steps, inputs, (old, new), self.options, backend_in_use())
        return images, loss

    def _steps(
        self, old: nn.Module, new: nn.Module, images: Tensor, drawn: Drawn
    ) -> tuple[Tensor, Tensor]:
        o = self.options
        images = images.clone()
        shape = (len(images), *(o.image_shape or images.shape[1:]))
        changed = images.view(shape)
        loss = images.new_zeros(())
        with self.counted(drawn, old, new):
            objective = self.objective(old, new, drawn)
            for _ in range(o.steps):
                loss, grad = objective(images)
                recall_step_(
                    *(changed, grad.view(shape)),
                    lr=o.lr,
                    tv_weight=o.tv_weight,
                    l2_weight=o.l2_weight,
                    multiplicity=drawn.multiplicity,
                    per_copy=True,
                )
        return images, loss

    def passes(self, device: torch.device) -> AbstractContextManager[object]:
        """A context for forward passes alone, under autocast where that is wanted."""
        dtype = self.options.autocast
        return nullcontext() if dtype is None else torch.autocast(device.type, dtype)

    def logits(self, network: nn.Module, x: Tensor) -> Tensor:
        """Of x [K, ...]: [K, C], at least in float32."""
        with self.passes(x.device):
            logits: Tensor = network(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def logits_of_both(
        self, network: nn.Module, images: Tensor, x: Tensor, drawn: Drawn
    ) -> tuple[Tensor, Tensor]:
        """Of recalled images and of the batch, each of which is a batch of its own for layers that
        look at batches; in one pass of a network that has none."""
        chain = linear_chains(network)
        if chain is not None:
            together = torch.cat([images, x])
            plain = self.options.autocast is None and not torch.is_autocast_enabled(x.device.type)
            alone = plain and not torch.is_grad_enabled()
            both = chain(together)[0] if alone else self.logits(network, together)
            recalled, here = both.split([len(images), len(x)])
            return recalled, here
        with self.counted(drawn, network):
            recalled = self.logits(network, images)
        return recalled, self.logits(network, x)

    def _rows(self, batch: int) -> Tensor:
        """[M]; with replacement where the batch is smaller."""
        m = self.options.images
        if m > batch:
            return torch.randint(batch, (m,), generator=self.generator, device="cpu")
        return torch.randperm(batch, generator=self.generator, device="cpu")[:m]

    def counted(self, drawn: Drawn, *models: nn.Module) -> ExitStack:
        """A context in which the models see recalled images as often as they were drawn."""
        stack = ExitStack()
        for model in models:
            stack.enter_context(row_multiplicity(model, drawn.multiplicity))
            if not self.options.bn_track_recall:
                stack.enter_context(statistics_kept(model))
        return stack

    def _copies_are_run_once(self, model: nn.Module, x: Tensor) -> bool:
        small = self.options.images <= len(x)  # no row is drawn twice
        if small or not self.options.dedup or self.options.start == "noise":
            return False
        if self._tried is not model:
            if len(x) < 2:
                return False
            self._tried, self._exact = model, copies_stay_equal(model, x)
            if not self._exact and not self._warned:
                self._warned = True
                warn_caller(
                    f"{self._name}: model treats equal images of a batch differently, or looks at "
                    "the batch in other layers than batch normalisation, or says nothing of them "
                    "yet: every copy is run; dedup=False says so from the start"
                )
        return self._exact
