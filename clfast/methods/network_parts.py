"""A network as features and head, and heads with a part of their outputs."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..nn import CosineLinear


class Parts(NamedTuple):
    """Logits of x are head(features(x))."""

    features: nn.Module
    head: nn.Module


def joined(features: object, head: object, where: str) -> nn.Sequential:
    """One model of features and head; TypeError for what is no module."""
    for name, module in (("features", features), ("head", head)):
        if not isinstance(module, nn.Module):
            raise TypeError(f"{where}: {name} must be an nn.Module, got {type(module).__name__}")
    assert isinstance(features, nn.Module)
    assert isinstance(head, nn.Module)
    return nn.Sequential(OrderedDict(features=features, head=head))


def parts(model: nn.Module, where: str) -> Parts:
    """The modules of these names; ValueError for a model without."""
    found = [getattr(model, name, None) for name in Parts._fields]
    features, head = found
    if not isinstance(features, nn.Module) or not isinstance(head, nn.Module):
        raise ValueError(
            f"{where}: model must have modules features and head, to select exemplars by features; "
            "nn.Sequential(OrderedDict(features=..., head=...)) has"
        )
    return Parts(features, head)


@torch.no_grad()
def narrowed(head: nn.Module, classes: Tensor) -> nn.Module:
    """A head whose outputs are those of the classes [n] int64, in their order.

    It is a copy of the same kind where that is `nn.Linear` or `CosineLinear`, and has the head
    itself in it otherwise.
    """
    if type(head) not in (nn.Linear, CosineLinear):
        return nn.Sequential(head, _Columns(classes))
    assert isinstance(head, nn.Linear | CosineLinear)
    part = copy.deepcopy(head)
    part.out_features = len(classes)
    for name, parameter in list(part.named_parameters()):
        if parameter.dim():  # sigma, of a cosine layer, has no rows
            rows = parameter.index_select(0, classes)
            part.register_parameter(name, nn.Parameter(rows, parameter.requires_grad))
    return part


class _Columns(nn.Module):
    """Some columns of [B, C], in their order."""

    indices: Tensor  # [n] int64

    def __init__(self, indices: Tensor) -> None:
        super().__init__()
        self.register_buffer("indices", indices)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.indices)
