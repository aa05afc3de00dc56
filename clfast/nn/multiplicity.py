"""Batches whose rows stand for several equal copies, through any model with batch normalisation.

A method that draws images with replacement sees the same image again and again, and a network in
train mode treats equal images equally. It is enough to pass each once, if batch normalisation
counts it as often as it stands there; losses and gradients of rows are the caller's to weigh.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .buffers import saved_buffers

_WEIGHED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextmanager
def row_multiplicity(model: nn.Module, multiplicity: Tensor | None) -> Iterator[None]:
    """Inside, batch normalisation counts row i of a batch ``multiplicity[i]`` times.

    In train mode its outputs, and its running statistics, are those of the batch in which row i
    stands ``multiplicity[i]`` times; in eval mode nothing changes. Only ``nn.BatchNorm1d``, ``2d``
    and ``3d`` themselves are treated: :func:`copies_stay_equal` tells whether that is enough for a
    model. Blocks may stand in one another, and leave the model as it was.

    Args:
        model: any module; what is in it is looked up at the beginning of the block.
        multiplicity: [M] int64 >= 1, for batches of M rows; None changes nothing.

    Raises:
        TypeError, ValueError: a multiplicity that is none (its values are looked at on the CPU); in
            the forward pass, a batch of another size.
    """
    if multiplicity is None:
        yield
        return
    _check(multiplicity)
    with ExitStack() as undo:
        for module in _batch_norms(model):
            undo.enter_context(_forward(module, multiplicity))
        yield


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation in train mode leaves its running statistics as they are."""
    kept = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracking = [m for m in kept if m.track_running_stats and m.training]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


def _check(multiplicity: object) -> None:
    where = "clfast.nn.row_multiplicity: multiplicity"
    if not isinstance(multiplicity, Tensor) or multiplicity.dtype != torch.int64:
        kind = (
            multiplicity.dtype if isinstance(multiplicity, Tensor) else type(multiplicity).__name__
        )
        raise TypeError(f"{where} must be an int64 tensor, got {kind}")
    if multiplicity.dim() != 1:
        raise ValueError(f"{where} must be 1-D, got {multiplicity.dim()}-D")
    if multiplicity.device.type == "cpu" and bool((multiplicity < 1).any()):
        raise ValueError(f"{where} must be >= 1, got {int(multiplicity.min())}")


class _AnotherBatchError(ValueError):
    """Rows that multiplicity knows nothing of reached a batch normalisation."""


@torch.no_grad()
def copies_stay_equal(model: nn.Module, x: Tensor, *, tolerance: float | None = None) -> bool:
    """Whether a batch with repeated rows can be run as its distinct rows under `row_multiplicity`.

    Tried out: the model runs once in train mode on a batch of which one row stands there three
    times, and once on the distinct rows. Other layers that look at the batch come to light, and so
    do layers that draw random numbers of torch's, as dropout. The rows are noise, since those of
    ``x`` may be equal, or images of zeros. Buffers, modes and random state are put back.

    Args:
        model: from [B, ...] to [B, C].
        x: [B, ...], B >= 2, floating point: rows as the model takes them.
        tolerance: largest difference of outputs and of running statistics, in units of the largest
            entry; default: 1e-3, or 16 roundings where that is more.

    Raises:
        TypeError, ValueError: x that is not floating point, or of fewer than two rows.
    """
    where = "clfast.nn.copies_stay_equal"
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{where}: x must be a floating-point tensor, got {kind}")
    if len(x) < 2:
        raise ValueError(f"{where}: x must have two rows or more, got {len(x)}")
    rows = torch.arange(min(len(x), 4), device=x.device)
    copies = torch.ones_like(rows)
    copies[0] = 3
    put_back = saved_buffers(model)
    modes = [(module, module.training) for module in model.modules()]
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            model.train()
            noise = torch.rand(len(rows), *x.shape[1:], dtype=x.dtype, device=x.device)
            drawn = _random_state(x.device)
            repeated = model(noise[rows.repeat_interleave(copies)])
            if not torch.equal(_random_state(x.device), drawn):
                return False
            wanted = [repeated, *(buffer.clone() for buffer in model.buffers())]
            put_back()
            with row_multiplicity(model, copies):
                once = model(noise).repeat_interleave(copies, 0)
            found = [once, *(buffer.clone() for buffer in model.buffers())]
        except _AnotherBatchError:
            return False
        finally:
            for module, mode in modes:
                module.training = mode
            put_back()
    if not bool(repeated.any()):  # outputs of zeros tell nothing
        return False
    return all(_near(a, b, tolerance) for a, b in zip(found, wanted, strict=True))


def _random_state(device: torch.device) -> Tensor:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _near(a: Tensor, b: Tensor, tolerance: float | None) -> bool:
    if not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    if tolerance is None:
        tolerance = max(1e-3, 16 * torch.finfo(a.dtype).eps)
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module) in _WEIGHED]


@contextmanager
def _forward(module: nn.Module, multiplicity: Tensor) -> Iterator[None]:
    """The module's forward replaced by the weighed one, in the instance alone."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = lambda x: _weighed(module, x, multiplicity)
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def _weighed(norm: nn.Module, x: Tensor, multiplicity: Tensor) -> Tensor:
    """As ``type(norm).forward`` of the batch in which row i stands ``multiplicity[i]`` times."""
    assert isinstance(norm, _WEIGHED)
    norm._check_input_dim(x)
    from_batch = norm.training or norm.running_mean is None
    if from_batch and x.shape[0] != len(multiplicity):
        raise _AnotherBatchError(
            f"clfast.nn.row_multiplicity: a batch of {x.shape[0]} rows came to "
            f"{type(norm).__name__}, but multiplicity is of {len(multiplicity)}"
        )
    if not from_batch or not len(x):
        result: Tensor = type(norm).forward(norm, x)
        return result
    normalised, mean, variance = _WeighedBatchNorm.apply(
        x, norm.weight, norm.bias, multiplicity, norm.eps
    )
    if norm.training and norm.track_running_stats and norm.running_mean is not None:
        _track(norm, mean, variance, multiplicity.sum() * math.prod(x.shape[2:]))
    output: Tensor = normalised
    return output


@torch.no_grad()
def _track(norm: nn.Module, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """The running statistics after this batch; ``count`` values went into each of them."""
    assert isinstance(norm, _WEIGHED)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share: Tensor | float = norm.momentum or 0.0
    if norm.momentum is None:
        share = 1 / norm.num_batches_tracked.to(mean.dtype)
    moments = ((norm.running_mean, mean), (norm.running_var, _unbiased(variance, count)))
    for running, now in moments:
        running.mul_(1 - share).add_(now.to(running.dtype) * share)


def batch_moments(
    x: Tensor, multiplicity: Tensor | None = None, *, unbiased: bool = True
) -> tuple[Tensor, Tensor]:
    """Mean and variance [C] of x [M, C, ...] over all but its channels, differentiable.

    multiplicity: [M] int64 >= 1, how often each row counts; None: once.
    """
    if multiplicity is None:
        multiplicity = torch.ones(len(x), dtype=torch.int64, device=x.device)
    mean, variance, _ = _moments(x, multiplicity)
    if not unbiased:
        return mean, variance
    return mean, _unbiased(variance, multiplicity.sum() * math.prod(x.shape[2:]))


def _unbiased(variance: Tensor, values: Tensor) -> Tensor:
    """From the variance of so many values; 0 stays what it is for one value."""
    values = values.to(variance.dtype)
    return variance * (values / (values - 1).clamp_min(1))


def _moments(x: Tensor, multiplicity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance [C], and the shares [M, 1] of the rows; at least in float32."""
    wide = _wide(x)
    counts = multiplicity.to(wide.dtype)[:, None]
    shares = counts / counts.sum()
    # Sums, where autocast would have products of matrices in 16 bits.
    mean = (shares * _of_rows(wide)).sum(0)
    centred = wide - mean.view((-1,) + (1,) * (x.dim() - 2))
    return mean, (shares * _of_rows(centred.square())).sum(0), shares


def _of_rows(x: Tensor) -> Tensor:
    """Means [M, C] over the positions of each row."""
    return x.mean(tuple(range(2, x.dim()))) if x.dim() > 2 else x


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _WeighedBatchNorm(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) weight + bias with mean and variance [C] under the weights
    w_i = multiplicity_i / (M S) of the S positions of row i. With xhat the normalised values,

    dL/dx_i = weight / sqrt(var + eps) (g_i - w_i sum g - w_i xhat_i sum g xhat),

    of which torch's batch normalisation under given moments makes y, the first term and the sums,
    in whatever order of memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        multiplicity: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance, shares = _moments(x, multiplicity)
        scale = torch.ones_like(mean) if weight is None else weight.to(mean.dtype)
        shift = None if bias is None else bias.to(mean.dtype)
        result = F.batch_norm(_wide(x), mean, variance, scale, shift, eps=eps)
        ctx.save_for_backward(x, scale, mean, variance, shares)
        ctx.eps = eps
        ctx.affine = None if weight is None else weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(mean, variance)
        return result.to(x.dtype), mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> object:
        x, scale, mean, variance, shares = ctx.saved_tensors
        wide = _wide(x)
        slope, of_scale, of_shift = torch.ops.aten.native_batch_norm_backward(
            *(_wide(grads[0]), wide, scale, mean, variance, None, None, False, ctx.eps),
            output_mask=[True, True, True],
        )
        inverse = (variance + ctx.eps).rsqrt()
        each = shares / math.prod(x.shape[2:]) * scale * inverse  # [M, C]
        steepness = each * inverse * of_scale
        offset = steepness * mean - each * of_shift
        spread = (len(x), -1) + (1,) * (x.dim() - 2)
        slope += offset.view(spread)
        slope.addcmul_(wide, steepness.view(spread), value=-1)
        weight_dtype, bias_dtype = ctx.affine
        needs = ctx.needs_input_grad
        return (
            slope.to(grads[0].dtype),
            of_scale.to(weight_dtype) if needs[1] else None,
            of_shift.to(bias_dtype) if needs[2] else None,
            None,
            None,
        )
