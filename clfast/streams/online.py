"""Labelled samples from arrays or map-style data sets, and single-pass streams of batches."""

from __future__ import annotations

import copy
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from .._arguments import cpu_generator, integer

Data: TypeAlias = "tuple[Any, Any] | Dataset[Any]"
"""A pair (x, y) of arrays or tensors, or a map-style data set of pairs (x, label)."""


class LabelledDataset(Dataset[tuple[Any, Tensor]], ABC):
    """A map-style data set of pairs (x, label) that knows all its labels, y [N] int64."""

    @property
    def x(self) -> Tensor:
        """All samples [N, ...]; AttributeError where they are not one tensor."""
        raise AttributeError("x: these samples are not one tensor; read them with a DataLoader")

    @property
    @abstractmethod
    def y(self) -> Tensor:
        """All labels [N] int64."""

    def __len__(self) -> int:
        return len(self.y)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        """One sample and its label []."""

    @abstractmethod
    def batch(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Samples and labels at `indices` [B], collated: x [B, ...], y [B]."""

    @abstractmethod
    def subset(self, indices: Tensor, y: Tensor) -> LabelledDataset:
        """The samples at `indices` [B], under the labels `y` [B]."""


class ArrayDataset(LabelledDataset):
    """Samples x [N, ...] with labels y [N] int64."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._x, self._y = x, y

    @property
    def x(self) -> Tensor:
        """All samples [N, ...], as they were given."""
        return self._x

    @property
    def y(self) -> Tensor:
        """All labels [N] int64."""
        return self._y

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._x[index], self._y[index]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Samples [n, ...] and labels [n] at `indices` [n] int64; IndexError outside [-N, N)."""
        return self._x[indices], self._y[indices]

    def subset(self, indices: Tensor, y: Tensor) -> ArrayDataset:
        """The samples at `indices` [n] int64, labelled `y` [n]; IndexError outside [-N, N)."""
        return ArrayDataset(self._x[indices], y)


class ItemDataset(LabelledDataset):
    """The items of a map-style data set at `indices` [N], each read when it is asked for."""

    def __init__(self, items: Any, indices: Tensor, name: str, y: Tensor | None = None) -> None:
        self._items, self._indices, self._name, self._y = items, indices, name, y

    @property
    def y(self) -> Tensor:
        if self._y is None:
            # torchvision's `targets` spare a pass that would decode every image. They are what was
            # read, before any transform of the targets.
            targets = getattr(self._items, "targets", None)
            if targets is None or _transforms_targets(self._items):
                targets = [int(self[i][1]) for i in range(len(self))]
            self._y = _as_labels(targets, len(self), self._name)
        return self._y

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        position = int(self._indices[index])
        item = self._items[position]
        try:
            x, label = item
            label = operator.index(label)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{self._name}: item {position} must be a pair (x, integer label): {error}"
            ) from error
        return x, torch.tensor(label) if self._y is None else self._y[index]

    def batch(self, indices: Tensor) -> tuple[Any, Tensor]:
        x, y = default_collate([self[i] for i in indices.tolist()])
        return x, y

    def subset(self, indices: Tensor, y: Tensor) -> ItemDataset:
        return ItemDataset(self._items, self._indices[indices], self._name, y)


class OnlineStream:
    """Every sample of `data` once, in batches (x [B, ...], y [B]), the last one maybe smaller.

    `data` is a pair (x [N, ...], y [N]) or a map-style data set. Samples come as given, or shuffled
    by `generator` (a torch.Generator or a seed); the order is drawn once, here, so that a second
    iteration gives the same batches.

    Raises ValueError or TypeError for empty data, labels that are not a vector of N non-negative
    integers, and a `batch_size` that is not a positive integer.
    """

    def __init__(
        self, data: Data, batch_size: int, *, generator: torch.Generator | int | None = None
    ) -> None:
        self._dataset = as_dataset(data, "OnlineStream: data")
        self.batch_size = integer(batch_size, "batch_size", "OnlineStream", least=1)
        n = len(self._dataset)
        if generator is None:
            self._order = torch.arange(n, device="cpu")
        else:
            self._order = torch.randperm(
                n, generator=as_generator(generator, "OnlineStream"), device="cpu"
            )

    def __len__(self) -> int:
        """The number of batches."""
        return -(-len(self._order) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for indices in torch.split(self._order, self.batch_size):
            yield self._dataset.batch(indices)

    def chunks(self, size: int) -> list[OnlineStream]:
        """The same stream cut after every `size` samples, where a learner evaluates or updates.

        Each chunk is a stream of its own, so no batch reaches over a cut.
        """
        size = integer(size, "size", "OnlineStream.chunks", least=1)
        pieces = []
        for order in torch.split(self._order, size):
            piece = copy.copy(self)
            piece._order = order
            pieces.append(piece)
        return pieces


def as_dataset(data: Data, name: str) -> LabelledDataset:
    """`data` as a labelled data set; `name` ("function: argument") begins every error message."""
    if isinstance(data, LabelledDataset):
        return data
    arrays = data.tensors if isinstance(data, TensorDataset) else data
    if isinstance(arrays, tuple):
        if len(arrays) != 2:
            raise ValueError(f"{name} must be a pair (x, y), got {len(arrays)} arrays")
        x = _as_tensor(arrays[0], f"{name} x")
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(f"{name} x holds no samples, its shape is {tuple(x.shape)}")
        y = _as_labels(arrays[1], len(x), name)
        if x.device != y.device:
            raise ValueError(f"{name}: x is on {x.device}, y on {y.device}")
        return ArrayDataset(x, y)
    items: Any = data
    takes_indices = hasattr(items, "__len__") and hasattr(items, "__getitem__")
    if not takes_indices or isinstance(items, Mapping):
        raise TypeError(
            f"{name} must be a pair (x, y) or a map-style data set, got {type(items).__name__}"
        )
    if len(items) == 0:
        raise ValueError(f"{name} holds no samples")
    return ItemDataset(items, torch.arange(len(items), device="cpu"), name)


def as_generator(generator: torch.Generator | int, name: str) -> torch.Generator:
    """`generator` itself, or a new one on the CPU with that seed."""
    if isinstance(generator, torch.Generator):
        return cpu_generator(generator, name)
    try:
        return torch.Generator().manual_seed(operator.index(generator))
    except (RuntimeError, OverflowError) as error:
        raise ValueError(f"{name}: generator must be a 64-bit seed, got {generator}") from error
    except TypeError:
        raise TypeError(
            f"{name}: generator must be a torch.Generator or an int seed, "
            f"got {type(generator).__name__}"
        ) from None


def _transforms_targets(items: Any) -> bool:
    """Whether a torchvision data set changes its targets when an item is read."""
    both = getattr(items, "transforms", None)
    separate = both is None or hasattr(both, "target_transform")
    return getattr(items, "target_transform", None) is not None or not separate


def _as_tensor(array: Any, name: str) -> Tensor:
    if isinstance(array, Tensor):
        return array
    try:
        # torch takes neither read-only nor negatively strided memory; this copies only such.
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a numeric array: {error}") from error


def _as_labels(labels: Any, num_samples: int, name: str) -> Tensor:
    y = _as_tensor(labels, f"{name} y")
    if y.dtype == torch.bool or y.is_floating_point() or y.is_complex():
        raise TypeError(f"{name} y must be integers, got {y.dtype}")
    if y.shape != (num_samples,):
        raise ValueError(f"{name} y must have shape ({num_samples},), got {tuple(y.shape)}")
    y = y.to(torch.int64)
    if int(y.min()) < 0:
        raise ValueError(f"{name} y must not be negative, got {int(y.min())}")
    return y
