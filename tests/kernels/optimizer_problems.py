"""Problems for the raw kernels of the masked steps, and what the reference makes of them.

Everything is widened to float64 for it. Lists stand behind one another; ``ends[i]`` is where
tensor i ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from guarded_arrays import Array, Shapes
from kernel_problems import tensor
from torch import Tensor

from clfast import reference

FREE, BYTES, BITS = 0, 1, 2


@dataclass(frozen=True)
class _Masked:
    scale: ClassVar[float] = 1.0
    units: ClassVar[float] = 16

    ends: Array  # [tensors]
    layouts: Array  # [tensors]: FREE, BYTES, BITS
    reserved: Array  # [P], bool; of tensors that are not FREE
    grads: Array  # [P]
    clip: float | None

    def split(self, row: Array) -> list[Tensor]:
        return [tensor(part).clone() for part in np.split(row, self.ends[:-1])]

    def masks(self) -> list[Tensor | None]:
        parts = np.split(self.reserved, self.ends[:-1])
        return [
            None if layout == FREE else torch.from_numpy(part)
            for layout, part in zip(self.layouts, parts, strict=True)
        ]

    def kept(self) -> Array:
        """Which entries must stay."""
        sizes = np.diff(self.ends, prepend=0)
        return self.reserved & np.repeat(self.layouts != FREE, sizes)

    def clip_tensor(self) -> Tensor | None:
        return None if self.clip is None else torch.tensor(self.clip, dtype=torch.float64)


def _row(tensors: Sequence[Tensor]) -> Array:
    return torch.cat(list(tensors)).numpy()


@dataclass(frozen=True)
class MaskedSgd(_Masked):
    kernel: ClassVar[str] = "masked_sgd_step"

    params: Array  # [P]
    buffers: Array | None  # [P]
    lr: float = 0.1
    momentum: float = 0.0
    gain: float = 1.0
    weight_decay: float = 0.0
    sign: float = 1.0
    nesterov: bool = False

    def outputs(self) -> Shapes:
        count = 1 if self.buffers is None else 2
        return [(self.params.shape, self.params.dtype)] * count

    def oracle(self) -> list[Array]:
        params, buffers = self.split(self.params), []
        if self.buffers is not None:
            buffers = self.split(self.buffers)
        reference.optimizers.masked_sgd_step_(
            *(params, self.split(self.grads), buffers, self.masks()),
            lr=self.lr,
            momentum=self.momentum,
            dampening=1 - self.gain,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            maximize=self.sign < 0,
            clip=self.clip_tensor(),
        )
        return [_row(each) for each in (params, buffers) if each]


@dataclass(frozen=True)
class MaskedAdam(_Masked):
    kernel: ClassVar[str] = "masked_adam_step"
    lr: ClassVar[float] = 0.1
    epsilon: ClassVar[float] = 1e-3

    params: Array  # [P]
    exp_avgs: Array  # [P]
    exp_avg_sqs: Array  # [P]
    max_exp_avg_sqs: Array | None  # [P]
    steps: Array  # [tensors]
    decay: float = 0.0
    decoupled: bool = False
    beta1: float = 0.9
    beta2: float = 0.99
    sign: float = 1.0

    @property
    def weight_decay(self) -> float:
        return 0.0 if self.decoupled else self.decay

    @property
    def keep(self) -> float:
        return 1 - self.lr * self.decay if self.decoupled else 1.0

    @cached_property  # the bindings read the array itself
    def rates(self) -> Array:
        corrections = np.sqrt(1 - self.beta2**self.steps) / (1 - self.beta1**self.steps)
        rates: Array = (self.lr * corrections).astype(self.params.dtype)
        return rates

    @cached_property
    def eps(self) -> Array:
        eps: Array = (self.epsilon * np.sqrt(1 - self.beta2**self.steps)).astype(self.params.dtype)
        return eps

    def outputs(self) -> Shapes:
        count = 3 if self.max_exp_avg_sqs is None else 4
        return [(self.params.shape, self.params.dtype)] * count

    def oracle(self) -> list[Array]:
        lists = [self.split(x) for x in (self.params, self.exp_avgs, self.exp_avg_sqs)]
        largest = [] if self.max_exp_avg_sqs is None else self.split(self.max_exp_avg_sqs)
        reference.optimizers.masked_adam_step_(
            *(lists[0], self.split(self.grads), *lists[1:], largest, self.masks()),
            steps=self.steps.tolist(),
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            weight_decay=self.decay,
            decoupled_weight_decay=self.decoupled,
            maximize=self.sign < 0,
            clip=self.clip_tensor(),
        )
        return [_row(each) for each in (*lists, largest) if each]


@dataclass(frozen=True)
class MaskedNorm(_Masked):
    kernel: ClassVar[str] = "masked_grad_norm"

    def outputs(self) -> Shapes:
        return [((1,), np.float64)]

    def oracle(self) -> list[Array]:
        norm = reference.optimizers.masked_grad_norm(self.split(self.grads), self.masks())
        return [norm.reshape(1).numpy()]


def _lists(sizes: Sequence[int], dtype: str, rng: np.random.Generator, clip: float | None) -> Any:
    """All three layouts in turn; NaN and Inf where it is reserved."""
    ends, layouts = np.cumsum(sizes), np.arange(len(sizes)) % 3
    reserved = rng.random(sum(sizes)) < 0.4
    common = _Masked(ends, layouts, reserved, rng.standard_normal(sum(sizes)).astype(dtype), clip)
    kept = common.kept()
    common.grads[kept] = rng.choice([np.nan, np.inf, -np.inf, 3.0], int(kept.sum()))
    names = [field.name for field in fields(common)]
    return {name: getattr(common, name) for name in names}


def sgd(sizes: Sequence[int], dtype: str, rng: np.random.Generator) -> list[MaskedSgd]:
    """Plain, with momentum, with Nesterov's and all options."""
    params, buffers = rng.standard_normal((2, sum(sizes))).astype(dtype)
    return [
        MaskedSgd(**_lists(sizes, dtype, rng, None), params=params, buffers=None),
        MaskedSgd(
            **_lists(sizes, dtype, rng, 0.5),
            params=params,
            buffers=buffers,
            momentum=0.9,
            gain=0.75,
            weight_decay=0.1,
        ),
        MaskedSgd(
            **_lists(sizes, dtype, rng, None),
            params=params,
            buffers=buffers,
            momentum=0.9,
            sign=-1.0,
            nesterov=True,
        ),
    ]


def adam(sizes: Sequence[int], dtype: str, rng: np.random.Generator) -> list[MaskedAdam]:
    """Plain, AMSGrad with decay in the gradient, and AdamW with all else."""
    params, first, second, largest = rng.standard_normal((4, sum(sizes))).astype(dtype)
    steps = rng.integers(1, 50, len(sizes))

    def made(clip: float | None, maximum: Array | None, **options: Any) -> MaskedAdam:
        lists = _lists(sizes, dtype, rng, clip)
        moments = (first, second**2, maximum)
        return MaskedAdam(
            **lists,
            **dict(zip(_MOMENTS, moments, strict=True)),
            params=params,
            steps=steps,
            **options,
        )

    return [
        made(None, None),
        made(0.5, largest**2, decay=0.1),
        made(None, None, decay=0.1, decoupled=True, sign=-1.0, beta1=0.0, beta2=0.5),
    ]


_MOMENTS = ("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs")


def norm(sizes: Sequence[int], dtype: str, rng: np.random.Generator) -> list[MaskedNorm]:
    return [MaskedNorm(**_lists(sizes, dtype, rng, None))]


Problem = MaskedSgd | MaskedAdam | MaskedNorm
MAKERS: dict[str, Callable[..., Sequence[Problem]]] = {"sgd": sgd, "adam": adam, "norm": norm}


def assert_reserved_stay(problem: Problem, got: list[Array]) -> None:
    if not isinstance(problem, MaskedNorm):
        kept = problem.kept()
        assert got[0][kept].tobytes() == problem.params[kept].tobytes()
