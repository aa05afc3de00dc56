"""What importances of parameters are measured against: mean over samples of a measure of the
gradient of each sample alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

Objective: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"  # (outputs [N, C], labels [N]) -> sum
Measure: TypeAlias = "Callable[[Tensor], Tensor]"
Layers: TypeAlias = "tuple[Tensor, ...]"  # weight, bias, weight, bias, ...


def log_likelihood(outputs: Tensor, y: Tensor) -> Tensor:
    return -F.cross_entropy(outputs, y, reduction="sum")


def squared_norm(outputs: Tensor, y: Tensor) -> Tensor:
    del y
    return outputs.square().sum()


@torch.enable_grad()
def by_loop(
    model: nn.Module, objective: Objective, measure: Measure, x: Tensor, y: Tensor
) -> Layers:
    """Batches of one, as people write it where they do not square a batch's mean gradient."""
    parameters = list(model.parameters())
    totals = [torch.zeros_like(p) for p in parameters]
    for i in range(len(x)):
        value = objective(model(x[i : i + 1]), y[i : i + 1])
        for total, gradient in zip(totals, torch.autograd.grad(value, parameters), strict=True):
            total += measure(gradient)
    return tuple(total / len(x) for total in totals)


def by_vmap(
    model: nn.Module, objective: Objective, measure: Measure, x: Tensor, y: Tensor, chunk: int
) -> Layers:
    """`torch.func`, on `chunk` samples at a time, since it holds every sample's gradient."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def of_one(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return objective(functional_call(model, parameters, (x[None],)), y[None])

    each = vmap(grad(of_one), in_dims=(None, 0, 0))
    totals = [torch.zeros_like(p) for p in parameters.values()]
    for samples, labels in zip(x.split(chunk), y.split(chunk), strict=True):
        found = each(parameters, samples, labels).values()
        for total, gradient in zip(totals, found, strict=True):
            total += measure(gradient).sum(0)
    return tuple(total / len(x) for total in totals)


def fisher_by_products(layers: Layers, x: Tensor, y: Tensor) -> Layers:
    """By hand, for linear layers with ReLU between them and nothing else: one backward pass, and
    (slopes^2)^T inputs^2 of every layer."""
    weights, biases = layers[::2], layers[1::2]
    inputs = [x]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        inputs.append(torch.addmm(bias, inputs[-1], weight.T).relu())
    slopes = torch.addmm(biases[-1], inputs[-1], weights[-1].T).softmax(1)
    slopes = slopes - F.one_hot(y, slopes.shape[1])
    found: list[Tensor] = []
    for weight, before in zip(reversed(weights), reversed(inputs), strict=True):
        squares = slopes.square()
        found = [squares.T @ before.square() / len(x), squares.mean(0), *found]
        slopes = slopes @ weight * (before > 0)
    return tuple(found)
