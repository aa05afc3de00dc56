"""Inputs of the adaptation cases: a memory, queries with their true neighbours, a layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .. import case, oracle
from ..opponents.adaptation import Batch, Layer, Memory


class Adaptation(NamedTuple):
    batch: Batch
    memory: Memory
    layer: Layer
    interpolation: Tensor  # [C]


class Sizes(NamedTuple):
    B: int
    K: int
    d: int
    C: int
    M: int = 60_000


def make(generator: Generator, sizes: Sizes) -> Adaptation:
    """Classes that overlap, so that a query's neighbours have several labels; features of about
    unit length; the true neighbours."""
    B, K, d, C, M = sizes
    centres = torch.randn(C, d, generator=generator)
    spread, length = 2.5, (d * (1 + 2.5**2)) ** 0.5

    def features(labels: Tensor) -> Tensor:
        noise = torch.randn(len(labels), d, generator=generator)
        return centres[labels].add_(noise, alpha=spread).div_(length)

    labels = torch.randint(C, (M,), generator=generator)
    keys = features(labels)
    queries = features(torch.randint(C, (B,), generator=generator))
    distances, indices = oracle.neighbors(queries, keys, K)
    bound = d**-0.5  # as nn.Linear starts
    weight = torch.empty(C, d).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(C).uniform_(-bound, bound, generator=generator)
    return Adaptation(
        Batch(queries, distances.float(), indices, F.linear(queries, weight, bias)),
        Memory(keys, labels, keys.square().sum(1)),
        Layer(weight, bias),
        torch.rand(C, generator=generator),
    )


def in_float64(x: Adaptation) -> Adaptation:
    """Only the memory rows that are neighbours of some query: the others change nothing."""
    rows, indices = x.batch.indices.unique(return_inverse=True)
    memory = Memory(*(part[rows] for part in x.memory))
    batch = x.batch._replace(indices=indices)
    wide: Adaptation = case.in_float64(x._replace(batch=batch, memory=memory))
    return wide


def touched(x: Adaptation, bytes_a_row: int) -> int:
    """Bytes of the memory rows that are neighbours of some query, each read once."""
    return len(x.batch.indices.unique()) * bytes_a_row
