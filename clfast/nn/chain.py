"""Networks of linear layers and rectifiers one behind another, several of them at once, run without
autograd.

Where only the input is differentiated, all that a backward pass needs are the weights and which
hidden units are on. Beside products of a small batch, autograd's records and calls of modules take
time that counts; and a product with the weights of two networks takes less than two products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Layer(NamedTuple):
    linear: nn.Linear
    rectified: bool

    def kind(self) -> tuple[object, ...]:
        """What layers have in common that can be run together."""
        weight, bias = self.linear.weight, self.linear.bias
        return weight.shape, weight.dtype, weight.device, bias is None, self.rectified


class _Chain(NamedTuple):
    flattens: bool
    layers: list[_Layer]


class _Layers(NamedTuple):
    """A layer of each of n networks."""

    weight: Tensor  # [n, out, in]
    bias: Tensor | None  # [n, 1, out]
    rectified: bool


class LinearChains:
    """Networks that :func:`linear_chains` has followed, with copies of their parameters."""

    def __init__(self, flattens: bool, layers: Sequence[_Layers]) -> None:
        self._flattens = flattens
        self._first, *self._others = layers

    def vjp(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What the n networks give, and a call that takes gradients by that to the gradient by x.

        Args:
            x: [B, d], or [B, ...] where the networks flatten it; requires no gradient.

        Returns:
            [n, B, C], and a call from [n, B, C] to what has the shape of x. Neither has a graph.
        """
        rows = x.flatten(1) if self._flattens else x
        weight, bias = self._first.weight, self._first.bias
        size = (len(rows), *weight.shape[:2])
        # All see the same rows: one product of matrices.
        weight = weight.flatten(0, 1)
        wide = F.linear(rows, weight, None if bias is None else bias.flatten())  # [B, n h]
        if self._first.rectified:
            wide = wide.relu_()
        outputs = wide.view(size).transpose(0, 1)
        given = []
        for layer in self._others:
            if layer.bias is None:
                outputs = torch.bmm(outputs, layer.weight.mT)
            else:
                outputs = torch.baddbmm(layer.bias, outputs, layer.weight.mT)
            if layer.rectified:
                outputs = outputs.relu_()
            given.append(outputs)

        def gradient(slopes: Tensor) -> Tensor:
            for layer, values in zip(reversed(self._others), reversed(given), strict=True):
                if layer.rectified:
                    slopes = torch.ops.aten.threshold_backward(slopes, values, 0)
                slopes = torch.bmm(slopes, layer.weight)
            slope = slopes.transpose(0, 1).reshape(wide.shape)
            if self._first.rectified:
                slope = torch.ops.aten.threshold_backward(slope, wide, 0)
            return torch.mm(slope, weight).view(x.shape)

        return outputs, gradient


def linear_chains(*networks: nn.Module) -> LinearChains | None:
    """The networks, if all are chains, see :func:`is_linear_chain`, of layers of the same sizes."""
    chains = [chain for chain in map(_followed, networks) if chain is not None]
    kinds = [(chain.flattens, [layer.kind() for layer in chain.layers]) for chain in chains]
    if len(chains) < len(networks) or any(kind != kinds[0] for kind in kinds):
        return None
    layers = zip(*(chain.layers for chain in chains), strict=True)
    return LinearChains(chains[0].flattens, [_together(alike) for alike in layers])


@torch.no_grad()
def _together(alike: Sequence[_Layer]) -> _Layers:
    biases: list[Tensor] = [layer.linear.bias for layer in alike]
    return _Layers(
        torch.stack([layer.linear.weight for layer in alike]),
        None if biases[0] is None else torch.stack(biases)[:, None],
        alike[0].rectified,
    )


def is_linear_chain(network: nn.Module) -> bool:
    """Whether the network is a chain: `nn.Linear`, with or without an `nn.ReLU` behind it, in
    `nn.Sequential`, and at most an `nn.Flatten` of all but the batch before them. What it gives for
    a row of a batch depends on this row alone.

    It is not with another forward or hooks in it, for which a call of a module is more than its
    layer, nor with weights of another kind than plain float32 or float64.
    """
    return _followed(network) is not None


def _followed(network: nn.Module) -> _Chain | None:
    layers: list[_Layer] = []
    flattens = False
    for module in _in_a_row(network):
        if _is_watched(module):
            return None
        if type(module) is nn.Linear and _is_plain(module.weight):
            layers.append(_Layer(module, rectified=False))
        elif type(module) is nn.ReLU and layers:
            layers[-1] = layers[-1]._replace(rectified=True)
        elif type(module) is nn.Flatten and not layers and _of_rows(module):
            flattens = True
        elif type(module) is not nn.Sequential:
            return None
    return _Chain(flattens, layers) if layers else None


def _in_a_row(network: nn.Module) -> Iterator[nn.Module]:
    yield network
    if type(network) is nn.Sequential:
        for part in network:
            yield from _in_a_row(part)


def _is_watched(module: nn.Module) -> bool:
    own = vars(module)
    return _has_any_global_hook() or "forward" in own or any(own[name] for name in _HOOKS)


def _is_plain(weight: Tensor) -> bool:
    """Not quantised, distributed or sparse, nor in 16 bits."""
    wide = weight.dtype in (torch.float32, torch.float64)
    return wide and type(weight) is nn.Parameter and weight.layout is torch.strided


def _of_rows(flatten: nn.Flatten) -> bool:
    return flatten.start_dim == 1 and flatten.end_dim == -1
