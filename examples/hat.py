"""HAT: masks of units that are learnt with the weights, and tasks that are forgotten by not a bit.

Every task says which one it is, and has an output layer of its own.
"""

import argparse

import torch
from digits import accuracies, batches, load, show

from clfast.methods import HAT
from clfast.nn import hat_mlp
from clfast.streams import SplitStream


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5, help="1, 2, 5 or 10")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    tasks = SplitStream(
        *load(), num_tasks=options.tasks, relabel="task"
    )  # labels 0, 1, ... in each

    torch.manual_seed(0)
    network = hat_mlp(64, widths=(200, 200), classes=len(tasks[0].classes))
    learner = HAT(network, lr=0.1, epochs=options.epochs, sparsity=0.1)
    then = []
    for task in tasks:
        learner.fit_task([(x.flatten(1), y) for x, y in batches(task)])
        learner.on_task_end()  # the mask is kept, and what it needs is reserved
        then += accuracies(lambda x, t=task.index: learner.predict(x.flatten(1), t), [task])
    now = []
    for task in tasks:
        now += accuracies(lambda x, t=task.index: learner.predict(x.flatten(1), t), [task])
    show(
        [f"task {task.index + 1}" for task in tasks],
        {"when the task ended": then, "at the end": now},
    )
    print({layer: f"{share:.0%} reserved" for layer, share in learner.capacity().items()})


if __name__ == "__main__":
    main()
