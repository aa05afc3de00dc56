"""Lightning: EWC and replay as callbacks of the Trainer, around a module that knows of neither.

Needs `pip install lightning`. One `Trainer.fit` is one task, and all have the same callback.
"""

import argparse
import logging
import warnings

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from digits import accuracies, batches, load, show
from torch import Tensor, nn

from clfast.integrations.lightning import PluginCallback
from clfast.memory import ReplayBuffer
from clfast.plugins import ER, EWC
from clfast.streams import PermutedStream


class Module(pl.LightningModule):
    """Yours."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def train(callbacks: list[pl.Callback], tasks: PermutedStream, epochs: int) -> list[float]:
    module = Module()
    for task in tasks:
        trainer = pl.Trainer(
            callbacks=callbacks,
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, batches(task))
    return accuracies(module.eval(), tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    tasks = PermutedStream(*load(), num_tasks=options.tasks)
    rows = {
        "without": train([], tasks, options.epochs),
        "EWC": train(
            [PluginCallback(lambda module: EWC(module, strength=100.0))], tasks, options.epochs
        ),
        "ER, 100 samples": train(
            [PluginCallback(lambda module: ER(module, ReplayBuffer(100), replay=16))],
            *(tasks, options.epochs),
        ),
    }
    show([f"task {task.index + 1}" for task in tasks], rows)


if __name__ == "__main__":
    main()
