"""The functions of docs/integrations.md against the loops that they stand in for, on stubs with the
signatures of the libraries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"


@pytest.fixture(scope="module")
def recipes() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def samples(count: int = 60) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=rng), torch.randint(3, (count,), generator=rng)


def herded(features: Tensor, labels: Tensor, m: int) -> list[int]:
    """Rows of iCaRL's picks, class by class: the loop that libraries have."""
    found = []
    for label in labels.unique().tolist():
        rows = [i for i in range(len(labels)) if labels[i] == label]
        unit = F.normalize(features.double(), dim=1)
        mean, total = unit[rows].mean(0), torch.zeros(features.shape[1], dtype=torch.float64)
        left = list(rows)
        for k in range(1, min(m, len(rows)) + 1):
            best = min(left, key=lambda i: float((mean - (total + unit[i]) / k).norm()))
            left.remove(best)
            total = total + unit[best]
            found.append(best)
    return found


class RehearsalMemory:
    """Continuum's, which calls ``herding_method(x, y, t, z, nb_per_class=...)``."""

    def __init__(self, memory_size: int, herding_method: Any, nb_total_classes: int) -> None:
        self.herding_method, self.per_class = herding_method, memory_size // nb_total_classes

    def add(self, x: Any, y: Any, t: Any, z: Any) -> None:
        self.x, self.y, self.t = self.herding_method(x, y, t, z, nb_per_class=self.per_class)


def test_continuum(recipes: dict[str, Any]) -> None:
    z, y = samples()
    x, t = np.arange(60), np.zeros(60)
    memory = RehearsalMemory(12, recipes["herd"], nb_total_classes=3)
    memory.add(x, y.numpy(), t, z.numpy())
    assert memory.x.tolist() == herded(z, y, 4)
    assert memory.y.tolist() == y[memory.x].tolist()
    assert len(memory.t) == 12


class Selector:
    """FACIL's, whose models give (outputs, features)."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor, return_features: bool = False) -> Any:
            features = self.body(x)
            return ([self.head(features)], features) if return_features else [self.head(features)]


def test_facil(recipes: dict[str, Any]) -> None:
    x, y = samples()
    torch.manual_seed(0)
    model = Selector.Model().train()
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=False)
    found = recipes["select_indices"](Selector(), model, loader, 5, None)
    assert not model.training
    assert found == herded(model.body(x).detach(), y, 5)


class Numbered(Dataset[Any]):
    """PyCIL's data sets give (index, image, label)."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[int, Any, int]:
        return index, self.x[index], self.y[index]


class BaseLearner:
    """PyCIL's, and its data manager."""

    def __init__(self, known: int, total: int) -> None:
        torch.manual_seed(0)
        self.network = nn.Linear(6, 5)
        self._known_classes, self._total_classes, self.topk = known, total, 2
        self._data_memory, self._targets_memory = np.array([]), np.array([])
        self._class_means = np.zeros((total, 5))

    def _extract_vectors(self, loader: Any) -> tuple[Any, Any]:
        with torch.no_grad():
            parts = [(self.network(x).numpy(), y.numpy()) for _, x, y in loader]
        vectors, targets = zip(*parts, strict=True)
        return np.concatenate(vectors), np.concatenate(targets)

    def get_dataset(self, indices: Any, source: str, mode: str, ret_data: bool) -> Any:
        x, y = (part.numpy() for part in samples())
        chosen = np.isin(y, indices)
        assert (source, mode, ret_data) == ("train", "test", True)
        return x[chosen], y[chosen], Numbered(x[chosen], y[chosen])


def test_pycil(recipes: dict[str, Any]) -> None:
    learner = BaseLearner(known=0, total=2)
    recipes["construct_exemplar"](learner, learner, 6)
    learner._known_classes, learner._total_classes = 2, 3
    learner._class_means = np.concatenate([learner._class_means, np.zeros((1, 5))])
    recipes["construct_exemplar"](learner, learner, 4)
    x, y = samples()
    vectors = learner.network(x).detach()
    rows = herded(vectors, y, 6)[:16]
    assert np.array_equal(learner._data_memory, x[rows].numpy())
    assert learner._targets_memory.tolist() == y[rows].tolist()
    unit = F.normalize(vectors, dim=1)
    for label in range(3):
        mean = unit[[i for i in rows if y[i] == label]].mean(0)
        torch.testing.assert_close(
            torch.as_tensor(learner._class_means[label]).float(), mean / mean.norm()
        )
    loader = DataLoader(Numbered(x.numpy(), y.numpy()), batch_size=16)
    predicted, truth = recipes["eval_nme"](learner, loader, learner._class_means)
    distances = torch.cdist(unit, torch.as_tensor(learner._class_means).float())
    assert np.array_equal(predicted, distances.argsort(1)[:, :2].numpy())
    assert np.array_equal(truth, y.numpy())


class MemoryBuffer(nn.Module):
    """Van de Ven's."""

    def __init__(self, norm_exemplars: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 4)
        self.norm_exemplars, self.memory_sets = norm_exemplars, []

    def _device(self) -> torch.device:
        return self.layer.weight.device

    def feature_extractor(self, images: Tensor) -> Tensor:
        assert not self.training
        features: Tensor = self.layer(images)
        return features


def test_van_de_ven(recipes: dict[str, Any]) -> None:
    x, _ = samples(30)
    buffer = MemoryBuffer(norm_exemplars=True)
    dataset = TensorDataset(x, torch.ones(30).long())
    recipes["construct_memory_set"](buffer, dataset, 7, None)
    rows = herded(buffer.layer(x).detach(), torch.zeros(30), 7)
    assert np.array_equal(buffer.memory_sets[0], x[rows].numpy())
    assert buffer.training
    recipes["construct_memory_set"](MemoryBuffer(norm_exemplars=False), dataset, 7, [1])
