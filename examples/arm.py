"""ARM: replay without stored images. The network recalls images on which it would now answer
otherwise than before, and learns back what it said of them.

The digits come in once, in small batches, two new classes a task.
"""

import argparse

import torch
from digits import accuracies, batches, load, show
from torch import nn

from clfast.methods import ARM, Finetune
from clfast.methods.classifier import Classifier
from clfast.streams import SplitStream


def train(name: str, tasks: SplitStream, steps: int) -> Classifier:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    if name == "ARM":
        generator = torch.Generator().manual_seed(0)
        learner = ARM(model, optimizer, images=10, steps=steps, lr=25.0, generator=generator)
    else:
        learner = Finetune(model, optimizer)
    for task in tasks:
        for x, y in batches(task, size=10):
            learner.observe(x, y)  # a step, the recall, and a step on what was recalled
        learner.on_task_end()  # the network now becomes the network before
    return learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5, help="1, 2, 5 or 10")
    parser.add_argument("--steps", type=int, default=10, help="of a recall")
    options = parser.parse_args()
    tasks = SplitStream(*load(), num_tasks=options.tasks)
    rows = {
        name: accuracies(train(name, tasks, options.steps).predict, tasks)
        for name in ("fine-tuning", "ARM")
    }
    show([", ".join(map(str, task.classes)) for task in tasks], rows)


if __name__ == "__main__":
    main()
