"""What the examples share: the digits of scikit-learn, accuracies and a table.

There are 1797 images [1, 8, 8] from 0 to 1; they come with scikit-learn (pip install scikit-learn).
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader

from clfast.streams import Task

Samples = tuple[Tensor, Tensor]


def load() -> tuple[Samples, Samples]:
    """Three quarters to train on, one to test."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[450:], order[:450]
    return (x[train], y[train]), (x[test], y[test])


def batches(task: Task, size: int = 32) -> DataLoader:
    """A task's training samples, shuffled."""
    return DataLoader(task.train, batch_size=size, shuffle=True)


@torch.no_grad()
def accuracies(predict: Callable[[Tensor], Tensor], tasks: Iterable[Task]) -> list[float]:
    """On the test images of each task; `predict` gives labels or logits."""
    found = []
    for task in tasks:
        said = predict(task.test.x)
        labels = said.argmax(1) if said.dim() == 2 else said
        found.append((labels == task.test.y).float().mean().item())
    return found


def show(columns: Sequence[str], rows: dict[str, Sequence[float]]) -> None:
    """Accuracies in percent, and their mean."""
    print(f"{'accuracy %':24}" + "".join(f"{name:>10}" for name in (*columns, "mean")))
    for name, row in rows.items():
        values = [*row, sum(row) / len(row)]
        print(f"{name:24}" + "".join(f"{100 * value:10.1f}" for value in values))
