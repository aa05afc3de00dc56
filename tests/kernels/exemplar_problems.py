"""Problems for the raw exemplar kernels, and what the reference makes of them in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from guarded_arrays import Array, Shapes
from kernel_problems import tensor

from clfast import reference


@dataclass(frozen=True)
class Herding:
    """Labels sorted, with the rows that have them, as the kernels take them."""

    features: Array  # [N, d]
    sorted: Array  # [N]
    members: Array  # [N]
    m: int

    def outputs(self) -> Shapes:
        return [(self.sorted.shape, np.int64)] * 2

    def labels(self) -> Array:
        labels = np.empty_like(self.sorted)
        labels[self.members] = self.sorted
        return labels

    def oracle(self) -> list[Array]:
        """Picks of a class where its members stand, then -1; sizes at the first place, then 0."""
        found = reference.exemplars.herding(tensor(self.features), tensor(self.labels()), self.m)
        picks, sizes = np.full_like(self.sorted, -1), np.zeros_like(self.sorted)
        counts = np.unique(self.sorted, return_counts=True)[1]
        for first, count, own in zip(np.cumsum(counts) - counts, counts, found, strict=True):
            sizes[first] = count
            picks[first : first + len(own)] = own.numpy()
        return [picks, sizes]


def herding(features: Array, labels: Array, m: int) -> Herding:
    members = np.argsort(labels, kind="stable")
    return Herding(features, labels[members], members, m)


def classes_of(
    sizes: list[int], dim: int, dtype: str, rng: np.random.Generator, m: int = 5
) -> Herding:
    """Classes with so many members, in a random order of rows."""
    labels = rng.permutation(np.repeat(np.arange(len(sizes)) * 3 - 4, sizes))
    features = (rng.standard_normal((len(labels), dim)) + 0.5).astype(dtype)
    return herding(features, labels, m)


@dataclass(frozen=True)
class Descent:
    """Forward, and back from gradients by its results; without a bias its outputs are empty."""

    kernel: ClassVar[str] = "softmax_descent"
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 64

    features: Array  # [n, d]
    labels: Array  # [n]
    weight: Array  # [C, d]
    bias: Array | None  # [C]
    weight_grad: Array  # [C, d]
    bias_grad: Array | None  # [C]
    steps: int
    lr: float

    def outputs(self) -> Shapes:
        classes = len(self.weight)
        biases = (0 if self.bias is None else classes,)
        predictions = (self.steps, classes, len(self.features))
        shapes = (
            *(self.weight.shape, biases, predictions),
            *(self.features.shape, self.weight.shape, biases),
        )
        return [(shape, self.weight.dtype) for shape in shapes]

    def oracle(self) -> list[Array]:
        """The predictions of every step, and autograd through all steps."""
        features, weight = (tensor(t).requires_grad_() for t in (self.features, self.weight))
        bias = None if self.bias is None else tensor(self.bias).requires_grad_()
        labels = tensor(self.labels)
        given = (features, labels, weight, bias)
        predictions = np.zeros((self.steps, len(weight), len(features)))
        for t in range(self.steps):
            layer = reference.exemplars.softmax_descent(*given, steps=t, lr=self.lr)
            predictions[t] = F.linear(features, *layer).softmax(1).T.detach().numpy()
        found = reference.exemplars.softmax_descent(*given, steps=self.steps, lr=self.lr)
        results, leaves = (
            [t for t in ts if t is not None] for ts in (found, given[:1] + given[2:])
        )
        grads = [tensor(g) for g in (self.weight_grad, self.bias_grad) if g is not None]
        slopes = torch.autograd.grad(
            results, leaves, grads, allow_unused=True, materialize_grads=True
        )
        none = [np.zeros(0)] if bias is None else []
        return [
            *(t.detach().numpy() for t in results),
            *none,
            predictions,
            *(slope.numpy() for slope in slopes),
            *none,
        ]


def descent(
    samples: int,
    dim: int,
    classes: int,
    dtype: str,
    rng: np.random.Generator,
    steps: int = 4,
    bias: bool = True,
) -> Descent:
    features = rng.standard_normal((samples, dim)) / dim**0.5
    weight, grad = rng.standard_normal((2, classes, dim)).astype(dtype)
    biases = rng.standard_normal((2, classes)).astype(dtype)
    labels = rng.integers(0, classes, samples)
    shift, shift_grad = biases if bias else (None, None)
    return Descent(features.astype(dtype), labels, weight, shift, grad, shift_grad, steps, 0.8)
