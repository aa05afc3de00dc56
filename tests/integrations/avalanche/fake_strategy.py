"""A strategy that calls plugins in the order in which Avalanche's does, and data for it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

Sample = tuple[Any, ...]


class FakeStrategy:
    def __init__(
        self, model: nn.Module, plugins: Sequence[Any], *, size: int = 8, momentum: float = 0.0
    ) -> None:
        self.model, self.plugins = model, plugins
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum)
        self.device = torch.device("cpu")
        self.train_mb_size = size
        self.experience: Any = None
        self.mbatch: Any = None
        self.mb_output: Any = None
        self.loss = torch.zeros(1)
        self.clock = SimpleNamespace(train_exp_counter=0)
        self.losses: list[float] = []

    def trigger(self, hook: str) -> None:
        for plugin in self.plugins:
            if hasattr(plugin, hook):
                getattr(plugin, hook)(self)

    def train(self, dataset: Sequence[Sample]) -> None:
        self.experience = SimpleNamespace(dataset=dataset)
        self.model.train()
        self.trigger("before_training")
        self.trigger("before_train_dataset_adaptation")
        self.trigger("before_training_exp")
        self.trigger("before_training_epoch")
        for batch in self.batches(dataset):
            self.mbatch = list(batch)
            self.trigger("before_training_iteration")
            self.optimizer.zero_grad()
            self.loss = torch.zeros(1)
            self.trigger("before_forward")
            self.mb_output = self.model(self.mbatch[0])
            self.trigger("after_forward")
            self.loss += F.cross_entropy(self.mb_output, self.mbatch[1])
            self.trigger("before_backward")
            self.losses.append(float(self.loss.detach()))
            self.loss.backward()
            self.trigger("after_backward")
            self.trigger("before_update")
            self.optimizer.step()
            self.trigger("after_update")
            self.trigger("after_training_iteration")
        self.trigger("after_training_epoch")
        self.trigger("after_training_exp")
        self.clock.train_exp_counter += 1
        self.trigger("after_training")

    def batches(self, dataset: Sequence[Sample]) -> list[list[Tensor]]:
        return batches(dataset, self.train_mb_size)

    @torch.no_grad()
    def eval(self, x: Tensor) -> Tensor:
        self.model.eval()
        self.trigger("before_eval")
        self.mb_output = self.model(x)
        self.trigger("after_eval_forward")
        found: Tensor = self.mb_output
        return found


def batches(dataset: Sequence[Sample], size: int) -> list[list[Tensor]]:
    """As a loader puts them together, in order."""
    parts = [dataset[i : i + size] for i in range(0, len(dataset), size)]
    return [
        [torch.stack([torch.as_tensor(v) for v in column]) for column in zip(*part, strict=True)]
        for part in parts
    ]


def loaded(dataset: Sequence[Sample], size: int) -> list[list[Tensor]]:
    """As an adapter reads them."""
    generator = torch.Generator().manual_seed(0)
    samples: Any = dataset
    loader: Any = DataLoader(samples, size, shuffle=True, generator=generator)
    return list(loader)


def grown(old: nn.Linear) -> nn.Linear:
    """A head with two outputs more."""
    new = nn.Linear(old.in_features, old.out_features + 2)
    with torch.no_grad():
        new.weight[: old.out_features] = old.weight
        new.bias[: old.out_features] = old.bias
    return new


class Growing:
    """As an IncrementalClassifier, with two outputs more in each experience."""

    def before_train_dataset_adaptation(self, strategy: FakeStrategy) -> None:
        strategy.model.classifier = grown(strategy.model.classifier)
        strategy.optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.05)


def experience(task: int, count: int = 24, *, arity: int = 2) -> list[Sample]:
    """Samples of classes 2 task and 2 task + 1, [1, 2, 3] each, in turn."""
    generator = torch.Generator().manual_seed(task)
    found: list[Sample] = []
    for i in range(count):
        label = 2 * task + i % 2
        x = torch.randn(1, 2, 3, generator=generator) + label
        found.append((x, label) if arity == 2 else (x, label, task))
    return found


class Network(nn.Module):
    def __init__(self, classes: int = 6) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(6, 10), nn.ReLU())
        self.classifier = nn.Linear(10, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits


def network(classes: int = 6, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(classes)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(left: nn.Module, right: nn.Module) -> None:
    torch.testing.assert_close(parameters(left), parameters(right), rtol=0, atol=0)
