"""Avalanche's own plugins beside clfast's: scikit-learn's digits in five tasks of two classes.

pip install avalanche-lib==0.6.0 quadprog scikit-learn

Beside torch for the CPU the import of Avalanche fails with "operator torchvision::nms does not
exist"; a few lines at the end of docs/avalanche.md, before it, help.

python examples/avalanche_digits.py
python examples/avalanche_digits.py --style xy --only Replay EWC --json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.scenarios import class_incremental_benchmark
from avalanche.benchmarks.utils import as_classification_dataset
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.models import SimpleMLP
from avalanche.training import Naive
from avalanche.training import plugins as avalanche
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from clfast.integrations import avalanche as ours
from clfast.memory import ReplayBuffer


def split_digits(style: str, samples: int = 1400) -> Any:
    """Streams of samples (x, y, task label) or (x, y), so many to train on."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = (TensorDataset(x[rows], y[rows]) for rows in (order[:samples], order[1400:]))
    for part in (train, test):
        part.targets = part.tensors[1].tolist()
    classes = list(range(10))
    if style == "xyt":
        return nc_benchmark(train, test, 5, task_labels=False, fixed_class_order=classes)
    parts = {"train": as_classification_dataset(train), "test": as_classification_dataset(test)}
    return class_incremental_benchmark(parts, num_experiences=5, class_order=classes)


def naive(
    plugins: list[Any], *, epochs: int = 4, size: int = 32, lr: float = 0.05, seed: int = 0
) -> Any:
    torch.manual_seed(seed)
    model = SimpleMLP(num_classes=10, input_size=64, hidden_size=256, hidden_layers=2, drop_rate=0)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=size,
        train_epochs=epochs,
        eval_mb_size=256,
        plugins=plugins,
        evaluator=avalanche.EvaluationPlugin(accuracy_metrics(stream=True), loggers=[]),
    )


def run(strategy: Any, stream: Any) -> tuple[float, float]:
    """Accuracy on all classes after the last task, and seconds of training."""
    begin = time.perf_counter()
    for experience in stream.train_stream:
        strategy.train(experience)
    seconds = time.perf_counter() - begin
    metrics = strategy.eval(stream.test_stream)
    (accuracy,) = (value for name, value in metrics.items() if name.startswith("Top1_Acc_Stream"))
    return accuracy, seconds


def stored(policy: Any) -> list[Any]:
    return [avalanche.ReplayPlugin(policy.max_size, storage_policy=policy)]


# What is the same method stands under one name, Avalanche's first.
PLUGINS: dict[str, tuple[Callable[[], list[Any]] | None, Callable[[], list[Any]] | None]] = {
    "Naive": (lambda: [], None),
    "EWC": (lambda: [avalanche.EWCPlugin(20.0)], lambda: [ours.EWC(strength=40.0)]),
    "SI": (
        lambda: [avalanche.SynapticIntelligencePlugin(0.1)],
        lambda: [ours.SI(strength=0.05)],
    ),
    "MAS": (lambda: [avalanche.MASPlugin(0.1)], lambda: [ours.MAS(strength=0.02)]),
    "LwF": (lambda: [avalanche.LwFPlugin(1.0, 2.0)], lambda: [ours.LwF(strength=1.0)]),
    "Replay": (lambda: [avalanche.ReplayPlugin(200)], lambda: [ours.Replay(200)]),
    "MIR": (
        lambda: [avalanche.MIRPlugin(32, mem_size=200, subsample=100)],
        lambda: [
            ours.ERMIR(
                memory=ReplayBuffer(200, policy="class_balanced"),
                replay=32,
                candidates=100,
                lr=0.05,
            )
        ],
    ),
    "GEM": (lambda: [avalanche.GEMPlugin(40, 0.5)], lambda: [ours.GEM(per_task=40, margin=0.5)]),
    "A-GEM": (
        lambda: [avalanche.AGEMPlugin(40, 64)],
        lambda: [ours.AGEM(memory=ReplayBuffer(200), replay=64)],
    ),
    "Herding": (None, lambda: stored(ours.HerdingBuffer(200, "classifier"))),
    "Mnemonics": (
        None,
        lambda: stored(
            ours.MnemonicsBuffer(200, "classifier", objective="bop_fc", epochs=5, values=(0, 1))
        ),
    ),
    "Hebb": (None, lambda: [ours.Hebb("classifier", k=32)]),
    "ARM": (None, lambda: [ours.ARM(images=32, steps=5, lr=1.0)]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--style", choices=("xyt", "xy"), default="xyt", help="of samples")
    parser.add_argument("--only", nargs="+", choices=PLUGINS, default=list(PLUGINS))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="instead of a table")
    options = parser.parse_args()
    rows = []
    if not options.json:
        print(f"{'':12}{'Avalanche':>18}{'clfast':>18}")
    for name in options.only:
        row: dict[str, Any] = {"name": name, "style": options.style}
        for owner, plugins in zip(("avalanche", "clfast"), PLUGINS[name], strict=True):
            row[owner] = None
            # Its LwF wants task labels.
            if plugins is not None and (owner, name, options.style) != ("avalanche", "LwF", "xy"):
                strategy = naive(plugins(), epochs=options.epochs)
                accuracy, seconds = run(strategy, split_digits(options.style))
                row[owner] = {"accuracy": accuracy, "seconds": seconds}
        rows.append(row)
        if not options.json:
            cells = (row[owner] for owner in ("avalanche", "clfast"))
            texts = (f"{c['accuracy']:.1%} {c['seconds']:6.1f} s" if c else "" for c in cells)
            print(f"{name:12}" + "".join(f"{text:>18}" for text in texts), flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
