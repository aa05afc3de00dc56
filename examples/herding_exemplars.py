"""The parts of iCaRL, for code that has the rest of it: exemplars by herding, and the classifier by
the nearest mean of exemplars.

After each task the exemplars of all its classes are chosen in one call. From then on they are
trained on with the batches of the next.
"""

import argparse

import torch
import torch.nn.functional as F
from digits import accuracies, batches, load, show
from torch import Tensor, nn

from clfast import ops
from clfast.streams import SplitStream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5, help="1, 2, 5 or 10")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--exemplars", type=int, default=5, help="of a class")
    options = parser.parse_args()
    tasks = SplitStream(*load(), num_tasks=options.tasks)

    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 100))
    head = nn.Linear(100, 10)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.05, momentum=0.9)
    kept_x, kept_y = torch.empty(0, 1, 8, 8), torch.empty(0, dtype=torch.int64)

    def features(x: Tensor) -> Tensor:
        with torch.no_grad():
            return F.normalize(body(x), dim=1)

    for task in tasks:
        for _ in range(options.epochs):
            for x, y in batches(task):
                x, y = torch.cat([x, kept_x]), torch.cat([y, kept_y])
                optimizer.zero_grad()
                F.cross_entropy(head(body(x)), y).backward()
                optimizer.step()
        x, y = task.train.x, task.train.y
        rows = torch.cat(ops.herding(features(x), y, options.exemplars))  # of every class at once
        kept_x, kept_y = torch.cat([kept_x, x[rows]]), torch.cat([kept_y, y[rows]])

    means = ops.class_means(features(kept_x), kept_y, 10)
    show(
        [", ".join(map(str, task.classes)) for task in tasks],
        {
            "the output layer": accuracies(lambda x: head(body(x)), tasks),
            "nearest mean": accuracies(lambda x: ops.nearest_class_mean(features(x), means), tasks),
        },
    )


if __name__ == "__main__":
    main()
