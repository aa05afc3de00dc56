"""Replay in a loop of your own: experience replay on digits, two new classes a task.

`er` marks the lines that continual learning adds. ERMIR, AGEM and GEM of `clfast.plugins` go in at
the same places.
"""

import argparse

import torch
import torch.nn.functional as F
from digits import accuracies, batches, load, show
from torch import nn

from clfast.memory import ReplayBuffer
from clfast.plugins import ER
from clfast.streams import SplitStream


def train(memory: int, tasks: SplitStream, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    er = ER(model, ReplayBuffer(memory), replay=16) if memory else None  # er
    for task in tasks:
        for _ in range(epochs):
            for x, y in batches(task):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                if er:
                    er.after_backward()  # er: adds the gradient of past samples
                optimizer.step()
        if er:
            er.on_task_end(batches(task))  # er: stores samples of the task
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5, help="1, 2, 5 or 10")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--memory", type=int, default=100, help="samples that are kept")
    options = parser.parse_args()
    tasks = SplitStream(*load(), num_tasks=options.tasks)
    rows = {
        "without": accuracies(train(0, tasks, options.epochs), tasks),
        f"ER, {options.memory} samples": accuracies(
            train(options.memory, tasks, options.epochs), tasks
        ),
    }
    show([", ".join(map(str, task.classes)) for task in tasks], rows)


if __name__ == "__main__":
    main()
