"""Output networks of more than one layer, adapted at each query.

Section 4.1 of the Hebb paper: with pixels as keys the output network f is the whole MLP. MbPA
adapts all its layers; the Hebbian update goes to the last one, where h_k is what neighbour k's
forward pass brings there (appendix B.2). Queries go through `torch.func` together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..ops import Neighbors
from ..ops.adaptation import Optimizer

# Bytes that the queries adapted together may take: their parameters, gradients, optimizer's state,
# and their neighbours' activations.
_BUDGET = 256 * 2**20


@dataclass(frozen=True)
class Update:
    """What happens to the network at each query; as in `clfast.ops.hebb_logits`.

    Attributes:
        steps, lr, optimizer, eps: of the MbPA update, on all layers.
        interpolation: E [C], of the last layer; the others take the MbPA update as it is.
        eta: learning rate of the Hebbian update.
        select: [C] bool, the classes with a Hebbian update; None: all.
        closeness: c_k [B, K]; None: 1 / (eps + squared distance).
    """

    steps: int
    lr: float
    optimizer: Optimizer
    eps: float
    interpolation: Tensor
    eta: float
    select: Tensor | None
    closeness: Tensor | None


def last_layer(head: nn.Linear | nn.Sequential) -> nn.Linear:
    """The layer that gives the logits."""
    layer = head if isinstance(head, nn.Linear) else head[-1]
    assert isinstance(layer, nn.Linear)
    return layer


def finite_bias(bias: Tensor) -> Tensor:
    """`bias` [C] to adapt, with the lowest finite number for -inf, which masks a class.

    Both give it probability 0 and no gradient, but the change of -inf would be -inf + inf, NaN.
    """
    return bias.clamp_min(torch.finfo(bias.dtype).min)


def adapted_logits(
    head: nn.Sequential,
    queries: Tensor,
    keys: Tensor,
    labels: Tensor,
    neighbors: Neighbors,
    update: Update,
) -> Tensor:
    """Logits [B, C] of the network adapted at each of the queries [B, d].

    keys [M, d] and labels [M] are the memory's. The network must be in eval mode, and none of its
    parameters changes.
    """
    parameters = {name: p.detach() for name, p in head.named_parameters()}
    # 16-bit numbers are adapted in float32, as those of a single layer are.
    dtype = torch.float64 if last_layer(head).weight.dtype == torch.float64 else torch.float32
    parameters = {name: p.to(dtype) for name, p in parameters.items()}
    if last_layer(head).bias is not None:
        name = f"{len(head) - 1}.bias"
        parameters[name] = finite_bias(parameters[name])
    widths = sum(p.shape[0] for p in parameters.values()) + queries.shape[1]
    numbers_each = 3 * sum(p.numel() for p in parameters.values())
    numbers_each += 3 * neighbors.indices.shape[1] * widths
    chunk = max(1, _BUDGET // (numbers_each * (8 if dtype == torch.float64 else 4)))
    update = replace(update, interpolation=update.interpolation.to(dtype))
    logits = [queries.new_empty(0, last_layer(head).out_features, dtype=dtype)]
    # Autograd may not keep inference tensors.
    with torch.inference_mode(False), torch.autocast(queries.device.type, enabled=False):
        for begin in range(0, len(queries), chunk):
            part = slice(begin, begin + chunk)
            rows = neighbors.indices[part]
            if update.closeness is None:
                closeness = 1 / (update.eps + neighbors.sq_distances[part])
            else:
                closeness = update.closeness[part]
            at = _Neighbourhood(keys[rows].to(dtype), labels[rows], closeness.to(dtype))
            logits.append(_logits(head, parameters, queries[part].to(dtype), at, update))
    found = torch.cat(logits)
    # Elsewhere the look would wait for the device.
    if found.device.type == "cpu" and bool(found.isnan().any()):
        raise RuntimeError(
            "clfast: the output network adapted at a query (MbPA, Hebb) gives NaN: look at lr and "
            "eta, and at the keys and the network's parameters"
        )
    return found


@dataclass(frozen=True)
class _Neighbourhood:
    keys: Tensor  # [B, K, d]
    labels: Tensor  # [B, K]
    closeness: Tensor  # [B, K], c_k


def _logits(
    head: nn.Sequential,
    parameters: dict[str, Tensor],
    queries: Tensor,
    at: _Neighbourhood,
    update: Update,
) -> Tensor:
    own = _adapted(head, parameters, at, update)
    body, last = head[:-1], last_layer(head)
    lower = {name: own[name] for name, _ in body.named_parameters()}
    buffers = dict(body.named_buffers())

    def brings(own_lower: dict[str, Tensor], query: Tensor) -> Tensor:
        hidden: Tensor = functional_call(body, (own_lower, buffers), (query[None],))
        return hidden[0]

    hidden = vmap(brings)(lower, queries) if lower else body(queries)  # [B, h]
    weight = f"{len(head) - 1}.weight"
    start = parameters[weight]
    base = F.linear(hidden, start)
    moved = (own[weight] @ hidden[:, :, None])[:, :, 0] - base
    if last.bias is not None:
        bias = f"{len(head) - 1}.bias"
        moved = moved + own[bias] - parameters[bias]
        base = base + last.bias.detach()  # where -inf has stayed
    logits = base + (1 - update.interpolation) * moved
    if update.eta == 0:
        return logits
    # Eq. 4 at the query: sum over N_i of c_k (<h_k, h> + 1), the 1 for the bias, over |N_i|.
    given = {name: parameters[name] for name in lower}
    free = functional_call(body, (given, buffers), (at.keys.flatten(0, 1),))
    free = free.unflatten(0, at.labels.shape)  # [B, K, h]
    share = 0.0 if last.bias is None else 1.0
    terms = at.closeness * ((free @ hidden[:, :, None])[:, :, 0] + share)
    sums = torch.zeros_like(logits).scatter_add_(1, at.labels, terms)
    counts = torch.zeros_like(logits).scatter_add_(1, at.labels, torch.ones_like(terms))
    rate = update.eta * update.interpolation
    if update.select is not None:
        rate = rate * update.select
    return logits + rate * sums / counts.clamp_min(1)


def _adapted(
    head: nn.Sequential, parameters: dict[str, Tensor], at: _Neighbourhood, update: Update
) -> dict[str, Tensor]:
    """The parameters of each query after its own steps on (1/K) sum_k c_k CE (Eq. 5)."""
    buffers = dict(head.named_buffers())

    def loss(own: dict[str, Tensor], keys: Tensor, labels: Tensor, closeness: Tensor) -> Tensor:
        logits: Tensor = functional_call(head, (own, buffers), (keys,))
        return (closeness * F.cross_entropy(logits, labels, reduction="none")).mean()

    own = {name: p.expand(len(at.labels), *p.shape).clone() for name, p in parameters.items()}
    start = 1.0 if update.optimizer == "rmsprop_tf" else 0.0
    squares = {name: torch.full_like(p, start) for name, p in own.items()}
    gradients = vmap(grad(loss))
    for _ in range(update.steps):
        found = gradients(own, at.keys, at.labels, at.closeness)
        with torch.no_grad():
            for name, gradient in found.items():
                _step(update, own[name], squares[name], gradient)
    return own


def _step(update: Update, parameter: Tensor, square: Tensor, gradient: Tensor) -> None:
    """One step of all queries' copies of a parameter; see `clfast.ops.mbpa_update`."""
    if update.optimizer == "rmsprop":
        square.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        parameter.addcdiv_(gradient, square.sqrt().add_(1e-8), value=-update.lr)
    elif update.optimizer == "rmsprop_tf":
        square.mul_(0.9).addcmul_(gradient, gradient, value=0.1)
        parameter.addcdiv_(gradient, (square + 1e-10).sqrt_(), value=-update.lr)
    else:
        parameter.sub_(gradient, alpha=update.lr)
