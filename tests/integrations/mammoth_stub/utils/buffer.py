"""`Buffer`: samples go in one at a time, slots come from a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class ReservoirSampling:
    def __init__(self, buffer_size: int) -> None:
        self.buffer_size = buffer_size
        self.updates: list[tuple[Any, Any]] = []

    def update(self, indexes: Any, values: Any) -> None:
        self.updates.append((indexes, values))

    def __call__(self, num_seen_examples: int) -> int:
        if num_seen_examples < self.buffer_size:
            return num_seen_examples
        drawn = np.random.randint(0, num_seen_examples + 1)
        return drawn if drawn < self.buffer_size else -1


class NewestSampling(ReservoirSampling):
    """A stand-in for Mammoth's other strategies."""

    def __call__(self, num_seen_examples: int) -> int:
        return num_seen_examples % self.buffer_size


class Buffer:
    def __init__(
        self,
        buffer_size: int,
        device: str = "cpu",
        sample_selection_strategy: str = "reservoir",
        **kwargs: Any,
    ) -> None:
        self.buffer_size, self.device = buffer_size, device
        self.num_seen_examples = 0
        self.attributes = ["examples", "labels", "logits", "task_labels", "true_labels"]
        self.attention_maps: list[list[Tensor] | None] = [None] * buffer_size
        self.sample_selection_strategy = sample_selection_strategy
        kind = ReservoirSampling if sample_selection_strategy == "reservoir" else NewestSampling
        self.sample_selection_fn = kind(buffer_size)

    def __len__(self) -> int:
        return min(self.num_seen_examples, self.buffer_size)

    def init_tensors(
        self,
        examples: Tensor,
        labels: Tensor | None,
        logits: Tensor | None,
        task_labels: Tensor | None,
        true_labels: Tensor | None,
    ) -> None:
        given = (examples, labels, logits, task_labels, true_labels)
        for name, tensor in zip(self.attributes, given, strict=True):
            if tensor is not None and not hasattr(self, name):
                dtype = torch.int64 if name.endswith("els") else torch.float32
                shape = (self.buffer_size, *tensor.shape[1:])
                setattr(self, name, torch.zeros(shape, dtype=dtype, device=self.device))

    def add_data(
        self,
        examples: Tensor,
        labels: Tensor | None = None,
        logits: Tensor | None = None,
        task_labels: Tensor | None = None,
        attention_maps: Sequence[Tensor] | None = None,
        true_labels: Tensor | None = None,
        sample_selection_scores: Tensor | None = None,
    ) -> None:
        given = (examples, labels, logits, task_labels, true_labels)
        if not hasattr(self, "examples"):
            self.init_tensors(*given)
        for i in range(len(examples)):
            slot = self.sample_selection_fn(self.num_seen_examples)
            self.num_seen_examples += 1
            if slot < 0:
                continue
            for name, tensor in zip(self.attributes, given, strict=True):
                if tensor is not None:
                    getattr(self, name)[slot] = tensor[i].to(self.device)
            if attention_maps is not None:
                self.attention_maps[slot] = [layer[i].byte() for layer in attention_maps]
            if sample_selection_scores is not None:
                self.sample_selection_fn.update(slot, sample_selection_scores[i])

    def empty(self) -> None:
        for name in self.attributes:
            if hasattr(self, name):
                delattr(self, name)
        self.num_seen_examples = 0
