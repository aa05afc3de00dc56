"""clfast beside the parts of Avalanche that it stands in for: `make bench-avalanche`.

    python -m benchmarks.avalanche [--small] [--threads 2] [--out FILE]

In one process, the two taking turns (`harness.alternate`); medians. Both are held against each
other before they are timed. Full size is Avalanche's SlimResNet18 (1.1 M parameters in 62 tensors)
on batches of 10 images of 32 x 32, after ten tasks; and whole strategies on scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from .harness import Settings, WallTimer, alternate
from .torchvision_ops import declare_missing

declare_missing()

from avalanche.benchmarks import nc_benchmark  # noqa: E402
from avalanche.benchmarks.utils import as_classification_dataset  # noqa: E402
from avalanche.models import SimpleMLP, SlimResNet18  # noqa: E402
from avalanche.training import Naive  # noqa: E402
from avalanche.training import plugins as theirs  # noqa: E402
from avalanche.training.plugins.mir import update_temp  # noqa: E402
from avalanche.training.storage_policy import (  # noqa: E402
    HerdingSelectionStrategy,
    ReservoirSamplingBuffer,
)
from avalanche.training.utils import ParamData  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

from clfast.integrations import avalanche as ours  # noqa: E402
from clfast.integrations.avalanche import replacements  # noqa: E402
from clfast.memory import ReplayBuffer  # noqa: E402
from clfast.ops import herding, mir_scores  # noqa: E402

TASKS = 10
LR = 0.1


class Comparison(NamedTuple):
    """Both do the same work; the first is Avalanche's, or what clfast's comes on top of."""

    name: str
    calls: dict[str, Callable[[], Any]]
    bar: float | None  # how many times clfast shall be as fast as the first
    tolerance: float | None = 1e-4  # None: they draw, and nothing is compared


class Setting(NamedTuple):
    model: nn.Module
    x: Tensor
    y: Tensor
    candidates: Tensor
    labels: Tensor
    features: Tensor  # of one class


def setting(small: bool) -> Setting:
    torch.manual_seed(0)
    shape = (1, 8, 8) if small else (3, 32, 32)
    model = SimpleMLP(10, 64, 16, drop_rate=0) if small else SlimResNet18(10)
    generator = torch.Generator().manual_seed(0)

    def images(count: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(count, *shape, generator=generator)
        return x, torch.randint(10, (count,), generator=generator)

    features = torch.randn(60 if small else 500, 64, generator=generator).relu()
    return Setting(model, *images(10), *images(50), features)


def ewc(s: Setting) -> Iterator[Comparison]:
    """The penalty of ten tasks and its gradients; and a whole step with it."""
    generator = torch.Generator().manual_seed(1)
    parameters = dict(s.model.named_parameters())
    plugin, adapter = theirs.EWCPlugin(0.5), ours.EWC(strength=1.0)
    strategy = SimpleNamespace(
        model=s.model, device="cpu", loss=None, clock=SimpleNamespace(train_exp_counter=TASKS)
    )
    totals = {name: torch.zeros_like(p) for name, p in parameters.items()}
    weighted = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for task in range(TASKS):
        for name, p in parameters.items():
            f = torch.rand(p.shape, generator=generator) + 0.1
            theta = p.detach() + 0.1 * torch.randn(p.shape, generator=generator)
            plugin.importances[task][name] = ParamData(name, init_tensor=f)
            plugin.saved_params[task][name] = ParamData(name, init_tensor=theta)
            totals[name] += f
            weighted[name] += f * theta
    anchors = {name: weighted[name] / totals[name] for name in totals}
    adapter.load_state_dict({"tasks": TASKS, "importances": totals, "anchors": anchors})
    adapter.before_training_exp(strategy)

    def gradients() -> list[Tensor]:
        return [p.grad.clone() for p in parameters.values()]

    def in_graph(add: Callable[..., None]) -> Callable[[], list[Tensor]]:
        def run() -> list[Tensor]:
            s.model.zero_grad(set_to_none=False)
            strategy.loss = torch.zeros(1)
            add(plugin, strategy)
            strategy.loss.backward()
            return gradients()

        return run

    def closed() -> list[Tensor]:
        s.model.zero_grad(set_to_none=False)
        adapter.after_backward(strategy)
        return gradients()

    for p in parameters.values():
        p.grad = torch.zeros_like(p)
    calls = {
        "Avalanche": in_graph(theirs.EWCPlugin.before_backward),
        "clfast": closed,
        "accelerate_avalanche": in_graph(replacements.ewc_before_backward),
    }
    yield Comparison(f"EWC, penalty of {TASKS} tasks", calls, 10)

    optimizer = torch.optim.SGD(s.model.parameters(), lr=0.0)

    def step(penalty: bool) -> Callable[[], None]:
        def run() -> None:
            optimizer.zero_grad()
            F.cross_entropy(s.model(s.x), s.y).backward()
            if penalty:
                adapter.after_backward(strategy)
            optimizer.step()

        return run

    steps = {"Naive": step(False), "clfast": step(True)}
    yield Comparison(f"EWC, a step of SlimResNet18 after {TASKS} tasks", steps, 1 / 1.1, None)


class _Loader:
    """A plugin that keeps the loader of the experience."""

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        del kwargs
        self.loader = strategy.dataloader


def digits(s: Setting) -> Iterator[Comparison]:
    """Epochs of a whole strategy, with its loader, hooks and metrics, on the last of ten tasks."""
    found = load_digits()
    x, y = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)
    data = TensorDataset(x, y)
    data.targets = found.target.tolist()
    few = TASKS if len(s.features) > 60 else 2
    stream = nc_benchmark(data, data, TASKS, task_labels=False, fixed_class_order=range(10))

    def epoch(*plugins: Any) -> Callable[[], Any]:
        torch.manual_seed(0)
        model = SimpleMLP(10, 64, 256, hidden_layers=2, drop_rate=0)
        strategy = Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=1e-3),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=32,
            plugins=list(plugins),
            evaluator=theirs.EvaluationPlugin(loggers=[]),
        )
        last = _Loader()
        strategy.plugins.append(last)
        for experience in list(stream.train_stream)[:few]:
            strategy.train(experience)
        strategy.dataloader = last.loader  # which the end of train() takes away

        def run() -> Tensor:
            strategy.training_epoch()
            return strategy.loss

        return run

    calls = {
        "Naive": epoch(),
        "clfast": epoch(ours.EWC(strength=1.0)),
        "Avalanche": epoch(theirs.EWCPlugin(0.5)),
    }
    yield Comparison(f"EWC, an epoch on digits after {few} tasks", calls, 1 / 1.1, None)


def replay(s: Setting) -> Iterator[Comparison]:
    for shape, bar in (((1, 8, 8), 20), ((3, 32, 32), None)):
        yield _replay(TensorDataset(torch.rand(200, *shape), torch.arange(200) % 10), bar)


def _replay(stored: TensorDataset, bar: float | None) -> Comparison:
    x, y = stored.tensors
    stored.targets = y.tolist()
    buffer = ReservoirSamplingBuffer(200)
    buffer.update_from_dataset(as_classification_dataset(stored))
    loader = DataLoader(buffer.buffer, batch_size=32, shuffle=True)

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    batches = forever()
    memory = ReplayBuffer(200)
    memory.add(x=x, y=y)
    calls = {"Avalanche": lambda: next(batches), "clfast": lambda: memory.sample(32)}
    size = "x".join(map(str, x.shape[1:]))
    return Comparison(f"replay, 32 of 200 images {size}", calls, bar, None)


def herded(s: Setting) -> Iterator[Comparison]:
    n = len(s.features)
    selection = HerdingSelectionStrategy(SimpleMLP(), "features")
    one_class = torch.zeros(n, dtype=torch.int64)
    calls = {
        "Avalanche": lambda: _numbers(selection.make_sorted_indices_from_features(s.features)),
        "clfast": lambda: _numbers(replacements.sorted_by_herding(None, s.features)),
    }
    # In float32 they may order the last of 500 differently, see sorted_by_herding.
    yield Comparison(f"herding, the order of {n}", calls, 20, None)
    first = {
        "Avalanche": calls["Avalanche"],
        "clfast": lambda: herding(s.features, one_class, 20)[0],
    }
    yield Comparison(f"herding, 20 of {n}", first, 20, None)


def _numbers(rows: list[int]) -> Tensor:
    return torch.tensor(rows)


def mir(s: Setting) -> Iterator[Comparison]:
    loss = F.cross_entropy(s.model(s.x), s.y)
    grads = torch.autograd.grad(loss, list(s.model.parameters()))

    def copied() -> dict[str, Tensor]:
        return dict(update_temp(s.model, grads, LR).named_parameters())

    def virtual() -> dict[str, Tensor]:
        return replacements.VirtualStep(s.model, grads, LR)._parameters

    def values(step: Callable[[], dict[str, Tensor]]) -> Callable[[], list[Tensor]]:
        return lambda: [p.detach() for p in step().values()]

    steps = {"Avalanche": values(copied), "clfast": values(virtual)}
    yield Comparison("MIR, the virtual step", steps, 5, 0.0)

    model = copy.deepcopy(s.model).eval()

    @torch.no_grad()
    def their_scores() -> Tensor:
        after = update_temp(model, grads, LR)
        before = F.cross_entropy(model(s.candidates), s.labels, reduction="none")
        return F.cross_entropy(after(s.candidates), s.labels, reduction="none") - before

    def our_scores() -> Tensor:
        return mir_scores(model, s.candidates, s.labels, grads, LR)

    scores = {"Avalanche": their_scores, "clfast": our_scores}
    yield Comparison(f"MIR, scores of {len(s.labels)}", scores, None)


def measured(comparison: Comparison, settings: Settings) -> dict[str, Any]:
    (first, reference), *others = comparison.calls.items()
    expected = _flat(reference())
    for name, call in others:
        if comparison.tolerance is not None:
            away = (_flat(call()) - expected).norm() / expected.norm()
            assert float(away) <= comparison.tolerance, f"{comparison.name}: {name} is {away} away"
    calls = {name: [call] for name, call in comparison.calls.items()}
    samples = alternate(calls, WallTimer(), settings)
    seconds = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "name": comparison.name,
        "seconds": seconds,
        "times": seconds[first] / seconds["clfast"],
        "bar": comparison.bar,
    }


def _flat(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().flatten().double()
    parts = [_flat(part) for part in value or () if isinstance(part, Tensor)]
    return torch.cat(parts) if parts else torch.zeros(1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="one short round of small sizes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", module="avalanche")
    settings = Settings(rounds=1, sample=1e-4, pause=0) if options.small else Settings()
    s = setting(options.small)
    rows = []
    for family in (ewc, digits, replay, herded, mir):
        for comparison in family(s):
            row = measured(comparison, settings)
            rows.append(row)
            times = ", ".join(f"{name} {1e3 * t:.3f} ms" for name, t in row["seconds"].items())
            bar = "" if row["bar"] is None else f" (bar: {row['bar']:.2g})"
            print(f"{row['name']}: {times}; {row['times']:.2f} times as fast{bar}", flush=True)
    if options.out is not None:
        header = {"torch": torch.__version__, "threads": options.threads, "small": options.small}
        options.out.write_text(json.dumps({**header, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
