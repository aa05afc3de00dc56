"""Networks whose layers are used in all the ways that importances must follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class _Shared(nn.Module):
    """A layer that runs twice, and a weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight
        self.twice = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).tanh()).tanh()
        out: Tensor = self.head(self.twice(self.twice(x).tanh()))
        return out


class _UsedElsewhere(nn.Module):
    """A weight that its layer uses, and a function beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        assert self.layer.weight.dtype == x.dtype  # a look is no use
        out: Tensor = self.head(self.layer(x).tanh() @ self.layer.weight)
        return out


class SequenceFirst(nn.Module):
    """Rows of what its layer is given are places, as many as there are samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x.view(len(x), 6, 2).transpose(0, 1)).tanh().sum(0))
        return out


class _Folded(nn.Module):
    """Places of all samples in one row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x.view(-1, 3)).tanh().view(len(x), -1, 4).sum(1))
        return out


class _Residual(nn.Module):
    """What layers give is changed in place; a layer takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h.add_(x).relu_()
        h = h + self.b(h)
        out: Tensor = self.head(h)
        return out


class _ChangedPlaces(nn.Module):
    """What a layer gives at several places is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 3), nn.Linear(3, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 2, 3)
        h = self.a(x)
        h += x
        h = self.b(h.relu_())
        h[:, 0] = h[:, 0] * 2
        out: Tensor = self.head(h.masked_fill_(h > 1, 0.5).flatten(1))
        return out


class _Dropped(nn.Module):
    """A weight that is used beside its layer alone: nothing is learnt through what that gives."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.a(x).detach() > 0
        out: Tensor = self.head(gate * F.linear(x, self.a.weight, self.a.bias))
        return out


class _Scaled(nn.Module):
    """A parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(6) + 0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.scale * x.sin())
        return out


class _Replaced(nn.Module):
    """A hook of somebody else changes what a layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.layer.register_forward_hook(_doubled)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x).tanh())
        return out


def _doubled(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


def norms() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    torch.manual_seed(1)
    net(torch.randn(50, 6) * 2 + 1)  # running statistics
    return net


VECTORS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 3),
    "no bias": lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)),
    "batch norm": norms,
    "layer norm": lambda: nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)),
    "dropout": lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 3)),
    "no running statistics": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.BatchNorm1d(2, track_running_stats=False), nn.Flatten(),
        nn.Linear(6, 3),
    ),
    "shared": _Shared,
    "used elsewhere": _UsedElsewhere,
    "folded": _Folded,
    "residual": _Residual,
    "changed places": _ChangedPlaces,
    "dropped": _Dropped,
    "scaled": _Scaled,
    "replaced": _Replaced,
    "weight norm": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 3)
    ),
    "places": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)
    ),
    "one place": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Linear(6, 4), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)
    ),
}  # fmt: skip

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "stride": {"stride": (2, 3), "padding": (1, 0)},
    "dilation": {"dilation": (2, 1), "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "depthwise": {"groups": 4, "padding": 1},
    "same": {"padding": "same", "kernel_size": (2, 3)},
    "valid": {"padding": "valid"},
    "one place": {"kernel_size": (7, 8)},
    "pointwise": {"kernel_size": 1},
    **{
        mode: {"padding_mode": mode, "padding": (2, 1), "stride": 2}
        for mode in ("reflect", "replicate", "circular")
    },
    "circular, same": {"padding_mode": "circular", "padding": "same", "dilation": 2},
}
