"""Convolution and batch normalisation whose second derivatives take few passes over the data.

PyTorch differentiates the backward pass of batch normalisation term by term, some thirty passes
over the activations, and computes the weights' part of that of a convolution as a convolution with
kernels as large as the images. Both have short closed forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten
_DTYPES = (torch.float32, torch.float64)

# Calls that give and write the same in whichever order the images that they get are in memory: what
# networks do between their layers. Views are not among them, for one order has them and another has
# not, nor are draws of random numbers, which go by the order.
_ORDERLESS_NAMES = (
    *("conv2d", "batch_norm", "group_norm", "pad", "cat", "detach", "__getitem__", "__setitem__"),
    *("avg_pool2d", "max_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"),
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus"),
    *(
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
        "tanh",
        "tanh_",
        "abs",
        "exp",
        "log",
        "sqrt",
    ),
    *("add", "add_", "sub", "sub_", "__rsub__", "mul", "mul_", "div", "div_", "__rdiv__", "neg"),
    *("square", "pow", "__pow__", "clamp", "mean", "sum", "amax", "amin"),
    *("size", "dim", "numel", "__len__"),
)
_ORDERLESS_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "requires_grad", "grad_fn", "is_cuda")
_ORDERLESS = {
    *(
        getattr(home, n)
        for home in (torch, Tensor, F)
        for n in _ORDERLESS_NAMES
        if hasattr(home, n)
    ),
    *(getattr(Tensor, name).__get__ for name in _ORDERLESS_ATTRIBUTES),
}


class QuickSecondDerivatives(TorchFunctionMode):
    """A context: inside, ``F.conv2d`` and ``F.batch_norm`` of this thread are those of this module.

    Values, and derivatives up to the second, are the same but for rounding; a third raises
    RuntimeError. Other calls, those with arguments that are not for images in float32 or float64,
    and those within `torch.func` are left alone. Batch normalisation in train mode leaves running
    statistics as they are.

    Args:
        linear_use: the caller uses gradients only in products with vectors that are differentiated,
            as in ``grad(grad(loss, w, create_graph=True), inputs, v)``, never their values. Then
            those of convolution weights that are leaves are not computed: they are zeros.
        channels_last: on CPUs convolutions put images in that order in memory, and layers that
            follow keep it: a fifth faster. Else all are in the order that PyTorch gives them.

    Attributes:
        differentiated: a convolution or batch normalisation was differentiated inside already. What
            comes of that has one derivative less, and for linear use no values.
        rearranged: images were put in channels-last order. PyTorch may refuse views of these.
        exposed: calls that may depend on the order were made on these. What comes of that need not
            be what PyTorch gives: other units are dropped, and ``reshape`` may be a copy where it
            is a view otherwise, so that what is written to it is lost.
    """

    def __init__(self, *, linear_use: bool = False, channels_last: bool = False) -> None:
        super().__init__()
        self._linear_use = linear_use
        self._channels_last = channels_last
        self._inside = False
        self.differentiated = self.rearranged = self.exposed = False

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
            self.exposed |= self.rearranged
            return func(*args, **kwargs)
        watched = self.rearranged and not self.exposed
        watched = watched and any(map(_in_other_order, _tensors_in([args, *kwargs.values()])))
        result: Any
        if func is F.conv2d:
            result = self._convolution(*args, **kwargs)
        elif func is F.batch_norm:
            result = self._batch_norm(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        if watched:
            self.exposed = func not in _ORDERLESS or any(map(_hides_order, _tensors_in(result)))
        return result

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
            # The result's, which strides of those pixels need not show.
            order = suggest_memory_format(input)
            input = input[:, :, :: strides[0], :: strides[1]].contiguous(memory_format=order)
            strides, padding = (1, 1), 0
        if self._channels_last and input.device.type == "cpu":
            given, input = input, input.contiguous(memory_format=torch.channels_last)
            self.rearranged |= input is not given
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


def _tensors_in(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for each in values:
            yield from _tensors_in(each)


def _in_other_order(images: Tensor) -> bool:
    return images.dim() == 4 and not images.is_contiguous()


def _hides_order(result: Tensor) -> bool:
    """Whether `result`, of images in another order, may be in another itself, and not be known."""
    return result._is_view() if result.is_contiguous() else result.dim() != 4


def _plain(input: Tensor, *others: Tensor | None) -> bool:
    """All are of one dtype that needs no conversion."""
    if torch.is_autocast_enabled(input.device.type) or input.dtype not in _DTYPES:
        return False
    return all(other is None or other.dtype == input.dtype for other in others)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


class _Last(Function):
    """``found(how, *tensors)``, and an error where that is to be differentiated.

    `once_differentiable` has its error on no path to `tensors`, so that ``autograd.grad``, which
    takes only paths to its inputs, passes it by.
    """

    @staticmethod
    def forward(ctx: Any, found: Callable[..., Any], how: Any, *tensors: Tensor | None) -> Any:
        return found(how, *tensors)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            "QuickSecondDerivatives: convolution and batch_norm inside have no third derivative; "
            "call them outside"
        )


class _Convolution(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        sizes: Any,
        valued: bool,
        mode: QuickSecondDerivatives,
    ) -> Tensor:
        ctx.sizes, ctx.valued, ctx.mode = sizes, valued, mode
        ctx.biased = bias is not None
        ctx.save_for_backward(x, weight)
        output: Tensor = _aten.convolution(x, weight, bias, *sizes)
        return output

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
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        sizes: Any,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Tensor, Tensor]:
        ctx.sizes, ctx.wanted = sizes, wanted
        ctx.save_for_backward(grad, x, weight)
        ctx.set_materialize_grads(False)
        of_x, of_weight, valued = wanted
        mask = (of_x, of_weight and valued, False)
        into_x, into_weight = x.new_zeros(()).expand_as(x), weight.new_zeros(()).expand_as(weight)
        if any(mask):
            found = _aten.convolution_backward(grad, x, weight, None, *sizes, mask)
            into_x = found[0] if mask[0] else into_x
            into_weight = found[1] if mask[1] else into_weight
        return into_x, into_weight

    @staticmethod
    def backward(
        ctx: Any, along_x: Tensor | None, along_weight: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        given = (*ctx.saved_tensors, along_x, along_weight)
        return *_Last.apply(_convolution_back_twice, ctx.sizes, *given), None, None


def _convolution_back_twice(
    sizes: Any,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    along_x: Tensor | None,
    along_weight: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """In grad, x and weight. The gradients are bilinear: in (grad, weight) and in (grad, x)."""
    into_grad = None
    if along_x is not None and along_weight is not None and sizes[-1] == 1:
        images, kernels = torch.cat([along_x, x], 1), torch.cat([weight, along_weight], 1)
        into_grad = _aten.convolution(images, kernels, None, *sizes)
    else:
        if along_x is not None:
            into_grad = _aten.convolution(along_x, weight, None, *sizes)
        if along_weight is not None:
            part = _aten.convolution(x, along_weight, None, *sizes)
            into_grad = part if into_grad is None else into_grad.add_(part)
    mask = (along_weight is not None, along_x is not None, False)
    into_x, into_weight, _ = _aten.convolution_backward(
        grad,
        x if along_x is None else along_x,
        weight if along_weight is None else along_weight,
        *(None, *sizes, mask),
    )
    return into_grad, into_x, into_weight


class _BatchNorm(Function):
    """y = weight x̂ + bias with x̂ = r (x - μ), where μ and 1 / r² = variance + eps are those of the
    batch, or running ones where these are given."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        eps: float,
        mode: QuickSecondDerivatives,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.from_batch, ctx.eps, ctx.mode = running_mean is None, eps, mode
        output, mean, scale = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, ctx.from_batch, 0.0, eps
        )
        if running_mean is not None and running_var is not None:
            mean, scale = running_mean.clone(), (running_var + eps).rsqrt()
        ctx.mark_non_differentiable(mean, scale)
        ctx.save_for_backward(x, weight, mean, scale)
        return output, mean, scale

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
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        scale: Tensor,
        how: tuple[bool, float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = _passed_back(grad, x, weight, mean, scale, how, (True, True, True))
        ctx.how = how
        ctx.save_for_backward(grad, x, weight, mean, scale, *found[1:])
        return found

    @staticmethod
    def backward(ctx: Any, *along: Tensor) -> tuple[Tensor | None, ...]:
        found = _Last.apply(batch_norm_back_twice, ctx.how, *ctx.saved_tensors, *along)
        return *found, None, None, None


def batch_norm_back_twice(
    how: tuple[bool, float],
    g: Tensor,
    x: Tensor,
    c: Tensor,
    mean: Tensor,
    r: Tensor,
    into_weight: Tensor,
    into_bias: Tensor,
    along: Tensor,
    along_weight: Tensor,
    along_bias: Tensor,
) -> tuple[Tensor, ...]:
    """Of s = Σ v c r h + a Σ g x̂ + b Σ g with v = `along`, and a and b of weight and bias.

    In eval mode, in g: c r v + a x̂ + b; in c: r Σ v g; in x: a r g. Else:
    In g: c r (v - v̄ - x̂ k) + a x̂ + b, with k = mean of v x̂.
    In c: r Σ v h.
    In x: that in x̂, u = -c r (m v + k g) + a g, and that in r, c Σ v h, passed back by
    r (u - ū - x̂ mean of u x̂) and by dr/dx = -r² x̂ / n; n values are in a channel.
    """
    of_v = c * r
    if not how[0]:
        zero, one = torch.zeros_like(r), torch.ones_like(r)
        _, vg_sum, _ = _passed_back(along, g, c, zero, one, how, _SUMS)
        of_x = r * along_weight
        rest = along_bias - of_x * mean
        into_grad = torch.addcmul(_each(rest, x), _each(of_v, x), along)
        into_grad.addcmul_(_each(of_x, x), x)
        return into_grad, _each(of_x, x) * g, r * vg_sum
    n = x.numel() // len(r)
    _, vx_sum, v_sum = _passed_back(along, x, c, mean, r, how, _SUMS)
    v_mean, k, g_mean, m = v_sum / n, vx_sum / n, into_bias / n, into_weight / n
    _, vg_sum, _ = _passed_back(along, g, c, g_mean, torch.ones_like(r), how, _SUMS)
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
    return into_grad, into_x, r * vh_sum


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
