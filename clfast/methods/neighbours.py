"""What the methods share that predict from the neighbours of a query."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from .. import _arguments
from ..memory import KeyValueMemory
from ..ops import Neighbors
from .parametric import Parametric


class NeighbourLearner(Parametric):
    """Predicts from h_x, the base logits and the K nearest entries of the memory.

    While the memory is empty it predicts as `Parametric`.
    """

    memory: KeyValueMemory

    def __init__(
        self,
        features: nn.Module,
        head: nn.Linear | nn.Sequential,
        memory: KeyValueMemory,
        *,
        k: int,
        base_optimizer: torch.optim.Optimizer | None,
    ) -> None:
        name = type(self).__name__
        if not isinstance(memory, KeyValueMemory):
            raise TypeError(f"{name}: memory must be a KeyValueMemory, got {type(memory).__name__}")
        super().__init__(features, head, memory, base_optimizer=base_optimizer)
        self.k = _arguments.integer(k, "k", name, least=1)

    def _scores(self, features: Tensor, logits: Tensor, where: str) -> Tensor:
        if not isinstance(self.memory, KeyValueMemory):
            raise TypeError(
                f"{where}: memory must be a KeyValueMemory, got {type(self.memory).__name__}"
            )
        if not len(self.memory) or not len(features):
            return logits
        try:
            seen = self.memory.seen(self.num_classes)
        except ValueError as error:
            raise ValueError(
                f"{where}: head has outputs for {self.num_classes} classes, fewer than the memory "
                f"has seen ({error}); use a larger head, or memory.clear()"
            ) from error
        neighbors = self.memory.search(features, self.k)
        queries, base_logits = self._as_memory(features), self._as_memory(logits)
        return self._adapted(queries, base_logits, neighbors, seen).to(logits.dtype)

    def _as_memory(self, tensor: Tensor) -> Tensor:
        """float64 where the memory is, and not where it is not: the ops do not mix the two."""
        if (self.memory.dtype == torch.float64) == (tensor.dtype == torch.float64):
            return tensor
        return tensor.to(self.memory.key_sq_norms.dtype)

    @abstractmethod
    def _adapted(
        self, queries: Tensor, base_logits: Tensor, neighbors: Neighbors, seen: Tensor
    ) -> Tensor:
        """Adapted scores [B, C]; `seen` [C] int64: n_i, how often each class was written."""
