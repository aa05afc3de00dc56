"""`MaskedGenerator`: images of all tasks from one set of weights, which grows (DGM)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.masks import masked_weights, pack_mask, reserve_, unpack_mask, weight_mask
from .growth import Masks, grown, grown_outputs
from .task_norm import TaskBatchNorm2d

_KERNEL = 4
Blocked = Literal["outputs", "both_ends"]


class Reserved(NamedTuple):
    """What a task has taken of each layer: weights, or units."""

    used: list[int]
    """By the task."""
    newly: list[int]
    """Of these, by no task before."""


class StoredMask(nn.Module):
    """The mask of a past task: one bit an entry, and soft values of the entries that are used.

    Entries that are not used are exactly 0, in both kinds.

    Args:
        used: bool [...], the entries of at least 1/2.
        soft: of the same shape, their values; None: 1.
    """

    bits: Tensor
    values: Tensor | None

    def __init__(self, used: Tensor, soft: Tensor | None = None) -> None:
        super().__init__()
        self.shape = tuple(used.shape)
        self.register_buffer("bits", pack_mask(used))
        self.register_buffer("values", None if soft is None else soft.detach()[used])

    @property
    def nbytes(self) -> int:
        """On disk."""
        return sum(t.numel() * t.element_size() for t in self.buffers())

    def used(self) -> Tensor:
        """bool, of the mask's shape."""
        return unpack_mask(self.bits, self.shape)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The mask in floating point."""
        used = self.used()
        if self.values is None:
            return used.to(dtype)
        soft = self.values.new_zeros(self.shape).masked_scatter_(used, self.values)
        return soft.to(dtype)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        # How many values there are is known only now.
        given = state_dict.get(prefix + "values")
        if isinstance(given, Tensor) and self.values is not None:
            self.values = torch.empty_like(given, device=self.values.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class MaskedGenerator(nn.Module):
    """A DCGAN generator of 32 x 32 images whose three hidden layers are masked for every task.

    z [B, noise] -> 4 x 4, 8 x 8, 16 x 16 -> images [B, channels, 32, 32] in (-1, 1), by transposed
    convolutions without bias, each but the last followed by batch normalisation and ReLU. A task
    has batch normalisation and a last layer of its own; weights are shared, and those that a past
    task reads are never to be changed, see `blocked`.

    The last of the tasks is the one that is being learnt: its mask is sigmoid(s e) of the
    `embeddings`; masks of those before are stored, and `stored_weights` gives what they let
    through. `finish_task` ends it and makes room for the next.

    Args:
        channels: of the images.
        noise: length of z.
        widths: outputs of the hidden layers at each task so far, the last being learnt; a new
            generator has one, (4 g, 2 g, g).
        masks: of weights (DGMw), or of output units (DGMa), which multiply the activations before
            batch normalisation. That is one product with the weights into the unit, so both are
            the same network with masks of different shape.
        blocked: which weights a reserved unit reserves. ``"outputs"``: those into it. A unit that
            a mask turns off is constant after batch normalisation, but not 0, so what a past task
            reads of the layer after are all weights into reserved units, whatever unit they come
            from. ``"both_ends"``: only those from a reserved unit, as in the authors' code; images
            of past tasks then change. Masks of weights leave no choice.
        replay_mask: what is stored of a mask: ``"soft"``, sigmoid(s_max e) of the entries that are
            reserved; ``"binary"``, 1 for them.
        generator: on the CPU, of the initial values.
    """

    def __init__(
        self,
        channels: int,
        noise: int,
        widths: Sequence[Sequence[int]],
        masks: Masks,
        *,
        blocked: Blocked = "outputs",
        replay_mask: Literal["soft", "binary"] = "soft",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.noise, self.masks = channels, noise, masks
        self.replay_mask, self._blocked_by = replay_mask, blocked
        self.widths = [tuple(of_task) for of_task in widths]
        shapes = self._shapes(self.widths[-1])
        # The authors' initialisations: one for the beginning, the other for what is added.
        first = _xavier if masks == "weight" else _normal
        self.weights = nn.ParameterList([first(shape, generator) for shape in shapes])
        self.embeddings = nn.ParameterList([torch.zeros(self._masked(s)) for s in shapes])
        for layer, shape in enumerate(shapes):
            nothing = torch.zeros(self._masked(shape), dtype=torch.bool)
            self.register_buffer(f"reserved_{layer}", nothing)
            if masks == "unit":
                self.register_buffer(f"blocked_{layer}", torch.zeros(shape, dtype=torch.bool))
        self.norms = nn.ModuleList([TaskBatchNorm2d(width) for width in self.widths[0]])
        self.lasts = nn.ModuleList([_last(self.widths[0][-1], channels, generator)])
        self.stored = nn.ModuleList()
        for past, width in pairwise(self.widths):
            empty = [torch.zeros(self._masked(s), dtype=torch.bool) for s in self._shapes(past)]
            self.stored.append(nn.ModuleList([self._stored(e, e.float()) for e in empty]))
            self._add_parts(width, generator)

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
        """Of each hidden layer: bool [C_in, C_out, 4, 4], the weights that are not to be changed
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
        """Weights times the mask of a past task, [C_in, C_out, 4, 4] as they were then."""
        shapes = self._shapes(self.widths[task])
        return [
            weight[tuple(map(slice, shape))] * mask.dense(weight.dtype)
            for weight, shape, mask in zip(self.weights, shapes, self._masks(task), strict=True)
        ]

    def forward(self, z: Tensor, weights: Sequence[Tensor], task: int) -> Tensor:
        """Images [B, channels, 32, 32] in (-1, 1) of z [B, noise], by masked weights of a task."""
        x = z[:, :, None, None]
        for layer, (weight, norm) in enumerate(zip(weights, self.norms, strict=True)):
            stride, padding = (2, 1) if layer else (1, 0)
            x = F.conv_transpose2d(x, weight, stride=stride, padding=padding)
            x = norm(x, task).relu()
        images: Tensor = self.lasts[task](x).tanh()
        return images

    @torch.no_grad()
    def finish_task(self, max_scale: float, generator: torch.Generator | None = None) -> Reserved:
        """Reserve what the task uses, store its mask, and grow for the next task.

        An entry is used whose mask is at least 1/2 (e >= 0). Afterwards no fewer units, or weights,
        of a layer are free than before the task, see :func:`clfast.nn.growth.grown_outputs`. All
        parameters that are shared are new ones.

        Args:
            max_scale: s_max, of the mask that is stored.
            generator: on the CPU, of what is added.
        """
        used = [e >= 0 for e in self.embeddings]
        softs = [(max_scale * e).sigmoid() for e in self.embeddings]
        self.stored.append(nn.ModuleList(map(self._stored, used, softs)))
        newly: list[int] = reserve_(self.reserved, list(self.embeddings), max_scale).tolist()
        if self.masks == "unit":
            self._block()
        shapes = [tuple(weight.shape) for weight in self.weights]
        self._grow(grown_outputs(shapes, newly, self.masks), generator)
        return Reserved([int(mask.sum()) for mask in used], newly)

    def nbytes(self) -> dict[str, int]:
        """On disk: "weights" of the shared layers as the last finished task has them and of every
        task's own, "masks" that are stored."""
        done = len(self.stored)
        last = self._shapes(self.widths[max(0, done - 1)])
        shared = sum(map(math.prod, last))
        # Four numbers a channel of batch normalisation, and the last layer.
        per_unit = 4, _KERNEL**2 * self.channels
        own = sum(per_unit[0] * sum(w) + per_unit[1] * w[-1] for w in self.widths[: max(1, done)])
        masks = [mask for task in range(done) for mask in self._masks(task)]
        return {
            "weights": (shared + own) * self.weights[0].element_size(),
            "masks": sum(mask.nbytes for mask in masks),
        }

    def _masks(self, task: int) -> list[StoredMask]:
        return [mask for mask in self.stored[task].children() if isinstance(mask, StoredMask)]

    def _shapes(self, widths: Sequence[int]) -> list[tuple[int, ...]]:
        """Of the weights of the hidden layers, with so many outputs."""
        inputs = (self.noise, *widths)
        return [(i, o, _KERNEL, _KERNEL) for i, o in zip(inputs, widths, strict=False)]

    def _masked(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the embedding of weights of a shape."""
        return tuple(shape) if self.masks == "weight" else (1, shape[1], 1, 1)

    def _stored(self, used: Tensor, soft: Tensor) -> StoredMask:
        return StoredMask(used, soft if self.replay_mask == "soft" else None)

    def _block(self) -> None:
        units = [mask.flatten() for mask in self.reserved]
        from_units = [None, *units] if self._blocked_by == "both_ends" else [None] * len(units)
        for mask, outputs, inputs in zip(self.blocked, units, from_units, strict=False):
            mask |= weight_mask(outputs, inputs, transposed=True, shape=mask.shape)

    def _grow(self, widths: Sequence[int], generator: torch.Generator | None) -> None:
        added = _normal if self.masks == "weight" else _xavier
        for layer, shape in enumerate(self._shapes(widths)):
            old = self.weights[layer]
            weight = added(shape, generator).to(old)
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
        last = _last(widths[-1], self.channels, generator)
        self.lasts.append(last.to(self.weights[0]))


def _normal(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    return nn.init.normal_(torch.empty(*shape), 0.0, 0.02, generator=generator)


def _xavier(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    return nn.init.xavier_uniform_(torch.empty(*shape), math.sqrt(2), generator=generator)


def _last(inputs: int, channels: int, generator: torch.Generator | None) -> nn.ConvTranspose2d:
    """As PyTorch initialises it."""
    layer: nn.ConvTranspose2d = nn.utils.skip_init(
        nn.ConvTranspose2d, inputs, channels, _KERNEL, 2, 1, bias=False, device="cpu"
    )
    nn.init.kaiming_uniform_(layer.weight, math.sqrt(5), generator=generator)
    return layer
