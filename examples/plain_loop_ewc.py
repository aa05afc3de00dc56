"""A penalty in a loop of your own: EWC on permuted digits.

Every task shows the same ten digits under another permutation of the pixels. The loop is one that
you may have already; `ewc` marks the three lines that continual learning adds to it. SI, MAS and
RWalk of `clfast.plugins` go in at the same places.
"""

import argparse

import torch
import torch.nn.functional as F
from digits import accuracies, batches, load, show
from torch import nn

from clfast.plugins import EWC
from clfast.streams import PermutedStream


def train(strength: float, tasks: PermutedStream, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    ewc = EWC(model, strength=strength)  # ewc
    for task in tasks:
        loader = batches(task)
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                ewc.after_backward()  # ewc: adds the penalty's gradient
                optimizer.step()
        ewc.on_task_end(loader)  # ewc: what mattered for this task
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--strength", type=float, default=100.0)
    options = parser.parse_args()
    tasks = PermutedStream(*load(), num_tasks=options.tasks)
    rows = {
        "without": accuracies(train(0.0, tasks, options.epochs), tasks),
        "EWC": accuracies(train(options.strength, tasks, options.epochs), tasks),
    }
    show([f"task {task.index + 1}" for task in tasks], rows)


if __name__ == "__main__":
    main()
