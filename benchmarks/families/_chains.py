"""Cases of `clfast.nn.chain`: two networks of linear layers and rectifiers on the same samples, and
the gradient by these; as ARM has it in every step on its images."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from clfast.nn.chain import LinearChains, linear_chains

from ..case import Case, Variant, Work, forms, in_float64, relative_error

FLOAT = 4  # bytes


class Batch(NamedTuple):
    x: Tensor  # [B, d]
    weights: tuple[Tensor, ...]  # [2, out, in] of each layer
    biases: tuple[Tensor, ...]  # [2, 1, out]
    slopes: Tensor  # [2, B, C], of a loss by what the networks give


def _networks(batch: Batch) -> list[nn.Sequential]:
    made = []
    for network in range(2):
        parts: list[nn.Module] = []
        for weight, bias in zip(batch.weights, batch.biases, strict=True):
            linear = nn.Linear(weight.shape[2], weight.shape[1]).to(weight)
            with torch.no_grad():
                linear.weight.copy_(weight[network])
                linear.bias.copy_(bias[network, 0])
            parts += [linear, nn.ReLU()]
        made.append(nn.Sequential(*parts[:-1]))
    return made


def _by_clfast(chains: LinearChains, x: Tensor, slopes: Tensor) -> tuple[Tensor, ...]:
    outputs, gradient = chains.vjp(x)
    return (*outputs, gradient(slopes.unbind()))


def _by_autograd(networks: list[nn.Sequential], x: Tensor, slopes: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        outputs = [network(x) for network in networks]
        (found,) = torch.autograd.grad(outputs, x, slopes.unbind())
    return (*(output.detach() for output in outputs), found)


def _by_hand(
    x: Tensor, weights: tuple[Tensor, ...], biases: tuple[Tensor, ...], slopes: Tensor
) -> tuple[Tensor, ...]:
    """Of the first layer one product for both networks."""
    weight, bias = weights[0].flatten(0, 1), biases[0].flatten()
    wide = F.linear(x, weight, bias).relu()
    outputs = wide.view(len(x), 2, -1).transpose(0, 1)
    hidden = []
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        hidden.append(outputs)
        outputs = torch.baddbmm(bias, outputs.relu(), weight.mT)
    slope = slopes
    for weight, units in zip(reversed(weights[1:]), reversed(hidden), strict=True):
        slope = torch.bmm(slope, weight) * (units > 0)
    by_x = torch.mm(slope.transpose(0, 1).reshape(wide.shape), weights[0].flatten(0, 1))
    return (*outputs.unbind(), by_x)


def chains(network: str, B: int) -> Case:
    sizes = [int(size) for size in network.split("-")]

    def make(generator: Generator) -> Batch:
        shapes = list(pairwise(sizes))
        return Batch(
            torch.rand(B, sizes[0], generator=generator),
            tuple(torch.randn(2, o, i, generator=generator) / i**0.5 for i, o in shapes),
            tuple(torch.randn(2, 1, o, generator=generator) for _, o in shapes),
            torch.randn(2, B, sizes[-1], generator=generator),
        )

    def by_hand(x: Batch) -> tuple[Any, ...]:
        return x.x, x.weights, x.biases, x.slopes

    numbers = 2 * sum(i * o + o for i, o in pairwise(sizes))
    given, found = B * (sizes[0] + 2 * sizes[-1]), B * (sizes[0] + 2 * sizes[-1])
    return Case(
        op="LinearChains.vjp",
        size={"network": network, "n": 2, "B": B},
        inputs=make,
        oracle=lambda x: _by_hand(*by_hand(in_float64(x))),
        error=lambda output, expected, _: relative_error(output, expected),
        tolerance=1e-5,
        work=lambda _: Work(FLOAT * (numbers + given), FLOAT * found, 4 * B * numbers),
        variants=(
            Variant(
                *("clfast", "clfast", _by_clfast),
                lambda x: (linear_chains(*_networks(x)), x.x, x.slopes),
            ),
            Variant(
                *("modules, autograd", "loop", _by_autograd),
                lambda x: (_networks(x), x.x, x.slopes),
            ),
            *forms("by hand, one product", _by_hand, by_hand),
        ),
    )


CASES = [chains("784-400-400-10", B) for B in (1, 10, 32, 64)]
