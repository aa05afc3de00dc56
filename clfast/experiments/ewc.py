"""Elastic weight consolidation in its plain form (Kirkpatrick et al. 2017), to compare with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap


class PlainEWC:
    """The penalty strength / 2 sum_t sum_j F_tj (theta_j - theta*_tj)^2 over the tasks t so far.

    F_t is the diagonal of the empirical Fisher information at theta*_t, the parameters after task
    t: the mean over samples of the squared gradient of log P(y | x). The sums over t are kept, so
    that a step costs the same after any number of tasks.

    Args:
        network: [B, d] -> logits [B, C].
        strength: the paper's lambda, >= 0.
    """

    def __init__(self, network: nn.Module, strength: float) -> None:
        self._network, self._strength = network, strength
        self._fisher = {n: torch.zeros_like(p) for n, p in network.named_parameters()}
        self._fisher_times_optimum = {n: torch.zeros_like(p) for n, p in network.named_parameters()}

    @torch.no_grad()
    def add_gradient(self) -> None:
        """The penalty's gradient onto the parameters' `.grad`, which must be there."""
        for name, parameter in self._network.named_parameters():
            assert parameter.grad is not None
            pull = self._fisher[name] * parameter - self._fisher_times_optimum[name]
            parameter.grad.add_(pull, alpha=self._strength)

    def end_task(self, x: Tensor, y: Tensor) -> None:
        """Takes samples x [N, d], y [N] int64 of the task just learnt into the penalty."""
        fisher = self._fisher_of(x, y)
        for name, parameter in self._network.named_parameters():
            self._fisher[name] += fisher[name]
            self._fisher_times_optimum[name] += fisher[name] * parameter.detach()

    def _fisher_of(self, x: Tensor, y: Tensor, chunk: int = 50) -> dict[str, Tensor]:
        parameters = {n: p.detach() for n, p in self._network.named_parameters()}

        def loss(own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            logits = functional_call(self._network, own, (x[None],))
            return F.cross_entropy(logits, y[None])

        each = vmap(grad(loss), in_dims=(None, 0, 0))
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for samples, labels in zip(x.split(chunk), y.split(chunk), strict=True):
            for name, gradients in each(parameters, samples, labels).items():
                total[name] += gradients.square().sum(0)
        return {name: square / len(x) for name, square in total.items()}
