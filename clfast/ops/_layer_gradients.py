"""Layers whose gradients by single samples follow from what goes in and what comes back.

With x_n what a layer is given for sample n and d_n the gradient of the sample's objective by what
it gives, the gradient by the weight of a linear layer is d_n x_n^T, and a measure f, square or
absolute value, of the products of two numbers is the product of their measures:
sum_n f(d_n x_n^T) = f(d)^T f(x) is one product of matrices, and no gradient of one sample is ever
formed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import get_ident
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call

from . import _check

Measure: TypeAlias = "Callable[..., Tensor]"
"""torch.square or torch.abs: f(ab) = f(a) f(b); it takes ``out``."""


# Elements of what is formed for some samples at once: what stays in the caches of a CPU, and what
# keeps a GPU busy.
_ROOM = {"cpu": 2**20, "cuda": 2**25}


def _chunk_of(elements: int, device: torch.device) -> int:
    """How many samples are treated at once, each of which needs so many elements."""
    return max(1, _ROOM.get(device.type, _ROOM["cpu"]) // max(1, elements))


def _summed(measure: Measure, left: Tensor, right: Tensor) -> Tensor:
    """sum_n f(left_n right_n), of [N, G, O, L] and [N, G, L, K]: [G, O, K]."""
    if left.shape[3] == 1:
        return torch.einsum("ngo,ngk->gok", measure(left[..., 0]), measure(right[:, :, 0]))
    total = left.new_zeros(left.shape[1], left.shape[2], right.shape[3])
    size = _chunk_of(total.numel(), left.device)
    for a, b in zip(left.split(size), right.split(size), strict=True):
        products = a @ b
        total += measure(products, out=products).sum(0)
    return total


def _linear(layer: nn.Module, x: Tensor, delta: Tensor, measure: Measure) -> dict[str, Tensor]:
    places = math.prod(x.shape[1:-1])  # that share the layer
    if places == 1:
        # N x O numbers are divided, not the O x I of the weight.
        measured = measure(delta.reshape(len(x), -1)).div_(len(x))
        found = measured.T @ measure(x.reshape(len(x), -1))
        return {"weight": found, "bias": measured.sum(0)}
    rows = x.reshape(len(x), 1, places, x.shape[-1])
    slopes = delta.reshape(len(x), 1, places, delta.shape[-1]).mT
    return {
        "weight": _summed(measure, slopes, rows)[0].div_(len(x)),
        "bias": measure(slopes.sum(3)).mean((0, 1)),
    }


def _conv2d(layer: nn.Module, x: Tensor, delta: Tensor, measure: Measure) -> dict[str, Tensor]:
    assert isinstance(layer, nn.Conv2d)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    padded = padded.permute(0, 2, 3, 1).contiguous()
    slopes = delta.flatten(2)
    groups, places = layer.groups, slopes.shape[2]
    within, (high, wide) = layer.in_channels // groups, layer.kernel_size
    found = delta.new_zeros(groups, layer.out_channels // groups, high * wide * within)
    size = _chunk_of(max(places * groups * found.shape[2], found.numel()), x.device)
    for images, slope in zip(padded.split(size), slopes.split(size), strict=True):
        patches = _patches(layer, images, delta.shape[2:])
        found += _summed(
            measure,
            slope.reshape(len(slope), groups, -1, places),
            patches.reshape(len(slope), groups, places, -1),
        )
    weight = found.div_(len(x)).view(layer.out_channels, high, wide, within).permute(0, 3, 1, 2)
    return {"weight": weight, "bias": measure(slopes.sum(2)).mean(0)}


def _patches(layer: nn.Conv2d, images: Tensor, places: torch.Size) -> Tensor:
    """What a kernel sees at each place, [N, groups, *places, *kernel, channels of a group], a view
    of padded images [N, height, width, channels]."""
    along_n, along_y, along_x, along_c = images.stride()
    (dy, dx), (sy, sx) = layer.dilation, layer.stride
    within = layer.in_channels // layer.groups
    return images.as_strided(
        (len(images), layer.groups, *places, *layer.kernel_size, within),
        (
            *(along_n, within * along_c, sy * along_y, sx * along_x),
            *(dy * along_y, dx * along_x, along_c),
        ),
        images.storage_offset(),
    )


def _batch_norm(layer: nn.Module, x: Tensor, delta: Tensor, measure: Measure) -> dict[str, Tensor]:
    """With running statistics, which are constants."""
    assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    shape = (*x.shape[:2], -1)
    unit = (x.reshape(shape) - mean[:, None].to(x)) * (variance[:, None].to(x) + layer.eps).rsqrt()
    slopes = delta.reshape(shape)
    return {
        "weight": measure((slopes * unit).sum(2)).mean(0),
        "bias": measure(slopes.sum(2)).mean(0),
    }


_RULES: dict[type, tuple[Callable[..., dict[str, Tensor]], tuple[int, ...]]] = {
    nn.Linear: (_linear, (2, 3, 4, 5)),
    nn.Conv2d: (_conv2d, (4,)),
    nn.BatchNorm1d: (_batch_norm, (2, 3)),
    nn.BatchNorm2d: (_batch_norm, (4,)),
    nn.BatchNorm3d: (_batch_norm, (5,)),
}  # with the numbers of dimensions that inputs may have


@dataclass(frozen=True)
class LayerCall:
    """A layer of a known kind, as it was called once on all samples.

    parameters: the names that its trainable parameters have in the network, by their own.
    """

    layer: nn.Module
    parameters: Mapping[str, str]
    x: Tensor
    shape: torch.Size  # of what the layer gave
    edge: GradientEdge  # of that, whatever was done to it in place

    def mean(self, delta: Tensor, measure: Measure) -> dict[str, Tensor]:
        """The mean of f(gradient of sample n), by the names that parameters have in the network."""
        dtype = _check.compute_dtype(delta)
        rule, _ = _RULES[type(self.layer)]
        slopes = delta.reshape(self.shape).to(dtype)
        found = rule(self.layer, self.x.to(dtype), slopes, measure)
        return {name: found[own] for own, name in self.parameters.items()}


def recorded(
    network: nn.Module, buffers: Mapping[str, Tensor], x: Tensor
) -> tuple[Any, dict[str, LayerCall]]:
    """What the network gives for samples x [N, ...], and the calls of layers that follow a rule.

    That is: of layers of a known kind, without a forward pass of their own, which were called once,
    on one row a sample, and whose parameters nothing else in the graph has used.
    """
    known = {name: module for name, module in network.named_modules() if _follows(module)}
    calls: dict[str, list[LayerCall | None]] = defaultdict(list)
    thread = get_ident()

    def record(name: str, named: Mapping[str, str]) -> Callable[..., None]:
        def hook(layer: nn.Module, args: Any, output: Any) -> None:
            if get_ident() != thread:  # which may run the same network
                return
            # Keywords are not among them; these layers take one argument.
            fits = len(args) == 1 and _fit(layer, args[0], output, len(x))
            calls[name].append(
                LayerCall(layer, named, args[0].detach(), output.shape, _edge(output))
                if fits
                else None
            )

        return hook

    names = {name for name, _ in network.named_parameters()}
    handles = []
    for name, module in known.items():
        dot = "." if name else ""
        trainable = (own for own, p in module._parameters.items() if _trains(p))
        named = {own: f"{name}{dot}{own}" for own in trainable}
        if names.issuperset(named.values()):  # else it shares them, under other names
            # Before other hooks, which may replace what the layer gave.
            hook = record(name, named)
            handles.append(module.register_forward_hook(hook, prepend=True))
    try:
        outputs = called(network, buffers, x)
    finally:
        for handle in handles:
            handle.remove()
    nodes, uses = graph_of(outputs)
    found = {}
    for name, (call, *more) in calls.items():
        used = max(uses[id(p)] for p in known[name]._parameters.values() if p is not None)
        # What the graph does not go through is of no use to it; something else may have used it.
        if call is not None and not more and used == 1 and call.edge.node in nodes:
            found[name] = call
    return outputs, found


def called(network: nn.Module, tensors: Mapping[str, Tensor], x: Tensor) -> Any:
    """What the network gives for x with these tensors in place of its own."""
    return functional_call(network, dict(tensors), (x,)) if tensors else network(x)


def _edge(output: Tensor) -> GradientEdge:
    """Where the gradient by what a layer gave comes by, in its order of elements.

    Linear layers give a view of several dimensions of a matrix. If that is changed in place, its
    own edge is no part of the graph any more; the matrix's still is.
    """
    whole = output._base if output._is_view() else None
    if whole is None or whole.grad_fn is None or whole.numel() != output.numel():
        return get_gradient_edge(output)
    contiguous = whole.is_contiguous() and output.is_contiguous()
    return get_gradient_edge(whole if contiguous else output)


def graph_of(outputs: object) -> tuple[set[Any], Counter[int]]:
    """The nodes of the outputs' graph, and how often each parameter, by its id, goes into it."""
    uses: Counter[int] = Counter()
    if not isinstance(outputs, Tensor) or outputs.grad_fn is None:
        return set(), uses
    nodes: set[Any] = {outputs.grad_fn}
    ahead: list[Any] = [outputs.grad_fn]
    while ahead:
        for node, _ in ahead.pop().next_functions:
            if node is None:
                continue
            if type(node).__name__ == "AccumulateGrad":
                uses[id(node.variable)] += 1
            elif node not in nodes:
                nodes.add(node)
                ahead.append(node)
    return nodes, uses


def _trains(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _follows(module: nn.Module) -> bool:
    if type(module) not in _RULES or "forward" in vars(module):
        return False
    if set(module._parameters) != {"weight", "bias"}:  # of weight_norm, say
        return False
    if not any(map(_trains, module._parameters.values())):
        return False
    norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return not norm or (module.running_mean is not None and module.weight is not None)


def _fit(layer: nn.Module, x: Any, output: Any, count: int) -> bool:
    _, dims = _RULES[type(layer)]
    return (
        isinstance(x, Tensor)
        and isinstance(output, Tensor)
        and output.requires_grad
        and x.dim() in dims
        and len(x) == len(output) == count
    )
