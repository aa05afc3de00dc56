"""Layers whose units every task masks for itself: HAT (Serrà, Surís, Miron and Karatzoglou 2018,
"Overcoming catastrophic forgetting with hard attention to the task")."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._arguments import integer, real
from ..ops.masks import pack_mask, unpack_mask, weight_mask
from .masked import Keep, TaskMask
from .tasks import TaskParts, at_task

Activation = Callable[[Tensor], Tensor]


class _HATLayer(nn.Module):
    """What both layers share: weights [C_out, C_in, ...], of which past tasks reserve some."""

    weight: Tensor
    mask: TaskMask
    """Of the units, [C_out]."""
    reserved_weight: Tensor
    """Weights that past tasks need, packed."""

    def _begin(self, activation: Activation | None, keep: Keep) -> None:
        given: object = activation
        if given is not None and not callable(given):
            raise TypeError(
                f"{type(self).__name__}: activation must be a module, a function or None, got "
                f"{type(given).__name__}"
            )
        self.activation = activation
        self.mask = TaskMask(len(self.weight), std=1.0, keep=keep)
        nothing = torch.zeros(self.weight.shape, dtype=torch.bool)
        self.register_buffer("reserved_weight", pack_mask(nothing))

    def _masked(self, outputs: Tensor, dim: int) -> Tensor:
        if self.activation is not None:
            outputs = self.activation(outputs)
        masked: Tensor = self.mask(outputs, dim)
        return masked

    def reserved(self) -> dict[Tensor, Tensor]:
        """By parameter the packed mask of what past tasks need: weights between reserved units,
        biases of reserved units."""
        found = {self.weight: self.reserved_weight}
        bias = self._parameters["bias"]
        if bias is not None:
            found[bias] = self.mask.reserved
        return found

    @torch.no_grad()
    def reserve(self, inputs: Tensor) -> None:
        """Reserve weights between ``inputs`` [C_in] bool and the reserved units of this layer."""
        shape = self.weight.shape
        found = weight_mask(self.mask.reserved_mask(), inputs, shape=shape)
        before = unpack_mask(self.reserved_weight, shape)
        self.reserved_weight.copy_(pack_mask(found | before))


class HATLinear(nn.Linear, _HATLayer):
    """activation(x W^T + b) times a mask of its units, one for every task.

    The mask of the task that is being learnt is sigmoid(scale e), see `masks_at`, with e from a
    standard normal distribution; at `end_hat_task` it is kept, and what it needs is reserved.

    Args:
        in_features, out_features, bias: as in ``nn.Linear``.
        activation: a module or function [..., out_features] to the same; None: none.
        keep: masks of past tasks, see `TaskMask`.

    Raises:
        TypeError, ValueError: sizes below 1, no activation, another ``keep``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: Activation | None = F.relu,
        keep: Keep = "binary",
    ) -> None:
        where = type(self).__name__
        super().__init__(
            integer(in_features, "in_features", where, least=1),
            integer(out_features, "out_features", where, least=1),
            bias,
        )
        self._begin(activation, keep)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return self._masked(F.linear(x, self.weight, self.bias), -1)


class HATConv2d(nn.Conv2d, _HATLayer):
    """activation(convolution of x) times a mask of its channels, one for every task.

    See `HATLinear`. Batch normalisation between the two is ``activation=nn.Sequential(
    TaskBatchNorm2d(C_out), nn.ReLU())``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, bias: as in ``nn.Conv2d``.
        activation: a module or function [B, C_out, H, W] to the same; None: none.
        keep: masks of past tasks, see `TaskMask`.

    Raises:
        TypeError, ValueError: numbers of channels below 1, no activation, another ``keep``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool = True,
        activation: Activation | None = F.relu,
        keep: Keep = "binary",
    ) -> None:
        where = type(self).__name__
        super().__init__(
            integer(in_channels, "in_channels", where, least=1),
            integer(out_channels, "out_channels", where, least=1),
            integer(kernel_size, "kernel_size", where, least=1),
            integer(stride, "stride", where, least=1),
            integer(padding, "padding", where, least=0),
            bias=bias,
        )
        self._begin(activation, keep)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H', W'], as ``nn.Conv2d`` has them."""
        return self._masked(self._conv_forward(x, self.weight, self.bias), -3)


HATLayer = HATLinear | HATConv2d


class TaskHeads(TaskParts):
    """An output layer for every task: an ``nn.Linear`` each, of which only the newest is trained.

    A state with another number of tasks can be loaded.

    Args:
        in_features: what all take.
        classes: outputs of the first task.
        generator: draws its weights; None: torch's.

    Raises:
        TypeError, ValueError: sizes below 1.
    """

    def __init__(
        self, in_features: int, classes: int, *, generator: torch.Generator | None = None
    ) -> None:
        self.in_features = integer(in_features, "in_features", type(self).__name__, least=1)
        super().__init__(self._head(classes, type(self).__name__, generator))

    def add_task(
        self, classes: int | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        """Begin a task, and leave the heads of the others as they are from now on.

        Args:
            classes: of the task; None: as many as the one before.
            generator: draws the weights; None: torch's.

        Raises:
            TypeError, ValueError: classes that is no integer >= 1.
        """
        if classes is None:
            classes = self._of(self.tasks - 1).out_features
        where = f"{type(self).__name__}.add_task"
        self._begin(lambda: self._head(classes, where, generator))

    def forward(self, x: Tensor, task: int | None = None) -> Tensor:
        """[..., in_features] -> [..., C], C as the task has it; None: the task of `TaskModule`.

        Raises:
            TypeError, ValueError: a task that is not there.
        """
        logits: Tensor = self._of(self._at(task))(x)
        return logits

    def _of(self, task: int) -> nn.Linear:
        head = self.parts[task]
        assert isinstance(head, nn.Linear)
        return head

    @torch.no_grad()
    def _head(self, classes: object, where: str, generator: torch.Generator | None) -> nn.Linear:
        head = nn.Linear(self.in_features, integer(classes, "classes", where, least=1))
        bound = 1 / math.sqrt(self.in_features)  # as nn.Linear begins
        for parameter in (head.weight, head.bias):
            parameter.uniform_(-bound, bound, generator=generator)
        return head

    def _part_of(self, weight: Tensor) -> nn.Module:
        return nn.Linear(weight.shape[1], weight.shape[0])


def hat_mlp(
    inputs: int = 784,
    widths: Sequence[int] = (2000, 2000),
    classes: int = 2,
    *,
    keep: Keep = "binary",
) -> nn.Sequential:
    """The network of HAT's experiments on MNIST, in PyTorch's initialisation, without dropout:
    HATLinear of each width, then `TaskHeads`.

    Args:
        inputs: features of x [B, inputs].
        widths: units of the hidden layers.
        classes: of the first task.
        keep: masks of past tasks, see `TaskMask`.

    Raises:
        TypeError, ValueError: sizes below 1; no width.
    """
    if not widths:
        raise ValueError("clfast.nn.hat_mlp: widths is empty")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, width in enumerate(widths, 1):
        layers[f"hidden{number}"] = HATLinear(inputs, width, keep=keep)
        inputs = width
    layers["heads"] = TaskHeads(inputs, classes)
    return nn.Sequential(layers)


def hat_layers(network: nn.Module) -> dict[str, HATLayer]:
    """The HAT layers of a network by name."""
    return {n: m for n, m in network.named_modules() if isinstance(m, HATLinear | HATConv2d)}


@torch.no_grad()
def end_hat_task(
    network: nn.Module,
    shape: Sequence[int],
    scale: float,
    *,
    generator: torch.Generator | None = None,
) -> dict[str, int]:
    """The task that was being learnt ends: masks are kept, and the weights that it needs reserved.

    A weight is reserved where both its ends are, as in HAT: its unit, and the input
    that it weighs. Which inputs of a layer come from reserved units the network itself tells: it
    runs once with NaN out of those and 0 out of the others, and an input that is not 0 then is
    reserved. So layers may be connected in any way, through pooling, flattening, addition,
    concatenation, normalisation; only what turns NaN into 0 would hide a connection.

    Args:
        network: with HAT layers; it is run in eval mode, for its newest task.
        shape: [...] of one sample.
        scale: s_max > 0, of soft masks.
        generator: draws the next embeddings; None: torch's.

    Returns:
        Newly reserved units by the name of the layer.

    Raises:
        TypeError, ValueError: no HAT layer; scale out of range; a shape that the network cannot
            take. Nothing has changed.
    """
    where = "clfast.nn.end_hat_task"
    scale = real(scale, "scale", where, least=0, open_ends="(")
    layers = hat_layers(network)
    if not layers:
        raise ValueError(f"{where}: network has no HATLinear and no HATConv2d")
    try:
        inputs = _reserved_inputs(network, layers, shape)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ValueError(f"{where}: network cannot take {[1, *shape]}: {error}") from error
    found = {}
    for name, layer in layers.items():
        found[name] = layer.mask.end_task(scale, generator)
        layer.reserve(inputs[name])
    return found


def _reserved_inputs(
    network: nn.Module, layers: dict[str, HATLayer], shape: Sequence[int]
) -> dict[str, Tensor]:
    """[C_in] bool of every layer: inputs that come from units that are reserved, or will be when
    the task ends, or from the sample itself."""
    found: dict[str, Tensor] = {}

    def hook_of(name: str, layer: HATLayer) -> Callable[..., Tensor]:
        units = layer.mask.reserved_mask() | (layer.mask.embedding >= 0)
        dim = -1 if isinstance(layer, HATLinear) else -3

        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            tainted = (args[0] != 0).movedim(dim, 0).flatten(1).any(1)
            found[name] = found.get(name, torch.zeros_like(tainted)) | tainted
            view = [-1] + [1] * (-dim - 1)
            signal = torch.where(units, math.nan, 0.0).to(output.dtype).view(view)
            return signal.expand_as(output)

        return hook

    handles = [layer.register_forward_hook(hook_of(n, layer)) for n, layer in layers.items()]
    modes = [(module, module.training) for module in network.modules()]
    like = next(iter(layers.values())).weight
    try:
        network.eval()
        with at_task(network, None):
            network(torch.full((1, *shape), math.nan, dtype=like.dtype, device=like.device))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    # A layer that did not run is not known: whatever it takes may be needed.
    for name, layer in layers.items():
        everything = like.new_ones(layer.weight.shape[1], dtype=torch.bool)
        found.setdefault(name, everything)
    return found
