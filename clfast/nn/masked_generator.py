"""`MaskedGenerator`: images of all tasks from one set of weights, which grows (DGM)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .._arguments import cpu_generator, integer, one_of
from ..ops.masks import masked_weights, reserve_, weight_mask
from .growth import Masks, grown, grown_outputs
from .last_layer import LastLayer, ToImages
from .stored_mask import StoredMask
from .task_norm import TaskBatchNorm2d

Blocked = Literal["outputs", "both_ends"]


class Layer(NamedTuple):
    """A masked layer, and which maps it reads and writes: 0 is the noise, i has widths[i - 1]
    channels."""

    source: int
    target: int
    kernel: int


class Reserved(NamedTuple):
    """What a task has taken of each layer: weights, or units."""

    used: list[int]
    """By the task."""
    newly: list[int]
    """Of these, by no task before."""


class MaskedGenerator(nn.Module):
    """A generator whose hidden layers are masked for every task: what `DCGANGenerator` and
    `ResNetGenerator` share.

    z [B, noise] -> images [B, channels, size, size] in (-1, 1), by transposed convolutions without
    bias between maps of 4 x 4 and more. A task has batch normalisation of every map and a last
    layer of its own, or one for each of its classes; weights are shared, and those that a past task
    reads are never to be changed, see `blocked`.

    The last of the tasks is the one that is being learnt: its mask is sigmoid(s e) of the
    `embeddings`; masks of those before are stored, and `stored_weights` gives what they let
    through. `finish_task` ends it and makes room for the next.

    Args:
        channels: of the images.
        noise: length of z.
        widths: channels of the maps at each task so far, the last being learnt; a new generator has
            one, see `first_widths`. How many maps there are decides the size of the images.
        masks: of weights (DGMw), or of output units (DGMa), which multiply the activations before
            batch normalisation. That is one product with the weights into the unit, so both are
            the same network with masks of different shape.
        blocked: which weights a reserved unit reserves. ``"outputs"``: those into it. A unit that
            a mask turns off is constant after batch normalisation, but not 0, so what a past task
            reads of the layer after are all weights into reserved units, whatever unit they come
            from. ``"both_ends"``: only those from a reserved unit, as in the authors' code; images
            of past tasks then change. Masks of weights leave no choice.
        replay_mask: what is stored of a mask: ``"soft"``, sigmoid(s_max e) of the entries that are
            reserved; ``"binary"``, 1 for them. See :class:`clfast.nn.stored_mask.StoredMask`.
        last: ``"task"``: one last layer for a task; ``"class"``: one for each class, which the
            task's begin tells by `add_classes`.
        generator: on the CPU, of the initial values.

    Raises:
        TypeError, ValueError: a number below 1; a choice that there is not; no widths, or another
            number of them in a later task.
    """

    _TO_IMAGES: ClassVar[ToImages]

    def __init__(
        self,
        channels: int,
        noise: int,
        widths: Sequence[Sequence[int]],
        masks: Masks,
        *,
        blocked: Blocked = "outputs",
        replay_mask: Literal["soft", "binary"] = "soft",
        last: Literal["task", "class"] = "task",
        generator: torch.Generator | None = None,
    ) -> None:
        where = type(self).__name__
        integer(channels, "channels", where, least=1)
        integer(noise, "noise", where, least=1)
        for outputs in (count for of_task in widths for count in of_task):
            integer(outputs, "widths", where, least=1)
        if len({len(of_task) for of_task in widths}) != 1:
            raise ValueError(f"{where}: widths must be as many in each task, got {widths}")
        one_of(masks, ("weight", "unit"), "masks", where)
        one_of(blocked, ("outputs", "both_ends"), "blocked", where)
        one_of(replay_mask, ("soft", "binary"), "replay_mask", where)
        one_of(last, ("task", "class"), "last", where)
        super().__init__()
        self.channels, self.noise, self.masks = channels, noise, masks
        self.replay_mask, self.last, self._blocked_by = replay_mask, last, blocked
        self.widths = [tuple(of_task) for of_task in widths]
        self.layers = self._layers(len(self.widths[0]))
        shapes = self._shapes(self.widths[-1])
        self.weights = nn.ParameterList([self._initial(s, False, generator) for s in shapes])
        self.embeddings = nn.ParameterList([torch.zeros(self._masked(s)) for s in shapes])
        for layer, shape in enumerate(shapes):
            nothing = torch.zeros(self._masked(shape), dtype=torch.bool)
            self.register_buffer(f"reserved_{layer}", nothing)
            if masks == "unit":
                self.register_buffer(f"blocked_{layer}", torch.zeros(shape, dtype=torch.bool))
        self.norms = nn.ModuleList([TaskBatchNorm2d(width) for width in self.widths[0]])
        self.lasts = nn.ModuleList([self._last(self.widths[0][-1], generator)])
        self.stored = nn.ModuleList()
        for past, width in pairwise(self.widths):
            empty = [torch.zeros(self._masked(s), dtype=torch.bool) for s in self._shapes(past)]
            self.stored.append(nn.ModuleList([self._stored(e, e.float()) for e in empty]))
            self._add_parts(width, generator)

    # What an architecture says

    @staticmethod
    @abstractmethod
    def first_widths(width: int, size: int) -> tuple[int, ...]:
        """Channels of the maps of a new generator, by one number and the size of the images.

        Raises:
            TypeError, ValueError: size is no power of two from 16 on.
        """

    @abstractmethod
    def _layers(self, maps: int) -> list[Layer]:
        """Each after those whose maps it reads."""

    @abstractmethod
    def _initial(
        self, shape: tuple[int, ...], added: bool, generator: torch.Generator | None
    ) -> Tensor:
        """Weights, of a new generator or of what is added to one."""

    @abstractmethod
    def _maps(self, z: Tensor, weights: Sequence[Tensor], task: int) -> Tensor:
        """The last of them, normalised."""

    # What they share

    @property
    def task(self) -> int:
        """That is being learnt, from 0."""
        return len(self.widths) - 1

    @property
    def reserved(self) -> list[Tensor]:
        """Of each hidden layer: bool of its embedding's shape, what past tasks use."""
        return [self.get_buffer(f"reserved_{layer}") for layer in range(len(self.weights))]

    @property
    def blocked(self) -> list[Tensor]:
        """Of each hidden layer: bool [C_in, C_out, k, k], the weights that are not to be changed
        (Eq. 5)."""
        if self.masks == "weight":
            return self.reserved
        return [self.get_buffer(f"blocked_{layer}") for layer in range(len(self.weights))]

    def learnt(self) -> Iterator[nn.Parameter]:
        """The parameters of the task that is being learnt; those of others stay."""
        yield from self.weights
        yield from self.embeddings
        yield from (p for p in self.norms.parameters() if p.requires_grad)
        yield from self.lasts[-1].parameters()

    def masked(self, scale: float, max_scale: float | None) -> tuple[list[Tensor], Tensor]:
        """Weights times sigmoid(scale e) of the task that is being learnt, and R of Eq. 6.

        See :func:`clfast.ops.masks.masked_weights`.
        """
        weights, embeddings = list(self.weights), list(self.embeddings)
        return masked_weights(weights, embeddings, self.reserved, scale, max_scale=max_scale)

    @torch.no_grad()
    def stored_weights(self, task: int) -> list[Tensor]:
        """Weights times the mask of a past task, [C_in, C_out, k, k] as they were then."""
        shapes = self._shapes(self.widths[task])
        return [
            weight[tuple(map(slice, shape))] * mask.dense(weight.dtype)
            for weight, shape, mask in zip(self.weights, shapes, self._masks(task), strict=True)
        ]

    def forward(
        self, z: Tensor, weights: Sequence[Tensor], task: int, classes: Tensor | None = None
    ) -> Tensor:
        """Images [B, channels, size, size] in (-1, 1) of z [B, noise], by masked weights of a task.

        Args:
            classes: [B] int64, counted over all tasks in the order in which they came; for last
                layers of classes alone.

        Raises:
            TypeError, ValueError: with last layers of classes, classes that are not the task's.
        """
        maps = self._maps(z, weights, task)
        if self.last == "class" and classes is not None:
            classes = classes - sum(self._last_of(past).classes for past in range(task))
        images: Tensor = self.lasts[task](maps, classes).tanh()
        return images

    def add_classes(self, count: int, generator: torch.Generator | None = None) -> None:
        """The task that is being learnt has so many more classes; of use to last layers of classes
        alone."""
        if self.last == "class":
            self._last_of(self.task).add_classes(count, generator)

    @torch.no_grad()
    def finish_task(self, max_scale: float, generator: torch.Generator | None = None) -> Reserved:
        """Reserve what the task uses, store its mask, and grow for the next task.

        An entry is used whose mask is at least 1/2 (e >= 0). Afterwards no fewer units, or weights,
        of a layer are free than before the task, see :func:`clfast.nn.growth.grown_outputs`. All
        parameters that are shared are new ones.

        Args:
            max_scale: s_max, of the mask that is stored.
            generator: on the CPU, of what is added.

        Raises:
            TypeError, ValueError: another generator; what :func:`clfast.ops.masks.reserve_` raises.
                Nothing has changed then.
        """
        if generator is not None:
            cpu_generator(generator, f"{type(self).__name__}.finish_task")
        used = [e >= 0 for e in self.embeddings]
        softs = [(max_scale * e).sigmoid() for e in self.embeddings]
        newly: list[int] = reserve_(self.reserved, list(self.embeddings), max_scale).tolist()
        self.stored.append(nn.ModuleList(map(self._stored, used, softs)))
        if self.masks == "unit":
            self._block()
        shapes = [tuple(weight.shape) for weight in self.weights]
        ends = [(layer.source, layer.target) for layer in self.layers]
        self._grow(grown_outputs(shapes, newly, self.masks, ends), generator)
        return Reserved([int(mask.sum()) for mask in used], newly)

    def shared_weights(self, task: int) -> int:
        """How many the masked layers have in a task."""
        return sum(map(math.prod, self._shapes(self.widths[task])))

    def nbytes(self) -> dict[str, int]:
        """Bytes of "weights" of the shared layers as the last finished task has them and of every
        task's own, and of "masks" that are stored (:attr:`StoredMask.nbytes`).

        That is what images of past tasks need. A state dict holds more: which weights are reserved
        and blocked, as bool of a byte each, embeddings, and what has grown for the next task.
        """
        done = len(self.stored)
        # Four numbers a channel of batch normalisation, and the last layers.
        own = 4 * sum(map(sum, self.widths[: max(1, done)]))
        for task in range(max(1, done)):
            own += sum(p.numel() for p in self._last_of(task).parameters())
        masks = [mask for task in range(done) for mask in self._masks(task)]
        return {
            "weights": (self.shared_weights(max(0, done - 1)) + own)
            * self.weights[0].element_size(),
            "masks": sum(mask.nbytes for mask in masks),
        }

    def _masks(self, task: int) -> list[StoredMask]:
        return [mask for mask in self.stored[task].children() if isinstance(mask, StoredMask)]

    def _last_of(self, task: int) -> LastLayer:
        last = self.lasts[task]
        assert isinstance(last, LastLayer)
        return last

    def _shapes(self, widths: Sequence[int]) -> list[tuple[int, ...]]:
        """Of the weights of the hidden layers, with so many channels."""
        maps = (self.noise, *widths)
        return [(maps[s], maps[t], kernel, kernel) for s, t, kernel in self.layers]

    def _masked(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the embedding of weights of a shape."""
        return tuple(shape) if self.masks == "weight" else (1, shape[1], 1, 1)

    def _stored(self, used: Tensor, soft: Tensor) -> StoredMask:
        return StoredMask(used, soft if self.replay_mask == "soft" else None)

    def _block(self) -> None:
        units: dict[int, Tensor] = {}  # of each map, what any layer into it has reserved
        for layer, mask, reserved in zip(self.layers, self.blocked, self.reserved, strict=True):
            outputs = reserved.flatten()
            inputs = units.get(layer.source) if self._blocked_by == "both_ends" else None
            mask |= weight_mask(outputs, inputs, transposed=True, shape=mask.shape)
            units[layer.target] = units.get(layer.target, outputs) | outputs

    def _grow(self, widths: Sequence[int], generator: torch.Generator | None) -> None:
        for layer, shape in enumerate(self._shapes(widths)):
            old = self.weights[layer]
            weight = self._initial(shape, True, generator).to(old)
            self.weights[layer] = nn.Parameter(grown(old.detach(), weight))
            self.embeddings[layer] = nn.Parameter(old.new_zeros(self._masked(shape)))
            names = ["reserved", "blocked"] if self.masks == "unit" else ["reserved"]
            for name in names:
                mask = self.get_buffer(f"{name}_{layer}")
                size = shape if name == "blocked" else self._masked(shape)
                setattr(self, f"{name}_{layer}", grown(mask, mask.new_zeros(size)))
        self.widths.append(tuple(widths))
        self._add_parts(widths, generator)

    def _add_parts(self, widths: Sequence[int], generator: torch.Generator | None) -> None:
        """What the next task has for itself."""
        for norm, width in zip(self.norms, widths, strict=True):
            assert isinstance(norm, TaskBatchNorm2d)
            norm.add_task(width)
        self.lasts.append(self._last(widths[-1], generator).to(self.weights[0]))

    def _last(self, inputs: int, generator: torch.Generator | None) -> LastLayer:
        each = self.last == "class"
        return LastLayer(
            inputs, self.channels, self._TO_IMAGES, each_class=each, generator=generator
        )


def normal(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """N(0, 0.02)."""
    return nn.init.normal_(torch.empty(*shape), 0.0, 0.02, generator=generator)


def xavier(shape: Sequence[int], gain: float, generator: torch.Generator | None) -> Tensor:
    """Uniform (Glorot and Bengio)."""
    return nn.init.xavier_uniform_(torch.empty(*shape), gain, generator=generator)
