"""Convolution and batch normalisation whose second derivatives take few passes over the data.

PyTorch differentiates the backward pass of batch normalisation term by term, some thirty passes
over the activations, and computes the weights' part of that of a convolution as a convolution with
kernels as large as the images. Both have short closed forms.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten
_DTYPES = (torch.float32, torch.float64)


class QuickSecondDerivatives(TorchFunctionMode):
    """A context: inside, ``F.conv2d`` and ``F.batch_norm`` of this thread are those of this module.

    Values, and derivatives up to the second, are the same but for rounding; there is no third.
    Other calls, those with arguments that are not for images in float32 or float64, and those
    within `torch.func` are left alone. Batch normalisation in train mode leaves running statistics
    as they are.

    Args:
        linear_use: the caller uses gradients only in products with vectors that are differentiated,
            as in ``grad(grad(loss, w, create_graph=True), inputs, v)``, never their values. Then
            those of convolution weights that are leaves are not computed: they are zeros.

    Attributes:
        differentiated: a convolution or batch normalisation was differentiated inside already. What
            comes of that has one derivative less, and for linear use no values.
    """

    def __init__(self, *, linear_use: bool = False) -> None:
        super().__init__()
        self._linear_use = linear_use
        self._inside = False
        self.differentiated = False

    def __enter__(self) -> QuickSecondDerivatives:
        self._inside = True
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._inside = False

    def note_backward(self) -> None:
        """A backward pass has come through here."""
        self.differentiated |= self._inside

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch._C._functorch.maybe_current_level() is not None:  # vmap knows only PyTorch's own
            return func(*args, **kwargs)
        if func is F.conv2d:
            return self._convolution(*args, **kwargs)
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func is Tensor.view and not any(isinstance(a, torch.dtype) for a in args):
            func = Tensor.reshape  # what is a view of images in rows may be none in channels
        return func(*args, **kwargs)

    def _convolution(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or input.dim() != 4 or not _plain(input, weight, bias):
            return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
        strides = _pair(stride)
        if tuple(weight.shape[2:]) == (1, 1) and strides != (1, 1):
            # Of the padded images it sees every so many-th pixel. torch 2.13 writes out of bounds
            # in the weights' gradient of such a convolution of few channels, channels last.
            height, width = _pair(padding)
            input = F.pad(input, (width, width, height, height))
            input = input[:, :, :: strides[0], :: strides[1]]
            strides, padding = (1, 1), 0
        if input.device.type == "cpu":
            # A fifth faster there, and the layers that follow keep it.
            input = input.contiguous(memory_format=torch.channels_last)
        valued = not (self._linear_use and weight.is_leaf)
        sizes = (strides, _pair(padding), _pair(dilation), False, (0, 0), groups)
        output: Tensor = _Convolution.apply(input, weight, bias, sizes, valued, self)
        return output

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        running = (None, None) if training else (running_mean, running_var)
        # The first two are refused there.
        single = training and (input.dim() < 2 or input.numel() <= input.shape[1])
        unknown = not training and (running_mean is None or running_var is None)
        if single or unknown or weight is None or bias is None:
            return F.batch_norm(input, *running, weight, bias, training, momentum, eps)
        if not _plain(input, weight, bias, *running):
            return F.batch_norm(input, *running, weight, bias, training, momentum, eps)
        output: Tensor = _BatchNorm.apply(input, weight, bias, *running, eps, self)[0]
        return output


def _plain(input: Tensor, *others: Tensor | None) -> bool:
    """All are of one dtype that needs no conversion."""
    if torch.is_autocast_enabled(input.device.type) or input.dtype not in _DTYPES:
        return False
    return all(other is None or other.dtype == input.dtype for other in others)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


class _Convolution(Function):
    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        sizes: Any,
        valued: bool,
        mode: QuickSecondDerivatives,
    ) -> Tensor:
        output: Tensor = _aten.convolution(x, weight, bias, *sizes)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, ctx.sizes, ctx.valued, ctx.mode = inputs
        ctx.biased = bias is not None
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.mode.note_backward()
        x, weight = ctx.saved_tensors
        of_x, of_weight, *_ = ctx.needs_input_grad
        # Grad mode is off in a pass that nobody differentiates again: there values count.
        wanted = (of_x, of_weight, ctx.valued or not torch.is_grad_enabled())
        into_x, into_weight = _ConvolutionBackward.apply(grad, x, weight, ctx.sizes, wanted)
        into_bias = grad.sum((0, 2, 3)) if ctx.biased else None
        given = (into_x if of_x else None, into_weight if of_weight else None, into_bias)
        return *given, None, None, None


class _ConvolutionBackward(Function):
    """The gradients in x and weight, of which those not wanted are zeros."""

    @staticmethod
    def forward(
        grad: Tensor, x: Tensor, weight: Tensor, sizes: Any, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor]:
        of_x, of_weight, valued = wanted
        mask = (of_x, of_weight and valued, False)
        into_x, into_weight = x.new_zeros(()).expand_as(x), weight.new_zeros(()).expand_as(weight)
        if any(mask):
            found = _aten.convolution_backward(grad, x, weight, None, *sizes, mask)
            into_x = found[0] if mask[0] else into_x
            into_weight = found[1] if mask[1] else into_weight
        return into_x, into_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        grad, x, weight, ctx.sizes, ctx.wanted = inputs
        ctx.save_for_backward(grad, x, weight)
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, along_x: Tensor | None, along_weight: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        # The gradients are bilinear: in (grad, weight) and in (grad, x).
        grad, x, weight = ctx.saved_tensors
        into_grad = None
        if along_x is not None and along_weight is not None and ctx.sizes[-1] == 1:
            images, kernels = torch.cat([along_x, x], 1), torch.cat([weight, along_weight], 1)
            into_grad = _aten.convolution(images, kernels, None, *ctx.sizes)
        else:
            if along_x is not None:
                into_grad = _aten.convolution(along_x, weight, None, *ctx.sizes)
            if along_weight is not None:
                part = _aten.convolution(x, along_weight, None, *ctx.sizes)
                into_grad = part if into_grad is None else into_grad.add_(part)
        mask = (along_weight is not None, along_x is not None, False)
        into_x, into_weight, _ = _aten.convolution_backward(
            grad,
            x if along_x is None else along_x,
            weight if along_weight is None else along_weight,
            *(None, *ctx.sizes, mask),
        )
        return into_grad, into_x, into_weight, None, None


class _BatchNorm(Function):
    """y = weight x̂ + bias with x̂ = r (x - μ), where μ and 1 / r² = variance + eps are those of the
    batch, or running ones where these are given."""

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        eps: float,
        mode: QuickSecondDerivatives,
    ) -> tuple[Tensor, Tensor, Tensor]:
        from_batch = running_mean is None
        output, mean, scale = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, from_batch, 0.0, eps
        )
        if running_mean is not None and running_var is not None:
            mean, scale = running_mean.clone(), (running_var + eps).rsqrt()
        return output, mean, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, running_mean, _, ctx.eps, ctx.mode = inputs
        _, mean, scale = output
        ctx.from_batch = running_mean is None
        ctx.mark_non_differentiable(mean, scale)
        ctx.save_for_backward(x, weight, mean, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        ctx.mode.note_backward()
        how = (ctx.from_batch, ctx.eps)
        return *_BatchNormBackward.apply(grad, *ctx.saved_tensors, how), None, None, None, None


class _BatchNormBackward(Function):
    """c r h, Σ g x̂ and Σ g of a gradient g, with c the weight. In eval mode h is g; else
    h = g - ḡ - x̂ m with m the mean of g x̂."""

    @staticmethod
    def forward(
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        scale: Tensor,
        how: tuple[bool, float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _passed_back(grad, x, weight, mean, scale, how, (True, True, True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        grad, x, weight, mean, scale, ctx.how = inputs
        _, into_weight, into_bias = output
        ctx.save_for_backward(grad, x, weight, mean, scale, into_weight, into_bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, along: Tensor, along_weight: Tensor, along_bias: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Of s = Σ v c r h + a Σ g x̂ + b Σ g with v = `along`, and a and b of weight and bias.

        In eval mode, in g: c r v + a x̂ + b; in c: r Σ v g; in x: a r g. Else:
        In g: c r (v - v̄ - x̂ k) + a x̂ + b, with k = mean of v x̂.
        In c: r Σ v h.
        In x: that in x̂, u = -c r (m v + k g) + a g, and that in r, c Σ v h, passed back by
        r (u - ū - x̂ mean of u x̂) and by dr/dx = -r² x̂ / n; n values are in a channel.
        """
        g, x, c, mean, r, into_weight, into_bias = ctx.saved_tensors
        of_v = c * r
        if not ctx.how[0]:
            zero, one = torch.zeros_like(r), torch.ones_like(r)
            _, vg_sum, _ = _passed_back(along, g, c, zero, one, ctx.how, _SUMS)
            of_x = r * along_weight
            rest = along_bias - of_x * mean
            into_grad = torch.addcmul(_each(rest, x), _each(of_v, x), along)
            into_grad.addcmul_(_each(of_x, x), x)
            return into_grad, _each(of_x, x) * g, r * vg_sum, None, None, None
        n = x.numel() // len(r)
        _, vx_sum, v_sum = _passed_back(along, x, c, mean, r, ctx.how, _SUMS)
        v_mean, k, g_mean, m = v_sum / n, vx_sum / n, into_bias / n, into_weight / n
        _, vg_sum, _ = _passed_back(along, g, c, g_mean, torch.ones_like(r), ctx.how, _SUMS)
        vh_sum = vg_sum - k * into_weight
        # Per channel, factors of v, g and x.
        of_x = r * (along_weight - of_v * k)
        rest = along_bias - of_v * v_mean - of_x * mean
        into_grad = torch.addcmul(_each(rest, x), _each(of_v, x), along)
        into_grad.addcmul_(_each(of_x, x), x)
        of_v, of_g = -c * r * r * m, of_x
        of_x = -r * (of_v * k + of_g * m) - c * vh_sum * r**3 / n
        rest = -of_v * v_mean - of_g * g_mean - of_x * mean
        into_x = torch.addcmul(_each(rest, x), _each(of_v, x), along)
        into_x.addcmul_(_each(of_g, x), g).addcmul_(_each(of_x, x), x)
        return into_grad, into_x, r * vh_sum, None, None, None


_SUMS = (False, True, True)


def _passed_back(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    scale: Tensor,
    how: tuple[bool, float],
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """`weight` · `scale` · h, Σ g x̂ and Σ g of a gradient g."""
    from_batch, eps = how
    # In eval mode the kernel takes the scale from the variance.
    running = (None, None) if from_batch else (mean, scale.pow(-2) - eps)
    found: tuple[Tensor, Tensor, Tensor] = _aten.native_batch_norm_backward(
        grad, x, weight, *running, mean, scale, from_batch, eps, wanted
    )
    return found


def _each(channel: Tensor, x: Tensor) -> Tensor:
    """[C] as it goes with x [B, C, ...]."""
    return channel.view(1, -1, *[1] * (x.dim() - 2))
