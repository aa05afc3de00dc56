"""`WeightTransfer`: convolutions that keep what they have learnt, and learn a scale of it."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Transfer = Literal["scale", "scale_shift"]


class WeightTransfer:
    """W = base · scale (+ shift), with a scale and a shift for each kernel: for each pair of an
    output and an input channel (Sun et al., CVPR 2019, "Meta-transfer learning for few-shot
    learning", section 4.2; Mnemonics, section 5.1).

    The weights of all convolutions that the optimizer trains become their ``base`` as they are now,
    and steps change scale and shift, from 1 and 0 on, in their place. All else is trained as
    before. The model stays as it is: its weights are written after each step, and the gradients of
    scale and shift follow from theirs, dL/dscale = sum(base · dL/dW) and dL/dshift = sum(dL/dW)
    over the places of a kernel. Scales are never folded into the base.

    The authors' shift is added to the bias of a convolution, which those before batch normalisation
    do not have; here it is added to the kernel.

    Args:
        model, optimizer: of a classifier; the optimizer stays as it is.
        kind: "scale" or "scale_shift".
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, kind: Transfer) -> None:
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._weights = [w for w in kernels(model) if id(w) in trained]
        self.base = [w.detach().clone() for w in self._weights]
        shapes = [(*w.shape[:2], *(1 for _ in w.shape[2:])) for w in self._weights]
        pairs = list(zip(self.base, shapes, strict=True))
        self.scale = [nn.Parameter(base.new_ones(shape)) for base, shape in pairs]
        self.shift = [nn.Parameter(base.new_zeros(shape)) for base, shape in pairs]
        self._shifted = kind == "scale_shift"
        learnt: dict[int, list[nn.Parameter]] = {}
        for number, weight in enumerate(self._weights):
            learnt[id(weight)] = [self.scale[number]]
            if self._shifted:
                learnt[id(weight)].append(self.shift[number])
        self._options_of = optimizer
        # Of the same kind, with the same options a group, and no state.
        self.optimizer = copy.copy(optimizer)
        self.optimizer.state = defaultdict(dict)
        self.optimizer.param_groups = [
            {**group, "params": [q for p in group["params"] for q in learnt.get(id(p), [p])]}
            for group in optimizer.param_groups
        ]

    def take_options(self, optimizer: torch.optim.Optimizer) -> None:
        """Learning rates and all other options of the groups as the model's optimizer has them now.

        Raises:
            ValueError: another optimizer than the one that this began with.
        """
        if optimizer is not self._options_of:
            raise ValueError(
                "optimizer is another one than when weights were first transferred, whose scales "
                "go on with that; change its param_groups in place"
            )
        for own, group in zip(self.optimizer.param_groups, optimizer.param_groups, strict=True):
            own.update({name: value for name, value in group.items() if name != "params"})

    @torch.no_grad()
    def step(self) -> None:
        """A step on the gradients that the model has."""
        for number, weight in enumerate(self._weights):
            self.scale[number].grad = self.shift[number].grad = None
            if weight.grad is not None:
                places = list(range(2, weight.dim()))
                product = weight.grad * self.base[number]
                self.scale[number].grad = product.sum(places, keepdim=True)
                self.shift[number].grad = weight.grad.sum(places, keepdim=True)
        self.optimizer.step()
        for number, weight in enumerate(self._weights):
            weight.copy_(self.base[number] * self.scale[number] + self.shift[number])

    def state_dict(self) -> dict[str, Any]:
        """Copies of base, scale and shift of all convolutions, and the optimizer's state."""
        lists = {
            name: [tensor.detach().clone() for tensor in tensors]
            for name, tensors in self._lists().items()
        }
        return {
            **lists,
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; ValueError for tensors that do not fit."""
        for name, own in self._lists().items():
            given: Sequence[Tensor] = state_dict[name]
            if [t.shape for t in own] != [t.shape for t in given]:
                raise ValueError(f"WeightTransfer: {name} does not fit the model's convolutions")
            for mine, theirs in zip(own, given, strict=True):
                mine.copy_(theirs)
        self.optimizer.load_state_dict(copy.deepcopy(state_dict["optimizer"]))

    def _lists(self) -> dict[str, Sequence[Tensor]]:
        return {"base": self.base, "scale": self.scale, "shift": self.shift}


def kernels(model: nn.Module) -> list[nn.Parameter]:
    """The weights of all convolutions."""
    found = (m.weight for m in model.modules() if isinstance(m, _ConvNd))
    return [weight for weight in found if isinstance(weight, nn.Parameter)]
