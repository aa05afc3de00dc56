"""Online adaptation to new classes: the Hebb paper's section 4.3 in small, on images.

A network is pre-trained on half of the classes. Then comes a stream with all of them, in chunks:
every method predicts a chunk, and only then the base model takes one RMSprop step on it and the
memory stores it. The paper does this on CIFAR-100, with 100 chunks of 100 samples.

The methods here share one base model and one memory. As all of them learn from the same chunks in
the same way, this gives what a copy for each of them would give.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..memory import KeyValueMemory
from ..methods import Hebb, MbPA, Mixture, Parametric
from ..streams import OnlineStream
from .images import NUM_CLASSES, Samples, of_classes
from .naive import naive_scores

WINDOWS = 10
"""Parts of the stream over which a learning curve is averaged."""


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Hyper-parameters of base model, Mixture, MbPA and Hebb, as the paper's Table 6 lists them."""

    k: int = 200
    """Neighbours K. The paper's 200 are of a memory of tens of thousands."""
    base_lr: float
    """Of the RMSprop that updates the base model."""
    theta: float
    """Mixture: flatness of the neighbours' distribution."""
    gamma: float
    """Mixture: weight of the neighbours' part."""
    lr: float
    """MbPA and Hebb: learning rate of MbPA's steps. Hebb takes what is best for MbPA, as in the
    paper."""
    steps: int
    """MbPA and Hebb: number of MbPA's steps."""
    beta: float
    """Hebb: decay of the Hebbian part with the count of a class."""
    eta: float
    """Hebb: learning rate of the Hebbian part."""


@dataclass(frozen=True, kw_only=True)
class OnlineAdaptation(MethodOptions):
    """All that decides a run, but the folder of the data.

    The hyper-parameters were chosen by `clfast.experiments.online_tuning`, on a stream of other
    images and with other seeds than those that are reported.
    """

    data: str
    """"digits" or "mnist", see `clfast.experiments.images`."""
    chunk: int
    """Samples that are predicted before base model and memory learn from them."""
    pretrain_per_class: int
    """At most; digits hold about 45 a class for it."""
    pretrain_epochs: int
    seeds: int = 5
    """Runs 0, 1, ...: each draws classes, pre-training samples, weights and the stream's order."""
    old_classes: int = 5
    """Classes of the pre-training, out of 10."""
    dim: int = 128
    """d, the size of a feature."""
    timed_chunks: int = 8
    """Chunks of a run, evenly spread, on which clfast and the naive loops are timed in turn."""
    timed_queries: int = 10
    """Queries of such a chunk that the naive loops get; they take them one by one."""
    threads: int = 1
    """For everything, clfast and the loops alike: these networks are too small to gain by more."""


DIGITS = OnlineAdaptation(
    data="digits",
    # About as many chunks as the paper has, of a stream of 809 samples.
    chunk=10,
    pretrain_per_class=45,
    pretrain_epochs=30,
    # The memory starts with 225 keys: 200 of them would be no neighbours.
    k=50,
    base_lr=2e-3,
    theta=0.01,
    gamma=0.3,
    lr=1e-3,
    steps=10,
    beta=0.99,
    eta=1.5,
)

MNIST = OnlineAdaptation(
    data="mnist",
    # With 10 classes a chunk holds some 10 samples of each, not one as in the paper: E is 0.15
    # already when the memory first knows a new class, and Hebb does nearly what MbPA does.
    chunk=100,
    pretrain_per_class=500,
    pretrain_epochs=10,
    k=200,
    base_lr=2e-3,
    theta=0.3,
    gamma=0.1,
    lr=1e-3,
    steps=5,
    beta=0.9,
    eta=0.2,
)

PRESETS = {config.data: config for config in (DIGITS, MNIST)}

Learners = dict[str, Parametric]
MakeLearners = Callable[[OnlineAdaptation, Parametric, Sequence[int]], Learners]
"""From the base learner and the old classes to learners that share its modules and its memory."""


def paper_learners(config: MethodOptions, base: Parametric, old: Sequence[int]) -> Learners:
    """The four methods of the paper's Table 2; `base` itself is Parametric."""
    assert base.memory is not None
    model = (base.features, base.head, base.memory)
    return {
        "Parametric": base,
        "Mixture": Mixture(*model, k=config.k, theta=config.theta, gamma=config.gamma),
        "MbPA": MbPA(*model, k=config.k, lr=config.lr, steps=config.steps),
        "Hebb": Hebb(
            *model,
            k=config.k,
            lr=config.lr,
            steps=config.steps,
            beta=config.beta,
            eta=config.eta,
            base_classes=old,
        ),
    }


class Trial:
    """One pass over a stream with one seed: pre-trains when made, then learns in `step`.

    Args:
        config: the hyper-parameters are those of the base model and of `paper_learners`.
        pool, stream: samples to pre-train on, and to adapt to.
        seed: decides all that is drawn; the global random state is not touched.
        make: gives the learners that are evaluated.
    """

    def __init__(
        self,
        config: OnlineAdaptation,
        pool: Samples,
        stream: Samples,
        seed: int,
        make: MakeLearners = paper_learners,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        classes = torch.randperm(NUM_CLASSES, generator=generator)
        self.old = classes[: config.old_classes].sort().values
        samples = of_classes(pool, self.old.tolist(), config.pretrain_per_class, generator)
        features, head = pretrained(config, samples, seed)
        self.base = Parametric(
            *(features, head, KeyValueMemory(config.dim)),
            base_optimizer=torch.optim.RMSprop(
                [*features.parameters(), *head.parameters()], lr=config.base_lr
            ),
        )
        # Algorithm 1, lines 3-5: the memory starts with the pre-training samples.
        self.base.fit_memory([samples])
        self.learners = make(config, self.base, self.old.tolist())
        self.stream = OnlineStream(stream, config.chunk, generator=generator)
        self._config = config
        self._labels: list[Tensor] = []
        self._right: dict[str, list[Tensor]] = {name: [] for name in self.learners}
        self._seconds: dict[str, list[float]] = {name: [] for name in self.learners}
        self._naive_seconds: dict[str, list[float]] = {name: [] for name in self.learners}

    def step(self, x: Tensor, y: Tensor) -> None:
        """Predict a chunk with every learner, then learn from it."""
        timed = self._is_timed(len(self._labels))
        self._labels.append(y)
        for name, learner in self.learners.items():
            start = time.perf_counter()
            predicted = learner.predict(x)
            seconds = time.perf_counter() - start
            self._right[name].append(predicted == y)
            if timed:
                self._seconds[name].append(seconds / len(x))
        if timed:
            self._time_naive_loops(x[: self._config.timed_queries])
        self.base.observe(x, y)

    def results(self) -> list[dict[str, Any]]:
        """One record a learner, of what `step` has seen.

        "method"; accuracies "new", "old", "all" and "curve" (on new classes, `WINDOWS`
        parts of the stream), in [0, 1]; "ms" and "naive_ms", medians a query of `predict` on
        chunks and of the naive loop (None where there is none, or nothing was timed).
        """
        new = ~torch.isin(torch.cat(self._labels), self.old)
        records = []
        for name in self.learners:
            right = torch.cat(self._right[name])
            windows = zip(right.tensor_split(WINDOWS), new.tensor_split(WINDOWS), strict=True)
            records.append(
                {
                    "method": name,
                    "new": _mean(right[new]),
                    "old": _mean(right[~new]),
                    "all": _mean(right),
                    "curve": [_mean(part[is_new]) for part, is_new in windows],
                    "ms": _median_ms(self._seconds[name]),
                    "naive_ms": _median_ms(self._naive_seconds[name]),
                }
            )
        return records

    def _time_naive_loops(self, x: Tensor) -> None:
        for name, learner in self.learners.items():
            start = time.perf_counter()
            if naive_scores(learner, x) is not None:
                self._naive_seconds[name].append((time.perf_counter() - start) / len(x))

    def _is_timed(self, step: int) -> bool:
        wanted, steps = self._config.timed_chunks, len(self.stream)
        return (step + 1) * wanted // steps > step * wanted // steps


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch, and with it for clfast, inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pretrained(
    config: OnlineAdaptation, samples: Samples, seed: int
) -> tuple[nn.Sequential, nn.Linear]:
    """A small convolutional network and its output layer for 10 classes, trained on `samples`."""
    x, y = samples
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features, head = _network(x.shape[-1], config.dim), nn.Linear(config.dim, NUM_CLASSES)
        optimizer = torch.optim.SGD(
            [*features.parameters(), *head.parameters()], lr=0.05, momentum=0.9, weight_decay=5e-4
        )
        for _ in range(config.pretrain_epochs):
            for batch in torch.randperm(len(y)).split(32):
                optimizer.zero_grad()
                F.cross_entropy(head(features(x[batch])), y[batch]).backward()
                optimizer.step()
    return features, head


def _network(size: int, dim: int) -> nn.Sequential:
    """Images [B, 1, size, size] -> [B, dim]."""
    halved = size >= 16
    side = size // 4 if halved else size // 2
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()),
        *([nn.MaxPool2d(2)] if halved else []),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * side * side, dim), nn.ReLU()),
    )


def _mean(right: Tensor) -> float:
    """The share of True; 0 of nothing."""
    return int(right.sum()) / max(len(right), 1)


def _median_ms(seconds: list[float]) -> float | None:
    return 1e3 * median(seconds) if seconds else None
