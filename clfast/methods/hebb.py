"""Mixture, MbPA and Hebb: a classifier whose output layer adapts to the neighbours of a query.

Mi and Faltings, "Memory-based Hebbian Parameter Adaptation"; equation, table and section numbers
are that paper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .. import _arguments
from .._modes import evaluating
from ..memory import KeyValueMemory
from ..ops import Neighbors, hebb_logits, interpolation_weights, mixture_log_probs
from ..ops.adaptation import Optimizer
from . import checks
from .neighbours import NeighbourLearner
from .output_network import Update, adapted_logits, finite_bias
from .protocol import Batches

Form = Literal["normalized", "joint"]
Kernel = Literal["inverse", "normalized", "uniform"]


@dataclass(frozen=True)
class MixtureTerm:
    """A share of Mixture in the prediction of `MbPA` or `Hebb`.

    "Mixture+MbPA" and "Mixture+Hebb" of Table 4: P = w P_Mixture + (1 - w) P_Hebb, both from the
    same neighbours. Table 7 has w between 0.05 and 0.3.

    Attributes:
        weight: w, in [0, 1].
        theta, gamma, form: of Mixture, see there.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    weight: float
    theta: float = 1.0
    gamma: float = 0.1
    form: Form = "normalized"

    def __post_init__(self) -> None:
        where = type(self).__name__
        _arguments.real(self.weight, "weight", where, least=0, most=1)
        _check_mixture(self.theta, self.gamma, self.form, where)

    def blend(self, mixture: Tensor, scores: Tensor) -> Tensor:
        """Log-probabilities [B, C] of both.

        mixture [B, C] are Mixture's log-probabilities, scores [B, C] the other method's logits or
        log-probabilities.
        """
        other = scores.log_softmax(1)
        share = scores.new_tensor([self.weight, 1 - self.weight]).log()
        return torch.logaddexp(share[0] + mixture, share[1] + other)


class Mixture(NeighbourLearner):
    """The classifier's prediction mixed with the labels of the K nearest neighbours (Eq. 8).

    "Mixture" of section 4.2, after Grave et al. 2017 and Orhan 2018. Defaults are Table 6's for
    online adaptation with ResnetV1.

    Args:
        features, head, memory, base_optimizer: see `Parametric`; the memory is needed here.
        k: K >= 1; fewer while the memory holds fewer.
        theta: flatness of the neighbours' distribution.
        gamma: weight of the neighbours' part, in [0, 1].
        form: ``"normalized"`` mixes two distributions, as implementations of neural caches do;
            ``"joint"`` is Eq. 8 to the letter. See `clfast.ops.mixture_log_probs`.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Linear | nn.Sequential,
        memory: KeyValueMemory,
        *,
        k: int = 200,
        theta: float = 1.0,
        gamma: float = 0.1,
        form: Form = "normalized",
        base_optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        super().__init__(features, head, memory, k=k, base_optimizer=base_optimizer)
        _check_mixture(theta, gamma, form, type(self).__name__)
        self.theta = float(theta)
        self.gamma = float(gamma)
        self.form: Form = form

    def _adapted(
        self, queries: Tensor, base_logits: Tensor, neighbors: Neighbors, seen: Tensor
    ) -> Tensor:
        return _mixed(self, queries, base_logits, neighbors, self.memory)


def _check_mixture(theta: float, gamma: float, form: str, where: str) -> None:
    _arguments.real(theta, "theta", where)
    _arguments.real(gamma, "gamma", where, least=0, most=1)
    _arguments.one_of(form, get_args(Form), "form", where)


def _mixed(
    options: Mixture | MixtureTerm,
    queries: Tensor,
    base_logits: Tensor,
    neighbors: Neighbors,
    memory: KeyValueMemory,
) -> Tensor:
    return mixture_log_probs(
        *(base_logits, queries, memory.keys, memory.values, neighbors),
        theta=options.theta,
        gamma=options.gamma,
        form=options.form,
        key_sq_norms=memory.key_sq_norms,
    )


class MbPA(NeighbourLearner):
    """Memory-based parameter adaptation: gradient steps on the neighbours of each query (Eq. 5).

    Sprechmann et al. 2018, as the Hebb paper's section 3.3 has it: no pull towards the weights the
    adaptation starts from. Each query adapts the output layer on its own, or all layers of an
    output network, and the change is dropped after its prediction. A class that a bias of -inf
    masks keeps probability 0. Defaults are Table 6's for online adaptation with ResnetV1.

    Args:
        features, head, memory, base_optimizer: see `Parametric`; the memory is needed here.
        k: K >= 1; fewer while the memory holds fewer.
        eps: > 0, in the closeness c_k = 1 / (eps + ||h_x - h_k||^2) (Eq. 2); the paper gives none.
        kernel: ``"inverse"`` is Eq. 2; ``"normalized"`` divides it by its sum over the K
            neighbours; ``"uniform"`` is c_k = 1, nearness by choice of the neighbours alone.
        steps: gradient steps a query, >= 0.
        lr: lambda, their learning rate, >= 0.
        optimizer: of these steps, ``"rmsprop"`` (PyTorch's), ``"rmsprop_tf"`` (TensorFlow 1's) or
            ``"sgd"``; see `clfast.ops.mbpa_update`. The paper does not say which RMSprop; the first
            step of PyTorch's is 10 lr in every weight, that of TensorFlow's about lr g.
        mixture: Mixture's share of the prediction, see `MixtureTerm`; None: none.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Linear | nn.Sequential,
        memory: KeyValueMemory,
        *,
        k: int = 200,
        eps: float = 1e-3,
        steps: int = 5,
        lr: float = 1e-4,
        optimizer: Optimizer = "rmsprop",
        kernel: Kernel = "inverse",
        mixture: MixtureTerm | None = None,
        base_optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        super().__init__(features, head, memory, k=k, base_optimizer=base_optimizer)
        name = type(self).__name__
        # A key may equal the query: then eps alone keeps c_k finite.
        self.eps = _arguments.real(eps, "eps", name, least=0, open_ends="(")
        self.steps = _arguments.integer(steps, "steps", name, least=0)
        self.lr = _arguments.real(lr, "lr", name, least=0)
        _arguments.one_of(optimizer, get_args(Optimizer), "optimizer", name)
        self.optimizer: Optimizer = optimizer
        _arguments.one_of(kernel, get_args(Kernel), "kernel", name)
        self.kernel: Kernel = kernel
        if not isinstance(mixture, MixtureTerm | None):
            raise TypeError(
                f"{name}: mixture must be a MixtureTerm or None, got {type(mixture).__name__}"
            )
        self.mixture = mixture

    def _adapted(
        self, queries: Tensor, base_logits: Tensor, neighbors: Neighbors, seen: Tensor
    ) -> Tensor:
        logits = self._layer_logits(queries, base_logits, neighbors, seen)
        if self.mixture is None:
            return logits
        log_probs = _mixed(self.mixture, queries, base_logits, neighbors, self.memory)
        return self.mixture.blend(log_probs, logits)

    def _layer_logits(
        self, queries: Tensor, base_logits: Tensor, neighbors: Neighbors, seen: Tensor
    ) -> Tensor:
        """Logits [B, C] of the adapted layer."""
        none = base_logits.new_zeros(len(seen))
        return self._hebb_logits(queries, base_logits, neighbors, none, eta=0, select=None)

    def _closeness(self, neighbors: Neighbors) -> Tensor | None:
        """c_k [B, K] where it is not Eq. 2's."""
        distances = neighbors.sq_distances
        if self.kernel == "inverse":
            return None
        if self.kernel == "uniform":
            return torch.ones_like(distances)
        # Relative to the nearest: the sum is at least 1 and never overflows.
        nearest = distances[:, :1] + self.eps
        relative = nearest / (distances + self.eps)
        return relative / relative.sum(1, keepdim=True)

    def _hebb_logits(
        self,
        queries: Tensor,
        base_logits: Tensor,
        neighbors: Neighbors,
        interpolation: Tensor,
        *,
        eta: float,
        select: Tensor | None,
    ) -> Tensor:
        memory, head, closeness = self.memory, self.head, self._closeness(neighbors)
        if not isinstance(head, nn.Linear):
            update = Update(
                *(self.steps, self.lr, self.optimizer, self.eps, interpolation, eta, select),
                closeness,
            )
            with evaluating(head):
                return adapted_logits(head, queries, memory.keys, memory.values, neighbors, update)
        bias = head.bias
        return hebb_logits(
            queries,
            self._as_memory(head.weight),
            None if bias is None else finite_bias(self._as_memory(bias)),
            *(memory.keys, memory.values, neighbors),
            interpolation=interpolation,
            eta=eta,
            steps=self.steps,
            lr=self.lr,
            optimizer=self.optimizer,
            eps=self.eps,
            select=select,
            key_sq_norms=memory.key_sq_norms,
            base_logits=base_logits,
            closeness=closeness,
        )


class Hebb(MbPA):
    """MbPA and the Hebbian update of new classes, weighted by how often a class was seen (Eq. 7).

    Algorithm 1. For each query the output layer becomes W + (1 - E) dW_MbPA + E eta dW_Hebb, the
    bias likewise, with E_i = (1 - beta) / (1 - beta^n_i) for class i. n_i counts what was written
    to the memory, stored or not: ``memory.seen``; see ``counts``.

    Which classes are new? Those that pre-training did not show: all but the *base classes*. They
    are declared once, in one of three ways: the argument ``base_classes``; ``mark_base_classes``;
    or the first ``on_task_end``, which takes all classes written so far if nobody declared any.
    Until then no class is a base class, and every class counts as new. When all outputs of the
    head are base classes there is nothing new to learn, and the update goes to all classes, as in
    the paper's sections 4.1 and 4.4; so it does with ``hebb_on="all"`` (Hebb-v2 of Table 9).

    Defaults are Table 6's for online adaptation with ResnetV1.

    Args:
        features, head, memory, base_optimizer: see `Parametric`; the memory is needed here.
        k, eps, steps, lr, optimizer, kernel, mixture: see `MbPA`.
        beta: decay of E with n_i, in [0, 1).
        eta: learning rate of the Hebbian update.
        hebb_on: ``"new"`` or ``"all"``, which classes get a Hebbian update.
        base_classes: labels known from pre-training; None: declared later.
        counts: what n_i is: ``"seen"``, all that was ever written to the memory, or ``"stored"``,
            what it holds now, which a memory of limited size forgets.
        unseen_interpolation: E at n_i = 0, in [0, 1], where the formula is undefined. 1: a class
            without any sample keeps its weights; 0: MbPA moves it, as any wrong class.
        fixed_interpolation: E of every class, in [0, 1], in place of Eq. 7 (Hebb-v3 of Table 9,
            which gives no value); None: Eq. 7.

    The simplified versions of Table 9 are options: Hebb-v1 is ``steps=0, fixed_interpolation=1``,
    the Hebbian update alone; Hebb-v2 ``hebb_on="all"``; Hebb-v3 ``fixed_interpolation``;
    Hebb-250/500 a memory made with ``capacity=250`` or 500.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    def __init__(
        self,
        features: nn.Module,
        head: nn.Linear | nn.Sequential,
        memory: KeyValueMemory,
        *,
        k: int = 200,
        eps: float = 1e-3,
        beta: float = 0.5,
        eta: float = 1.5,
        steps: int = 5,
        lr: float = 1e-4,
        optimizer: Optimizer = "rmsprop",
        kernel: Kernel = "inverse",
        hebb_on: Literal["new", "all"] = "new",
        base_classes: Iterable[int] | None = None,
        counts: Literal["seen", "stored"] = "seen",
        unseen_interpolation: float = 1.0,
        fixed_interpolation: float | None = None,
        mixture: MixtureTerm | None = None,
        base_optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        super().__init__(
            *(features, head, memory),
            k=k,
            eps=eps,
            steps=steps,
            lr=lr,
            optimizer=optimizer,
            kernel=kernel,
            mixture=mixture,
            base_optimizer=base_optimizer,
        )
        name = type(self).__name__
        # At beta = 1 every E would be 0.
        self.beta = _arguments.real(beta, "beta", name, least=0, most=1, open_ends=")")
        self.eta = _arguments.real(eta, "eta", name)
        _arguments.one_of(hebb_on, ("new", "all"), "hebb_on", name)
        _arguments.one_of(counts, ("seen", "stored"), "counts", name)
        self.counts: Literal["seen", "stored"] = counts
        self.hebb_on = hebb_on
        self.unseen_interpolation = _arguments.real(
            unseen_interpolation, "unseen_interpolation", name, least=0, most=1
        )
        if fixed_interpolation is not None:
            fixed_interpolation = _arguments.real(
                fixed_interpolation, "fixed_interpolation", name, least=0, most=1
            )
        self.fixed_interpolation = fixed_interpolation
        self._base_classes: frozenset[int] | None = None
        if base_classes is not None:
            self.mark_base_classes(base_classes)

    @property
    def base_classes(self) -> tuple[int, ...]:
        """Labels declared as known from pre-training, ascending."""
        return tuple(sorted(self._base_classes or ()))

    def mark_base_classes(self, classes: Iterable[int] | None = None) -> None:
        """Declare classes as known from pre-training, beside those declared before.

        Args:
            classes: labels >= 0; None: all classes written to the memory so far.

        Raises:
            TypeError, ValueError: not integers, or negative.
        """
        where = f"{type(self).__name__}.mark_base_classes"
        if classes is None:
            classes = self.memory.seen(self.num_classes).nonzero().flatten().tolist()
        if not isinstance(classes, Iterable):
            raise TypeError(f"{where}: classes must be labels, got {type(classes).__name__}")
        marked = {_arguments.integer(label, "classes", where, least=0) for label in classes}
        self._base_classes = (self._base_classes or frozenset()) | marked

    def on_task_end(self, loader: Batches | None = None) -> None:
        """Write the samples of `loader`, if given; the first time, pre-training is over.

        Then all classes written so far are marked as base classes, if none were declared before.
        """
        super().on_task_end(loader)
        if self._base_classes is None:
            self.mark_base_classes()

    def state_dict(self) -> dict[str, Any]:
        """As `Parametric.state_dict`, and the base classes (None if not declared)."""
        declared = None if self._base_classes is None else list(self.base_classes)
        return {**super().state_dict(), "base_classes": declared}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As `Parametric.load_state_dict`, with the base classes."""
        where = f"{type(self).__name__}.load_state_dict"
        checks.check_mapping(state_dict, where)
        rest = dict(state_dict)
        if "base_classes" not in rest:
            raise ValueError(f"{where}: base_classes missing; nothing was loaded")
        declared = rest.pop("base_classes")
        try:
            labels = (
                None
                if declared is None
                else frozenset(
                    _arguments.integer(label, "base_classes", where, least=0) for label in declared
                )
            )
        except TypeError as error:
            raise ValueError(f"{where}: base_classes {error}; nothing was loaded") from error
        super().load_state_dict(rest)
        self._base_classes = labels

    def _layer_logits(
        self, queries: Tensor, base_logits: Tensor, neighbors: Neighbors, seen: Tensor
    ) -> Tensor:
        if self.fixed_interpolation is None:
            n = seen if self.counts == "seen" else self.memory.counts(len(seen))
            interpolation = interpolation_weights(n, self.beta, dtype=base_logits.dtype)
            interpolation = interpolation.masked_fill(n == 0, self.unseen_interpolation)
        else:
            interpolation = base_logits.new_full((len(seen),), self.fixed_interpolation)
        select = self._new_classes(len(seen), seen.device)
        return self._hebb_logits(
            queries, base_logits, neighbors, interpolation, eta=self.eta, select=select
        )

    def _new_classes(self, num_classes: int, device: torch.device) -> Tensor | None:
        """[C] bool, the classes with a Hebbian update; None for all."""
        known = [label for label in self.base_classes if label < num_classes]
        if self.hebb_on == "all" or not known or len(known) == num_classes:
            return None
        new = torch.ones(num_classes, dtype=torch.bool, device="cpu")
        new[known] = False
        return new.to(device)
