"""A memory behind any classifier: two new classes without training it again.

A network is trained on eight digits. Then images of two more arrive, which are written to a memory
and never trained on. `clfast.attach` makes the same network predict through the memory: at each
query its output layer is adapted to the query's nearest neighbours, and then forgets it.
"""

import argparse

import torch
import torch.nn.functional as F
from digits import accuracies, batches, load, show
from torch import nn

import clfast
from clfast.streams import SplitStream


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU())
        self.fc = nn.Linear(200, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--neighbours", type=int, default=20)
    options = parser.parse_args()
    tasks = SplitStream(*load(), num_tasks=2, first_task_classes=8)

    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(options.epochs):
        for x, y in batches(tasks[0]):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    model.eval()

    rows = {"the network alone": accuracies(model, tasks)}
    methods = {"mixture": {"gamma": 0.6}, "mbpa": {"lr": 0.01}, "hebb": {"lr": 0.01, "eta": 2.0}}
    for method, own in methods.items():
        attachment = clfast.attach(model, "fc", method=method, k=options.neighbours, **own)
        for task in tasks:
            attachment.on_task_end(batches(task))  # writes the task's samples, once
        rows[f"with {method}"] = accuracies(model, tasks)
        attachment.detach()
    show(["digits 0-7", "8 and 9"], rows)


if __name__ == "__main__":
    main()
