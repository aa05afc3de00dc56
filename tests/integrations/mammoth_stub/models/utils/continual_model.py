"""`ContinualModel`: the optimiser is made anew before `begin_task`, keywords that `observe` does
not name are dropped, and samples without a label never reach it."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class ContinualModel(nn.Module):
    NAME: str
    COMPATIBILITY: list[str]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        return parser

    def __init__(
        self,
        backbone: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        args: Namespace,
        transform: Callable[[Tensor], Tensor] | None,
        dataset: Any = None,
    ) -> None:
        super().__init__()
        if not self.NAME or not self.COMPATIBILITY:
            raise NotImplementedError("name and compatibility")
        self.net, self.loss, self.args, self.transform = backbone, loss, args, transform
        self.dataset = dataset
        self.device = torch.device("cpu")
        self.opt = self.get_optimizer()
        self._current_task = 0

    @property
    def current_task(self) -> int:
        return self._current_task

    def get_parameters(self) -> Iterator[nn.Parameter]:
        return self.net.parameters()

    def get_optimizer(self, params: Any = None, lr: float | None = None) -> torch.optim.Optimizer:
        return torch.optim.SGD(params or list(self.get_parameters()), lr=lr or self.args.lr)

    def begin_task(self, dataset: Any) -> None:
        pass

    def end_task(self, dataset: Any) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out

    def observe(
        self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None
    ) -> float | dict[str, Any]:
        raise NotImplementedError

    def meta_begin_task(self, dataset: Any) -> None:
        self.opt.zero_grad(set_to_none=True)
        self.opt = self.get_optimizer()
        self.begin_task(dataset)

    def meta_observe(self, *args: Tensor, **kwargs: Any) -> float:
        labelled = args[1] != -1
        if not labelled.any():
            return 0.0
        args = tuple(a[labelled] for a in args)
        known = inspect.signature(self.observe).parameters
        found = self.observe(*args, **{k: v for k, v in kwargs.items() if k in known})
        if isinstance(found, dict):
            return float(found["loss"])
        return found

    def meta_end_task(self, dataset: Any) -> None:
        self.end_task(dataset)
        self._current_task += 1
