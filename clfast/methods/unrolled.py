"""Gradients through a training run, step by step backwards: what Eq. 9 of Mnemonics needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._arguments import boolean, integer, real
from ..nn.second_order import QuickSecondDerivatives

_WHERE = "unrolled_sgd"
_SINGLE = "exemplars"

Tensors: TypeAlias = "dict[str, Tensor]"
Trained = TypeVar("Trained", Tensor, Tensors)
InnerLoss: TypeAlias = "Callable[[Tensors, Trained], Tensor]"


class NotFiniteError(RuntimeError):
    """In `unrolled_sgd` a loss, or the gradient, is NaN or infinite.

    Attributes:
        what: "inner_loss", "outer_loss" or "gradient".
        step: of the inner loss, the first at which it is; else None.
    """

    def __init__(self, what: str, message: str, step: int | None = None) -> None:
        super().__init__(f"{_WHERE}: {message}")
        self.what, self.step = what, step


def unrolled_sgd(
    inner_loss: InnerLoss[Trained] | Sequence[InnerLoss[Trained]],
    outer_loss: Callable[[Tensors], Tensor],
    params: Mapping[str, Tensor],
    exemplars: Trained,
    *,
    steps: int,
    lr: float,
    momentum: float = 0.0,
    checkpoint_every: int = 1,
    first_order: bool = False,
) -> tuple[Tensor, Trained]:
    """The outer loss after inner steps of SGD on exemplars, and its gradient in these.

    Liu et al., "Mnemonics Training", CVPR 2020: with w_0 = ``params``, for t = 0 ... T - 1

        b_{t+1} = momentum b_t + ∇_w inner_loss(w_t, E),   b_0 = 0
        w_{t+1} = w_t - lr b_{t+1}   (Eq. 8)

    and the gradient is that of outer_loss(w_T) in E through all T steps (Eq. 9), exact but for
    rounding. It is swept backwards: of the forward sweep the w_t are kept, each step is run again
    and differentiated twice alone. So memory holds T copies of the parameters and the graph of one
    step, not of T.

    A step that is run again draws the random numbers that it drew before (dropout), and afterwards
    torch's global random state is that after the forward sweep. Losses must not write to buffers:
    run batch normalisation in eval mode, or within :func:`clfast.nn.statistics_kept`. They may be
    called more than once a step. Attention is computed by plain products, which alone can be
    differentiated twice.

    Args:
        inner_loss: of (parameters, exemplars), a scalar; or a sequence of T of these, one a step,
            for steps on different batches of the exemplars.
        outer_loss: of parameters, a scalar.
        params: by name. What is trained: every floating-point tensor but an ``nn.Parameter`` with
            ``requires_grad=False``. Losses are called with a dict of the same names; no tensor in
            ``params`` is changed.
        exemplars: E, a floating-point tensor or a dict of them.
        steps: T.
        lr: learning rate of the inner steps.
        momentum: in [0, 1), as that of ``torch.optim.SGD``.
        checkpoint_every: k, at most T: of the w_t every k-th is kept, and those between are found
            again when they are needed. Parameters are then held about T / k + k times (with their
            momenta), and the forward sweep is paid twice.
        first_order: takes ∂w_T/∂w_t for the identity (with momentum: as if the gradients did not
            depend on w): the products with second derivatives in w are dropped, those with mixed
            derivatives in w and E stay.

    Returns:
        The outer loss, and its gradient of the form of ``exemplars``; both detached.

    Raises:
        TypeError, ValueError: an argument, or what a loss returns, is not as said; ``params`` has
            nothing to train; a loss depends on no parameter, or none of the inner losses on
            exemplars.
        NotFiniteError: a RuntimeError; a loss, or the gradient, is not finite. After an error the
            global random state is as before.
    """
    count = integer(steps, "steps", _WHERE, least=1)
    losses = _inner_losses(inner_loss, count)
    if not callable(outer_loss):
        kind = type(outer_loss).__name__
        raise TypeError(f"{_WHERE}: outer_loss must be callable, got {kind}")
    held: Tensors = _tensors(params, "params")
    leaves: Tensors = _leaves_of(exemplars)
    random = _RandomState([*held.values(), *leaves.values()])
    training: _Training = _Training(
        losses=losses,
        outer=outer_loss,
        held=held,
        lr=real(lr, "lr", _WHERE, least=0, open_ends="("),
        momentum=real(momentum, "momentum", _WHERE, least=0, most=1, open_ends=")"),
        every=min(integer(checkpoint_every, "checkpoint_every", _WHERE, least=1), count),
        first_order=boolean(first_order, "first_order", _WHERE),
        single=isinstance(exemplars, Tensor),
        random=random,
    )
    before = random.get()
    try:
        # Autograd may not keep inference tensors, and fused attention has no second derivative.
        with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            loss, gradient, after = training.run(leaves)
    except BaseException:
        random.set(before)
        raise
    random.set(after)
    return loss, cast("Trained", gradient[_SINGLE] if training.single else gradient)


class _RandomState:
    """Torch's, of the CPU and of the CUDA devices that tensors are on."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._devices = sorted({t.device.index for t in tensors if t.device.type == "cuda"})

    def get(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in self._devices)]

    def set(self, state: list[Tensor]) -> None:
        torch.set_rng_state(state[0])
        for device, each in zip(self._devices, state[1:], strict=True):
            torch.cuda.set_rng_state(each, device)


class _Point(NamedTuple):
    """Before an inner step."""

    weights: list[Tensor]
    velocity: list[Tensor] | None  # b_t; None where there is no momentum, and for b_0


@dataclass
class _Manner:
    """How losses are computed, see `QuickSecondDerivatives`."""

    quick: bool = True  # until one turns out to have derivatives in it
    channels_last: bool = True  # until one turns out to depend on the order of images in memory


@dataclass
class _Training:
    losses: Sequence[Callable[..., Tensor]]
    outer: Callable[[Tensors], Tensor]
    held: Tensors  # all of params; those that are trained are replaced in what losses get
    lr: float
    momentum: float
    every: int
    first_order: bool
    single: bool  # exemplars are one tensor, not a dict of them
    random: _RandomState
    manner: _Manner = field(default_factory=_Manner)  # of inner losses

    def __post_init__(self) -> None:
        self.names = [name for name, value in self.held.items() if _is_trained(value)]
        if not self.names:
            raise ValueError(
                f"{_WHERE}: params has nothing to train among its {len(self.held)} entries; pass "
                "floating-point tensors, or parameters with requires_grad=True"
            )

    def run(self, exemplars: Tensors) -> tuple[Tensor, Tensors, list[Tensor]]:
        """The outer loss, its gradient in exemplars, and the random state after the forward sweep.

        exemplars: by name; a single one is called `_SINGLE`.
        """
        random, fixed = self.random, {name: leaf.detach() for name, leaf in exemplars.items()}
        point = _Point([self.held[name].detach() for name in self.names], None)
        kept, draws, inner = list[_Point](), list[list[Tensor]](), list[Tensor]()
        for t in range(len(self.losses)):
            if t % self.every == 0:
                kept.append(point)
            draws.append(random.get())
            point, loss = self._step(t, point, fixed)
            inner.append(loss)
        _check_finite(inner, "inner_loss", "look at lr, at exemplars and at params")
        weights = _leaves(point.weights)
        value = _scalar(self._computed(_Manner(), self.outer, self._named(weights)), "outer_loss")
        _check_finite([value], "outer_loss", "look at lr and at the data that it is of")
        cotangents = list(torch.autograd.grad(value, weights, materialize_grads=True))
        after = random.get()
        gradient = self._backwards(kept, draws, cotangents, fixed)
        return value.detach(), gradient, after

    def _backwards(
        self,
        kept: list[_Point],
        draws: list[list[Tensor]],
        cotangents: list[Tensor],
        exemplars: Tensors,
    ) -> Tensors:
        """The gradient in exemplars, from that in w_T."""
        random = self.random
        total: dict[str, Tensor | None] = dict.fromkeys(exemplars)
        # d(outer loss)/d(b_{t+1}), which also moves the w of later steps.
        flow = [torch.zeros_like(c) for c in cotangents]
        while kept:
            point = kept.pop()
            first = len(kept) * self.every
            points = [point]
            for t in range(first, min(first + self.every, len(draws)) - 1):
                random.set(draws[t])
                points.append(self._step(t, points[-1], exemplars)[0])
            while points:
                weights = points.pop().weights
                t = first + len(points)
                flow = _sum(flow, cotangents, -self.lr)
                random.set(draws[t])
                in_weights, in_exemplars = self._products(t, weights, exemplars, flow)
                if in_weights is not None:
                    cotangents = _sum(cotangents, in_weights, 1.0)
                flow = [self.momentum * each for each in flow]
                for name, part in in_exemplars.items():
                    so_far = total[name]
                    total[name] = part if so_far is None else so_far.add_(part)
        found = {name: part for name, part in total.items() if part is not None}
        if not found:
            raise ValueError(
                f"{_WHERE}: inner_loss must depend on exemplars, but its gradient in params does "
                "not; compute it from the exemplars that it is called with"
            )
        if not all(bool(part.isfinite().all()) for part in found.values()):
            raise NotFiniteError(
                "gradient",
                "the gradient in exemplars holds NaN or Inf, though the losses are finite; look at "
                "second derivatives of inner_loss, and at lr",
            )
        zeros = {name: torch.zeros_like(e) for name, e in exemplars.items() if name not in found}
        return {name: {**found, **zeros}[name].contiguous() for name in exemplars}

    def _products(
        self, t: int, weights: list[Tensor], exemplars: Tensors, vector: list[Tensor]
    ) -> tuple[list[Tensor] | None, Tensors]:
        """vector · ∂/∂w and vector · ∂/∂E of the gradient of inner loss t in w; None for the first
        where it is dropped. Of exemplars those which it depends on."""
        weights = _leaves(weights)
        leaves = {name: e.detach().requires_grad_() for name, e in exemplars.items()}
        gradients = self._gradients(t, weights, leaves, create_graph=True)[0]
        pairs = [(g, v) for g, v in zip(gradients, vector, strict=True) if g.requires_grad]
        inputs = [*leaves.values()] if self.first_order else [*weights, *leaves.values()]
        parts: Sequence[Tensor | None] = [None] * len(inputs)
        if pairs:
            parts = torch.autograd.grad(
                [g for g, _ in pairs], inputs, [v for _, v in pairs], allow_unused=True
            )
        in_exemplars = {
            name: part
            for name, part in zip(leaves, parts[-len(leaves) :], strict=True)
            if part is not None
        }
        if self.first_order:
            return None, in_exemplars
        in_weights = [
            torch.zeros_like(weight) if part is None else part
            for weight, part in zip(weights, parts[: len(weights)], strict=True)
        ]
        return in_weights, in_exemplars

    def _step(self, t: int, point: _Point, exemplars: Tensors) -> tuple[_Point, Tensor]:
        """The point after step t, and the loss before it."""
        gradients, loss = self._gradients(t, _leaves(point.weights), exemplars)
        velocity = gradients
        if point.velocity is not None:
            velocity = _sum(gradients, point.velocity, self.momentum)
        moved = _sum(point.weights, velocity, -self.lr)
        return _Point(moved, velocity if self.momentum else None), loss.detach()

    def _gradients(
        self, t: int, weights: list[Tensor], exemplars: Tensors, *, create_graph: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        given = exemplars[_SINGLE] if self.single else exemplars
        found = self._computed(
            *(self.manner, self.losses[t], self._named(weights), given), linear_use=create_graph
        )
        loss = _scalar(found, "inner_loss")
        gradients = torch.autograd.grad(
            loss, weights, create_graph=create_graph, materialize_grads=True
        )
        return list(gradients), loss

    def _computed(
        self,
        manner: _Manner,
        loss: Callable[..., Tensor],
        *given: object,
        linear_use: bool = False,
    ) -> Tensor:
        """loss(*given); manner becomes what is right for it.

        An inner step may be run again in another manner than it was run in: in channels-last order
        it has drawn nothing that depends on the order.
        """
        before = self.random.get()
        while manner.quick:
            context = QuickSecondDerivatives(
                linear_use=linear_use, channels_last=manner.channels_last
            )
            try:
                with context:
                    found = loss(*given)
            except Exception:
                # It may be of the order of images alone: then it does not come again below.
                if not (context.differentiated or context.rearranged):
                    raise
            else:
                if not (context.differentiated or context.exposed):
                    return found
            # A gradient penalty for one: its derivatives are to be differentiated twice more.
            manner.quick = not context.differentiated
            manner.channels_last = False
            self.random.set(before)
        return loss(*given)

    def _named(self, weights: list[Tensor]) -> Tensors:
        return {**self.held, **dict(zip(self.names, weights, strict=True))}


def _is_trained(value: Tensor) -> bool:
    frozen = isinstance(value, nn.Parameter) and not value.requires_grad
    return value.is_floating_point() and not frozen


def _leaves(tensors: list[Tensor]) -> list[Tensor]:
    return [each.detach().requires_grad_() for each in tensors]


def _sum(a: list[Tensor], b: list[Tensor], factor: float) -> list[Tensor]:
    return list(torch._foreach_add(a, b, alpha=factor))


def _inner_losses(inner_loss: object, steps: int) -> Sequence[Callable[..., Tensor]]:
    if callable(inner_loss):
        return [inner_loss] * steps
    if not isinstance(inner_loss, Sequence) or not all(map(callable, inner_loss)):
        kind = type(inner_loss).__name__
        raise TypeError(
            f"{_WHERE}: inner_loss must be callable, or a sequence of callables, got {kind}"
        )
    if len(inner_loss) != steps:
        raise ValueError(
            f"{_WHERE}: inner_loss must hold a loss for each of the {steps} steps, got "
            f"{len(inner_loss)}"
        )
    return inner_loss


def _tensors(given: object, name: str) -> Tensors:
    if not isinstance(given, Mapping):
        what = "a dict of tensors" if name == "params" else "a tensor or a dict of tensors"
        raise TypeError(f"{_WHERE}: {name} must be {what}, got {type(given).__name__}")
    if not given:
        raise ValueError(f"{_WHERE}: {name} holds no tensors")
    for key, value in given.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise TypeError(f"{_WHERE}: {name}[{key!r}] must be a tensor, got {kind}")
    return dict(given)


def _leaves_of(exemplars: object) -> Tensors:
    single = isinstance(exemplars, Tensor)
    leaves = _tensors({_SINGLE: exemplars} if single else exemplars, "exemplars")
    for name, leaf in leaves.items():
        if not leaf.is_floating_point():
            label = "exemplars" if single else f"exemplars[{name!r}]"
            raise TypeError(f"{_WHERE}: {label} must be floating point, got {leaf.dtype}")
    return leaves


def _scalar(loss: object, name: str) -> Tensor:
    if not isinstance(loss, Tensor):
        kind = type(loss).__name__
        raise TypeError(f"{_WHERE}: {name} must return a scalar tensor, got {kind}")
    if loss.ndim or not loss.is_floating_point():
        raise ValueError(
            f"{_WHERE}: {name} must return a floating-point scalar, got {list(loss.shape)} of "
            f"{loss.dtype}; take the mean of losses of samples"
        )
    if not loss.requires_grad:
        raise ValueError(
            f"{_WHERE}: {name} must depend on params; compute it from the parameters that it is "
            "called with, by torch.func.functional_call for one"
        )
    return loss


def _check_finite(losses: list[Tensor], name: str, remedy: str) -> None:
    finite = torch.stack([loss.detach() for loss in losses]).isfinite()
    if not bool(finite.all()):
        step = int((~finite).nonzero()[0]) if name == "inner_loss" else None
        where = "" if step is None else f" at step {step}"
        raise NotFiniteError(name, f"{name} is NaN or infinite{where}; {remedy}", step)
