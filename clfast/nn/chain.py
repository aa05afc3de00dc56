"""Networks of linear layers and rectifiers one behind another, run without autograd.

Where only the input is differentiated, all that a backward pass needs are the weights and which
hidden units are on. For a small batch autograd's records, and calls of modules, take a good part of
the time of the products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Layer(NamedTuple):
    weight: Tensor  # [out, in]
    bias: Tensor | None  # [out]
    rectified: bool


class LinearChain:
    """A network that :func:`linear_chain` has followed, with the parameters that it had then.

    What it gives for a row depends on this row alone.
    """

    def __init__(self, layers: list[_Layer], flattens: bool) -> None:
        self._layers = layers
        self._flattens = flattens

    @torch.no_grad()
    def vjp(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Outputs, and a call that takes the gradient by them to the gradient by x.

        Args:
            x: [B, d], or [B, ...] where the network flattens it.

        Returns:
            [B, C], and a call from [B, C] to what has the shape of x. Neither has a graph, and
            parameters may not be written between the two.
        """
        rows = x.flatten(1) if self._flattens else x
        given = []
        for weight, bias, rectified in self._layers:
            rows = F.linear(rows, weight, bias)
            if rectified:
                rows = rows.relu_()
            given.append(rows)

        @torch.no_grad()
        def gradient(slope: Tensor) -> Tensor:
            for layer, outputs in zip(reversed(self._layers), reversed(given), strict=True):
                if layer.rectified:
                    slope = torch.ops.aten.threshold_backward(slope, outputs, 0)
                slope = slope @ layer.weight
            return slope.view(x.shape)

        return rows, gradient


def linear_chain(network: nn.Module) -> LinearChain | None:
    """The network, if it is a chain: `nn.Linear`, with or without an `nn.ReLU` behind it, in
    `nn.Sequential`, and at most an `nn.Flatten` of all but the batch before them.

    None for any other; for one whose layers have another forward or hooks, for which a call of the
    module is more than its layer; and for parameters in 16 bits.
    """
    layers: list[_Layer] = []
    flattens = False
    for module in _in_a_row(network):
        if _is_watched(module):
            return None
        if type(module) is nn.Linear and module.weight.dtype in (torch.float32, torch.float64):
            layers.append(_Layer(module.weight, module.bias, rectified=False))
        elif type(module) is nn.ReLU and layers:
            layers[-1] = layers[-1]._replace(rectified=True)
        elif type(module) is nn.Flatten and not layers and _of_rows(module):
            flattens = True
        elif type(module) is not nn.Sequential:
            return None
    return LinearChain(layers, flattens) if layers else None


def _in_a_row(network: nn.Module) -> Iterator[nn.Module]:
    yield network
    if type(network) is nn.Sequential:
        for part in network:
            yield from _in_a_row(part)


def _is_watched(module: nn.Module) -> bool:
    own = vars(module)
    return _has_any_global_hook() or "forward" in own or any(own[name] for name in _HOOKS)


def _of_rows(flatten: nn.Flatten) -> bool:
    return flatten.start_dim == 1 and flatten.end_dim == -1
