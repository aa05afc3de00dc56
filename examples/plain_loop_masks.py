"""Masks in a loop of your own: weights that a task needs are never changed again.

Every task shows the digits under another permutation of the pixels, and has an output layer of its
own; all share one layer of weights. As in PackNet (Mallya and Lazebnik 2018), after a task the
largest of the free weights are kept, and the rest become 0; then its output layer is trained a
little more. What is kept is reserved: `protect` holds it, bit for bit, whatever momentum and weight
decay do, and the task is predicted by it alone.
"""

import argparse

import torch
import torch.nn.functional as F
from digits import accuracies, batches, load, show
from torch import Tensor, nn

from clfast.optim import protect
from clfast.streams import PermutedStream, Task


class Network(nn.Module):
    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.first = nn.Linear(64, 50, bias=False)
        self.heads = nn.ModuleList(nn.Linear(50, 10) for _ in range(tasks))

    def forward(self, x: Tensor, task: int, used: Tensor | float = 1.0) -> Tensor:
        return self.heads[task](F.linear(x.flatten(1), self.first.weight * used).relu())


def fit(network: Network, task: Task, epochs: int, reserved: Tensor) -> None:
    """Your loop."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)
    with protect(optimizer, {network.first.weight: reserved}):
        for _ in range(epochs):
            for x, y in batches(task):
                optimizer.zero_grad()
                F.cross_entropy(network(x, task.index), y).backward()
                optimizer.step()


def keep_largest(weight: Tensor, reserved: Tensor, share: float) -> Tensor:
    """What is reserved, and the largest of what is free; the rest becomes 0."""
    size = weight.detach().abs().masked_fill(reserved, -1.0)
    count = int(share * int((~reserved).sum()))
    kept = reserved | (size >= size.flatten().topk(count).values[-1])
    with torch.no_grad():
        weight[~kept] = 0.0
    return kept


def train(tasks: PermutedStream, epochs: int, share: float) -> tuple[list[float], list[float]]:
    """Accuracies of each task when it ended and at the end; share 0: without masks."""
    torch.manual_seed(0)
    network = Network(len(tasks))
    nothing = torch.zeros(50, 64, dtype=torch.bool)
    reserved, used, when_ended = nothing, [], []

    def accuracy(task: Task) -> list[float]:
        return accuracies(lambda x: network(x, task.index, used[task.index]), [task])

    for task in tasks:
        fit(network, task, epochs, reserved)
        if share:
            reserved = keep_largest(network.first.weight, reserved, share)
            fit(network, task, 1, reserved=torch.ones_like(nothing))  # the output layer alone
        used.append(reserved if share else 1.0)
        when_ended += accuracy(task)
    return when_ended, [value for task in tasks for value in accuracy(task)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.4, help="of the free weights, a task's")
    options = parser.parse_args()
    tasks = PermutedStream(*load(), num_tasks=options.tasks)
    rows = {}
    for name, share in (("no masks", 0.0), ("masks", options.share)):
        then, now = train(tasks, options.epochs, share)
        rows |= {f"{name}, task ended": then, f"{name}, at the end": now}
    show([f"task {task.index + 1}" for task in tasks], rows)


if __name__ == "__main__":
    main()
