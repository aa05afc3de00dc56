"""Gradients of single samples, measured and averaged, from one run of a network on all of them."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.func import grad, vmap

from .._modes import evaluating
from .._wrapped import unwrapped
from . import _call, _check
from ._layer_gradients import LayerCall, Measure, called, graph_of, recorded

Objective: TypeAlias = "Callable[..., Tensor]"
"""(what the network gives [B, ...], constants [B, ...] ...) -> [B], of each sample alone."""

# Errors of what a model does; other kinds of RuntimeError are the machine's, as out of memory.
_OF_A_MODEL = (RuntimeError, NotImplementedError)

# Of threads: a call gives a network other parameters for a while (`functional_call`).
_turns = threading.RLock()

_ROOM = 2**23  # elements of the gradients by samples that are there at once


@contextmanager
def per_sample(op: str, model: nn.Module, inputs: Tensor) -> Iterator[PerSample]:
    """A run of ``model`` in eval mode, in whatever gradient mode the caller is."""
    if torch.compiler.is_compiling() or _call.in_transform():
        raise RuntimeError(
            f"clfast::{op}: it follows the calls of layers by hooks, which torch.compile and "
            "transforms of torch.func do not see; call it outside of them"
        )
    network = unwrapped(model)
    with ExitStack() as stack:
        stack.enter_context(_turns)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(inputs.device.type, enabled=False))
        stack.enter_context(evaluating(network))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_buffers_kept(network))
        x = inputs.clone() if inputs.is_inference() else inputs.detach()
        yield PerSample(op, network, x)


@contextmanager
def _buffers_kept(network: nn.Module) -> Iterator[None]:
    """Runs have copies of the buffers; what checkpoints run again in a backward pass has not, nor
    do they have copies of embeddings, which shorten their rows where there is a ``max_norm``."""
    embeddings = (nn.Embedding, nn.EmbeddingBag)
    changing = [
        *network.buffers(),
        *(m.weight for m in network.modules() if isinstance(m, embeddings) and m.max_norm),
    ]
    saved = [(each, each._version, each.detach().clone()) for each in changing]
    try:
        yield
    finally:
        with torch.no_grad():
            for each, version, values in saved:
                if each._version != version:
                    each.copy_(values)


class PerSample:
    """A network that has run on samples x [N, ...], N > 0, and can be differentiated for each.

    Layers of known kinds are followed through one run on all samples (:mod:`._layer_gradients`),
    where runs on the first and the last sample alone show that rows of the batch are samples and do
    not influence each other. The other parameters are those of ``torch.func.vmap``, or, where that
    fails, of a run for every sample.
    """

    def __init__(self, op: str, network: nn.Module, x: Tensor) -> None:
        self._op, self._network, self._x = op, network, x
        self._parameters = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self._layers: list[LayerCall] = []
        self._maps = True  # until vmap has failed
        try:
            outputs, layers = recorded(network, self._buffers(), x)
        except (RuntimeError, IndexError, ValueError) as error:
            _check.refused_by_model(op, "inputs", x, error)
        _check.tensors(op, **{"what the model returns": outputs})
        _check.require(
            outputs.shape[:1] == x.shape[:1],
            f"{op}: the model must return {len(x)} rows, one a sample, got {list(outputs.shape)}",
        )
        _check.floating(op, "what the model returns", outputs)
        alone, layers_alone = recorded(network, self._buffers(), x[:1])
        if _near(alone, outputs[:1]) and (len(x) == 1 or _near(self._last(), outputs[-1:])):
            self._outputs = outputs
            self._layers = [layers[name] for name in layers if name in layers_alone]
        else:
            with torch.no_grad():
                kept = self._constants()
                self._outputs = torch.cat([self._run(kept, row) for row in x.split(1)])
        self.outputs: Tensor = self._outputs.detach()

    def mean(
        self, objective: Objective, terms: Sequence[tuple[Tensor, ...]], measure: Measure
    ) -> dict[str, Tensor]:
        """The mean over samples of sum_t f(gradient of the objective with constants t).

        It can be called once, since what the run has kept is freed.

        Returns:
            By the name of each parameter that requires grad, of its shape; float32 of 16 bits.
        """
        layers = self._layers
        totals: dict[str, Tensor] = {}
        followed = {name for call in layers for name in call.parameters.values()}
        rest = [name for name in self._parameters if name not in followed]
        for i, constants in enumerate(terms if layers else ()):
            value = objective(self._outputs, *constants).sum()
            deltas: Sequence[Tensor | None] = torch.autograd.grad(
                value,
                [call.edge for call in layers],
                retain_graph=i + 1 < len(terms),
                allow_unused=True,
            )
            with torch.no_grad():
                for call, delta in zip(layers, deltas, strict=True):
                    if delta is None:  # nothing of it reaches the objective
                        continue
                    for name, found in call.mean(delta, measure).items():
                        self._add(totals, name, found)
        if rest:
            totals.update(self._of_others(rest, objective, terms, measure))
        return {
            name: totals[name] if name in totals else self._zeros(name) for name in self._parameters
        }

    def _add(self, totals: dict[str, Tensor], name: str, found: Tensor) -> None:
        """Adds what nobody else holds."""
        if name in totals:
            totals[name] += found
        elif found.stride() == self._parameters[name].stride():
            totals[name] = found
        else:  # results lie in memory as parameters do
            totals[name] = self._zeros(name).copy_(found)

    @torch.no_grad()
    def _of_others(
        self,
        names: list[str],
        objective: Objective,
        terms: Sequence[tuple[Tensor, ...]],
        measure: Measure,
    ) -> dict[str, Tensor]:
        """Of parameters that are not those of the layers that are followed."""
        own = {name: self._parameters[name].detach() for name in names}
        totals = {name: self._zeros(name) for name in names}
        size = max(1, _ROOM // max(1, sum(p.numel() for p in own.values())))
        kept = self._constants()

        def value(own: dict[str, Tensor], x: Tensor, *constants: Tensor) -> Tensor:
            outputs = self._run({**kept, **own}, x[None])
            return objective(outputs, *(c[None] for c in constants))[0]

        for constants in terms:
            for chunk in zip(*(t.split(size) for t in (self._x, *constants)), strict=True):
                for name, gradient in self._gradients(value, own, chunk).items():
                    wide = gradient.to(_check.compute_dtype(gradient))
                    totals[name] += measure(wide).sum(0)
        return {name: total.div_(len(self._x)) for name, total in totals.items()}

    def _gradients(
        self, value: Callable[..., Tensor], own: dict[str, Tensor], samples: tuple[Tensor, ...]
    ) -> dict[str, Tensor]:
        """Of every sample, [n, ...] by name."""
        if self._maps:
            in_dims = (None, *(0 for _ in samples))
            try:
                each = vmap(grad(value), in_dims=in_dims, randomness="different")
                gradients: dict[str, Tensor] = each(own, *samples)
                return gradients
            except RuntimeError as error:
                if type(error) not in _OF_A_MODEL:
                    raise
            # It cannot do branches by values, sparse gradients, some of torch's recurrent layers.
            self._maps = False
        leaves = {name: p.requires_grad_() for name, p in own.items()}
        found = []
        try:
            with torch.enable_grad():
                for one in zip(*samples, strict=True):
                    result = value(leaves, *one)
                    self._check_open(result, leaves)
                    slopes = torch.autograd.grad(
                        result, list(leaves.values()), materialize_grads=True
                    )
                    dense = (slope.to_dense() if slope.is_sparse else slope for slope in slopes)
                    found.append(dict(zip(leaves, dense, strict=True)))
        except RuntimeError as error:
            if type(error) not in _OF_A_MODEL:
                raise
            raise RuntimeError(
                f"clfast::{self._op}: the model fails on a sample alone, of which the gradient by "
                f"{', '.join(own)} is needed: {error}"
            ) from error
        return {name: torch.stack([each[name] for each in found]) for name in own}

    @staticmethod
    def _check_open(result: Tensor, leaves: dict[str, Tensor]) -> None:
        """A function of somebody's own may use parameters that are no arguments of it, as those in
        reentrant checkpoints: autograd.grad would take their gradient for 0."""
        nodes, uses = graph_of(result)
        own = [node for node in nodes if isinstance(node, BackwardCFunction)]
        for name, leaf in leaves.items():
            if own and not uses[id(leaf)]:
                raise RuntimeError(
                    f"{type(own[0]).__name__} may hide what {name} does; checkpoints must be made "
                    "with use_reentrant=False"
                )

    def _run(self, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        outputs: Tensor = called(self._network, {**tensors, **self._buffers()}, x)
        return outputs

    @torch.no_grad()
    def _last(self) -> Tensor:
        return self._run({}, self._x[-1:])

    def _constants(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self._network.named_parameters()}

    def _buffers(self) -> dict[str, Tensor]:
        """Copies: what a layer writes is dropped."""
        return {name: buffer.clone() for name, buffer in self._network.named_buffers()}

    def _zeros(self, name: str) -> Tensor:
        parameter = self._parameters[name].detach()
        return torch.zeros_like(parameter, dtype=_check.compute_dtype(parameter))


def _near(alone: Any, together: Tensor) -> bool:
    """Whether a sample alone gives what it gives in a batch, up to what orders of sums, and TF32 on
    CUDA, make of products. Too strict a look costs time, too lax a one the right result."""
    if not isinstance(alone, Tensor) or alone.shape != together.shape:
        return False
    with torch.no_grad():
        tolerance = torch.finfo(together.dtype).eps ** 0.5
        if together.is_cuda and together.dtype == torch.float32:
            tolerance = max(tolerance, 1e-2)
        if not together.numel():
            return True
        largest = torch.linalg.vector_norm
        return bool(largest(alone - together, math.inf) <= tolerance * largest(together, math.inf))
