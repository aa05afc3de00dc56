"""Networks of linear layers and rectifiers one behind another, several of them at once, run without
autograd.

Where only the input is differentiated, all that a backward pass needs are the weights and which
hidden units are on. Beside products of a small batch, autograd's records and calls of modules take
time that counts. Of few samples on the CPU, the op's own products are faster than torch's, and take
the weights where they lie; of many, or elsewhere, a product with the weights of two networks takes
less than two products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from .._backend import uses_reference

Vjp: TypeAlias = "tuple[Sequence[Tensor], Callable[[Sequence[Tensor]], Tensor]]"

_FEW_SAMPLES = 32
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

    def kind(self) -> tuple[object, ...]:
        return self.flattens, *(layer.kind() for layer in self.layers)


class _Layers(NamedTuple):
    """A layer of each of n networks."""

    weight: Tensor  # [n, out, in]
    bias: Tensor | None  # [n, 1, out]
    rectified: bool


class LinearChains:
    """Networks that :func:`linear_chains` has followed. Their parameters must stay as they are
    while it is in use."""

    def __init__(self, chains: Sequence[_Chain]) -> None:
        self._count = len(chains)
        first = chains[0]
        self._flattens = first.flattens
        self._rectified = [layer.rectified for layer in first.layers]
        self._linear = [layer.linear for chain in chains for layer in chain.layers]

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """What the n networks give for x as of :meth:`vjp`: n of [B, C], without a graph."""
        return self.vjp(x)[0]

    def vjp(self, x: Tensor) -> Vjp:
        """What the n networks give, and a call that takes gradients by that to the gradient by x.

        Args:
            x: [B, d], or [B, ...] where the networks flatten it; requires no gradient.

        Returns:
            n of [B, C], and a call from n of [B, C] to what has the shape of x; none has a graph.
        """
        rows = x.flatten(1) if self._flattens else x
        few = x.is_cpu and len(rows) <= _FEW_SAMPLES and self._are_perceptrons()
        outputs, gradient = self._of_few(rows) if few else self._of_many(rows)
        return outputs, gradient if rows is x else lambda slopes: gradient(slopes).view(x.shape)

    def _are_perceptrons(self) -> bool:
        """What the op takes: a rectifier between all layers, and none behind the last."""
        *hidden, last = self._rectified
        return all(hidden) and not last and not uses_reference()

    def _of_few(self, rows: Tensor) -> Vjp:
        ops, weights = torch.ops.clfast, self._weights
        outputs, hidden = ops.perceptron_logits(rows, weights, self._biases, self._count)
        return outputs, lambda slopes: ops.perceptron_gradient(slopes, weights, hidden)

    def _of_many(self, rows: Tensor) -> Vjp:
        first, *others = self._stacked
        size = (len(rows), *first.weight.shape[:2])
        # All see the same rows: one product of matrices.
        weight = first.weight.flatten(0, 1)
        bias = None if first.bias is None else first.bias.flatten()
        wide = F.linear(rows, weight, bias)  # [B, n h]
        if first.rectified:
            wide = wide.relu_()
        outputs = wide.view(size).transpose(0, 1)
        given = []
        for layer in others:
            if layer.bias is None:
                outputs = torch.bmm(outputs, layer.weight.mT)
            else:
                outputs = torch.baddbmm(layer.bias, outputs, layer.weight.mT)
            if layer.rectified:
                outputs = outputs.relu_()
            given.append(outputs)

        def gradient(by_outputs: Sequence[Tensor]) -> Tensor:
            slopes = torch.stack(tuple(by_outputs))
            for layer, values in zip(reversed(others), reversed(given), strict=True):
                if layer.rectified:
                    slopes = torch.ops.aten.threshold_backward(slopes, values, 0)
                slopes = torch.bmm(slopes, layer.weight)
            slope = slopes.transpose(0, 1).reshape(wide.shape)
            if first.rectified:
                slope = torch.ops.aten.threshold_backward(slope, wide, 0)
            return torch.mm(slope, weight)

        return outputs.unbind(), gradient

    @cached_property
    def _weights(self) -> list[Tensor]:
        return [layer.weight.detach() for layer in self._linear]

    @cached_property
    def _biases(self) -> list[Tensor | None]:
        return [None if layer.bias is None else layer.bias.detach() for layer in self._linear]

    @cached_property
    def _stacked(self) -> list[_Layers]:
        """Copies of the layers, those of all networks together."""
        count = len(self._rectified)
        layers = []
        for at, rectified in enumerate(self._rectified):
            biases = [bias for bias in self._biases[at::count] if bias is not None]
            bias = torch.stack(biases)[:, None] if biases else None
            layers.append(_Layers(torch.stack(self._weights[at::count]), bias, rectified))
        return layers


def linear_chains(*networks: nn.Module) -> LinearChains | None:
    """The networks, if all are chains of layers of the same sizes.

    A chain is made of `nn.Linear`, with or without an `nn.ReLU` behind it, in `nn.Sequential`, and
    at most an `nn.Flatten` of all but the batch before them. What it gives for a row of a batch
    depends on this row alone. It is none with another forward or hooks in it, for which a call of a
    module is more than its layer, nor with weights of another kind than plain float32 or float64.
    """
    if _has_any_global_hook():
        return None
    chains = [chain for chain in map(_followed, networks) if chain is not None]
    if len(chains) < len(networks):
        return None
    if len(chains) > 1:
        first, *others = [chain.kind() for chain in chains]
        if any(other != first for other in others):
            return None
    return LinearChains(chains)


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
    return "forward" in own or any(own[name] for name in _HOOKS)


def _is_plain(weight: Tensor) -> bool:
    """Not quantised, distributed or sparse, nor in 16 bits."""
    wide = weight.dtype in (torch.float32, torch.float64)
    return wide and type(weight) is nn.Parameter and weight.layout is torch.strided


def _of_rows(flatten: nn.Flatten) -> bool:
    return flatten.start_dim == 1 and flatten.end_dim == -1
