"""Permuted streams: every task is the same data under a pixel permutation of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._arguments import integer
from .online import Data, LabelledDataset, as_dataset, as_generator
from .splits import Task, TaskStream


class PermutedDataset(LabelledDataset):
    """`base` with the D values of each sample reordered: value i is old value `permutation[i]`.

    Nothing is stored twice: each access to `x` permutes anew, so keep it in a local variable.
    """

    def __init__(self, base: LabelledDataset, permutation: Tensor) -> None:
        self._base, self.permutation = base, permutation

    @property
    def x(self) -> Tensor:
        """All samples [N, ...], permuted."""
        return self._permute(self._base.x)

    @property
    def y(self) -> Tensor:
        """All labels [N] int64."""
        return self._base.y

    def __len__(self) -> int:
        return len(self._base)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self._base[index]
        return self._permute(_sample(x)[None])[0], y

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Samples [n, ...], permuted, and labels [n] at `indices` [n] int64."""
        x, y = self._base.batch(indices)
        return self._permute(x), y

    def subset(self, indices: Tensor, y: Tensor) -> PermutedDataset:
        """The samples at `indices` [n] int64 under the same permutation, labelled `y` [n]."""
        return PermutedDataset(self._base.subset(indices, y), self.permutation)

    def _permute(self, x: Tensor) -> Tensor:
        flat = x.reshape(len(x), -1)
        return flat.index_select(1, self.permutation.to(x.device)).reshape(x.shape)


class PermutedStream(TaskStream):
    """Permuted tasks (permuted MNIST, Goodfellow et al. 2013): `num_tasks` pixel permutations.

    `train` and `test` are pairs (x [N, ...], y [N]) or map-style data sets of tensors. Task t
    reorders all values of a sample by its permutation, the same for train and test; every task has
    all classes. With `identity_first` task 0 keeps the samples as they are. `generator` is a
    torch.Generator or a seed; a longer stream from the same seed begins with the same tasks.

    Raises ValueError or TypeError for empty data, labels that are not a vector of N non-negative
    integers, samples that are not tensors, and train and test samples of different shape.
    """

    def __init__(
        self,
        train: Data,
        test: Data,
        *,
        num_tasks: int,
        identity_first: bool = False,
        generator: torch.Generator | int = 0,
    ) -> None:
        train_set = as_dataset(train, "PermutedStream: train")
        test_set = as_dataset(test, "PermutedStream: test")
        num_tasks = integer(num_tasks, "num_tasks", "PermutedStream", least=1)
        shape, test_shape = _sample(train_set[0][0]).shape, _sample(test_set[0][0]).shape
        if shape != test_shape:
            raise ValueError(
                f"PermutedStream: train samples have shape {tuple(shape)}, "
                f"test samples {tuple(test_shape)}"
            )
        drawn = as_generator(generator, "PermutedStream")
        permutations = [
            torch.arange(shape.numel(), device="cpu")
            if identity_first and index == 0
            else torch.randperm(shape.numel(), generator=drawn, device="cpu")
            for index in range(num_tasks)
        ]
        classes = tuple(torch.unique(train_set.y).tolist())
        super().__init__(
            [
                Task(
                    index,
                    classes,
                    PermutedDataset(train_set, permutation),
                    PermutedDataset(test_set, permutation),
                )
                for index, permutation in enumerate(permutations)
            ]
        )


def _sample(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"PermutedStream: samples must be tensors, got {type(x).__name__}")
    return x
