"""Checks of what callers pass to a learner. `where` opens every message: `Hebb.observe`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..memory import KeyValueMemory
from ..plugins.gradients import all_finite


def check_modules(features: object, head: object, memory: object, where: str) -> None:
    """`features` is a module, and see `check_head`."""
    if not isinstance(features, nn.Module):
        raise TypeError(
            f"{where}: features must be an nn.Module, got {type(features).__name__}; "
            "nn.Identity() stands for none"
        )
    check_head(head, memory, where)


def check_head(head: object, memory: object, where: str) -> None:
    """`head` gives logits by an `nn.Linear`, and `memory`, if there is one, stores its input."""
    last = head[-1] if isinstance(head, nn.Sequential) and len(head) else head
    if not isinstance(last, nn.Linear):
        inside = f"an nn.Sequential that ends in {type(last).__name__}"
        raise TypeError(
            f"{where}: head must be an nn.Linear, or an nn.Sequential that ends in one, got "
            f"{type(head).__name__ if last is head else inside}; "
            "pass the last linear layer as head and all before it as features"
        )
    if type(last).forward is not nn.Linear.forward:
        raise TypeError(
            f"{where}: head must give x W^T + b, but {type(last).__name__} has a forward of its "
            "own, which the adaptation would not follow"
        )
    if isinstance(last, nn.LazyLinear):
        raise TypeError(f"{where}: head has no size yet; pass a batch through the model first")
    if isinstance(head, nn.Sequential):
        _check_output_network(head, last, where)
    if last.out_features < 1:
        raise ValueError(f"{where}: head must have at least one output")
    if memory is None:
        return
    if not isinstance(memory, KeyValueMemory):
        raise TypeError(f"{where}: memory must be a KeyValueMemory, got {type(memory).__name__}")
    first = head[0] if isinstance(head, nn.Sequential) else last
    if isinstance(first, nn.Linear) and first.in_features != memory.dim:
        raise ValueError(
            f"{where}: memory has keys of dim {memory.dim}, but head takes {first.in_features} "
            f"features; make it with KeyValueMemory({first.in_features})"
        )


def _check_output_network(head: nn.Sequential, last: nn.Linear, where: str) -> None:
    """Every query adapts parameters of its own: each must be one of one layer, and be in use."""
    names = {name for name, _ in last.named_parameters()}
    if "weight" not in names or not names <= {"weight", "bias"}:
        raise TypeError(
            f"{where}: head must end in an nn.Linear whose weight is a parameter, got "
            f"{', '.join(sorted(names)) or 'none'} (weight norm or another parametrization?)"
        )
    every = [parameter for _, parameter in head.named_parameters(remove_duplicate=False)]
    if len(every) != len(list(head.parameters())):
        raise TypeError(f"{where}: head has layers that share parameters, which is not supported")


def check_mapping(state_dict: object, where: str) -> None:
    """`state_dict` is a mapping."""
    if not isinstance(state_dict, Mapping):
        kind = type(state_dict).__name__
        raise TypeError(f"{where}: state_dict must be a mapping, got {kind}")


def check_samples(x: object, where: str) -> None:
    """`x` is a tensor of samples [B, ...]."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{where}: x must be a torch.Tensor, got {type(x).__name__}")
    if x.ndim == 0:
        raise ValueError(f"{where}: x must have shape [B, ...], got a scalar")


def check_labels(y: object, count: int, num_classes: int, device: torch.device, where: str) -> None:
    """`y` is an int64 tensor [count] of labels in [0, num_classes) on `device`."""
    if not isinstance(y, Tensor):
        raise TypeError(f"{where}: y must be a torch.Tensor, got {type(y).__name__}")
    if y.dtype != torch.int64:
        raise TypeError(f"{where}: y must be int64, got {y.dtype}; convert it with y.long()")
    if y.shape != (count,):
        raise ValueError(
            f"{where}: y must have shape [{count}], one label a sample of x, got {list(y.shape)}"
        )
    if y.device != device:
        raise ValueError(f"{where}: y must be on {device} as x is, got {y.device}")
    outside = y[(y < 0) | (y >= num_classes)]
    if outside.numel():
        raise ValueError(
            f"{where}: y holds label {int(outside[0])}, but head has outputs for "
            f"[0, {num_classes}); a new class needs a larger head"
        )


def check_features(
    features: object, count: int, dim: int | None, memory: KeyValueMemory | None, where: str
) -> None:
    """What the features module returned is floating point [count, dim] on the memory's device."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{where}: features must return a floating-point tensor, got {kind}")
    if dim is None and features.ndim >= 2:
        dim = math.prod(features.shape[1:])
    if (
        features.shape[:1] != (count,)
        or features.numel() != count * (dim or 0)
        or features.ndim < 2
    ):
        raise ValueError(
            f"{where}: features must return [{count}, {dim}], a row a sample as head takes it, "
            f"got {list(features.shape)} for x"
        )
    if memory is not None and features.device != memory.device:
        raise ValueError(
            f"{where}: features are on {features.device}, but memory is on {memory.device}; "
            f"move it with memory.to('{features.device}')"
        )


def check_finite(features: Tensor, where: str) -> None:
    """No NaN and no Inf in features [B, d]."""
    # A finite sum has finite terms; the exact look is needed only when the sum overflows.
    if math.isfinite(features.sum(dtype=torch.float32)):
        return
    bad = ~features.isfinite().all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{where}: features of x hold NaN or Inf in row {row}; look for it in x, and in the "
            "parameters of features"
        )


def check_outputs(logits: Tensor, where: str) -> None:
    """No NaN in the head's outputs [B, C]."""
    bad = logits.isnan().any(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ValueError(
            f"{where}: the outputs of head hold NaN in row {row}; look at the parameters of head"
        )


def check_optimizer(optimizer: object, where: str, name: str = "base_optimizer") -> None:
    """`optimizer` is None or a torch optimizer whose steps need no closure."""
    if optimizer is None:
        return
    if not isinstance(optimizer, torch.optim.Optimizer):
        kind = type(optimizer).__name__
        raise TypeError(f"{where}: {name} must be a torch optimizer, got {kind}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(f"{where}: {name} must step without a closure, LBFGS does not")


def check_gradients(optimizer: torch.optim.Optimizer, where: str) -> None:
    """No NaN and no Inf in the gradients that the optimizer is about to use."""
    found = [p.grad for group in optimizer.param_groups for p in group["params"]]
    if not all_finite(g for g in found if g is not None):
        raise ValueError(
            f"{where}: the gradient of the loss on x holds NaN or Inf; no step was taken"
        )
