"""Problems for the raw exemplar kernels, and what the reference makes of them in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
