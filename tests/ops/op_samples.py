"""One sample maker for every op: what the checks that all ops share run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import consolidation_samples
import exemplar_loss_samples
import exemplar_samples
import mask_samples
import optimizer_samples
import recall_samples
import torch
from sizes import Sizes, randn
from torch import Tensor

from clfast import ops, reference
from clfast.ops import Neighbors, RoundedKeys

Maker = Callable[[Sizes, torch.dtype, torch.Generator], tuple[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True)
class OpCase:
    name: str
    make: Maker
    # What the rounding error is measured against where results are smaller than what they are
    # differences of: the weights for an update of weights, 1 for the log of a probability.
    scale: float = 0.0
    variant: str = ""
    # Its first so many arguments may require grad.
    differentiable_in: int = 0
    in_place: bool = False
    # The arguments that it changes then.
    changes: tuple[int, ...] = (0,)
    # Its results are as many as its input says: only the op beneath can be traced.
    traceable: bool = True

    @property
    def family(self) -> str:
        return next(
            name for name in reference.__all__ if hasattr(getattr(reference, name), self.name)
        )

    @property
    def op(self) -> Callable[..., Any]:
        """An op that changes arguments is called on copies of them, which are returned."""
        function: Callable[..., Any] = getattr(ops, self.name)
        return _on_copies(function, self.changes) if self.in_place else function

    @property
    def oracle(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(getattr(reference, self.family), self.name)
        return _on_copies(function, self.changes) if self.in_place else function

    @property
    def takes_lists(self) -> bool:
        """Lists of parameters and gradients are taken as they are."""
        args, _ = self.make(Sizes(), torch.float32, torch.Generator())
        return isinstance(args[0], list)

    def __str__(self) -> str:
        return f"{self.name} {self.variant}".rstrip()


def _on_copies(change: Callable[..., None], positions: tuple[int, ...]) -> Callable[..., Any]:
    def changed(*given: Any, **options: Any) -> list[Tensor]:
        at = enumerate(given)
        arguments = [map_tensors(a, Tensor.clone) if i in positions else a for i, a in at]
        change(*arguments, **options)
        return [tensor for i in positions for tensor in flat(arguments[i])]

    return changed


def flat(result: Any) -> list[Tensor]:
    if result is None:
        return []
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in flat(part)]


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Neighbors):
        return Neighbors(*(change(t) for t in value))
    if isinstance(value, RoundedKeys):
        return RoundedKeys(*(change(t) for t in value))
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(v, change) for v in value)
    if isinstance(value, dict):
        return {key: map_tensors(v, change) for key, v in value.items()}
    return value


def to_float64(value: Any) -> Any:
    return map_tensors(value, lambda t: t.double() if t.is_floating_point() else t)


def _memory(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    queries = randn(rng, s.batch, s.dim, dtype=dtype)
    keys = randn(rng, s.rows, s.dim, dtype=dtype)
    labels = torch.randint(0, s.classes, (s.rows,), generator=rng)
    return queries, keys, labels


def _neighbours(queries: Tensor, keys: Tensor, k: int) -> Neighbors:
    """True neighbours, from the float64 reference, rounded to the dtype of the arithmetic."""
    found = reference.retrieval.knn(queries.double(), keys.double(), k)
    dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
    return Neighbors(found.sq_distances.to(dtype), found.indices)


def _knn(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    queries, keys, _ = _memory(s, dtype, rng)
    return (queries, keys, min(s.k, s.rows)), {}


def _knn_with_norms(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    queries, keys, _ = _memory(s, dtype, rng)
    norms = keys.double().square().sum(1)
    return (queries, keys, min(s.k, s.rows)), {
        "key_sq_norms": norms if dtype == torch.float64 else norms.float()
    }


def _knn_of_rounded(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    queries, keys, _ = _memory(s, dtype, rng)
    rounded = None if dtype == torch.float64 else RoundedKeys.of(keys)
    return (queries, keys, min(s.k, s.rows)), {"rounded": rounded}


def _class_means(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    _, keys, labels = _memory(s, dtype, rng)
    # Away from the origin, where unit features of a class may cancel to nothing.
    return (keys + 2, labels, s.classes + 1), {}


def _nearest_class_mean(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    queries, keys, labels = _memory(s, dtype, rng)
    means = reference.retrieval.class_means(keys.double(), labels, s.classes + 1)
    return (queries, means.to(dtype)), {}


def _hebbian_update(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    queries, keys, labels = _memory(s, dtype, rng)
    select = torch.arange(s.classes) % 2 == 0
    neighbors = _neighbours(queries, keys, min(s.k, s.rows))
    return (keys, labels, neighbors, s.classes), {"select": select}


def _layer(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return (
        randn(rng, s.classes, s.dim, dtype=dtype) / s.dim**0.5,
        randn(rng, s.classes, dtype=dtype),
    )


def _mbpa_update(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    queries, keys, labels = _memory(s, dtype, rng)
    neighbors = _neighbours(queries, keys, min(s.k, s.rows))
    arguments = (*_layer(s, dtype, rng), keys, labels, neighbors)
    return arguments, {"steps": 3, "lr": 0.01, "optimizer": "rmsprop_tf"}


def _hebb_logits(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    queries, keys, labels = _memory(s, dtype, rng)
    neighbors = _neighbours(queries, keys, min(s.k, s.rows))
    counts = torch.bincount(labels, minlength=s.classes)
    return (queries, *_layer(s, dtype, rng), keys, labels, neighbors), {
        "interpolation": reference.adaptation.interpolation_weights(counts, 0.5).to(dtype),
        "eta": 0.7,
        "steps": 3,
        "lr": 0.01,
        "optimizer": "sgd",
        "select": torch.arange(s.classes) % 2 == 0,
    }


def _interpolation_weights(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    counts = torch.randint(0, 1000, (s.classes,), generator=rng)
    return (counts, 0.99), {"dtype": torch.float64 if dtype == torch.float64 else torch.float32}


def _mixture_log_probs(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
    queries, keys, labels = _memory(s, dtype, rng)
    neighbors = _neighbours(queries, keys, min(s.k, s.rows))
    logits = randn(rng, s.batch, s.classes, dtype=dtype)
    return (logits, queries, keys, labels, neighbors), {"theta": 0.4, "gamma": 0.2}


def _with_closeness(make: Maker) -> Maker:
    """The same with the closeness of a kernel of one's own."""

    def made(s: Sizes, dtype: torch.dtype, rng: torch.Generator) -> Any:
        args, kwargs = make(s, dtype, rng)
        distances = next(a for a in args if isinstance(a, Neighbors)).sq_distances
        return args, {**kwargs, "closeness": (-distances / s.dim).exp()}

    return made


CASES = [
    OpCase("knn", _knn),
    OpCase("class_means", _class_means),
    OpCase("nearest_class_mean", _nearest_class_mean),
    OpCase("hebbian_update", _hebbian_update),
    OpCase("mbpa_update", _mbpa_update, scale=2.0),
    OpCase("hebb_logits", _hebb_logits),
    OpCase("interpolation_weights", _interpolation_weights),
    OpCase("mixture_log_probs", _mixture_log_probs, scale=1.0),
    OpCase("hebbian_update", _with_closeness(_hebbian_update), variant="closeness"),
    OpCase("mbpa_update", _with_closeness(_mbpa_update), scale=2.0, variant="closeness"),
    OpCase("hebb_logits", _with_closeness(_hebb_logits), variant="closeness"),
    OpCase("knn", _knn_of_rounded, variant="rounded"),
    OpCase("recall_loss", recall_samples.recall_loss, scale=1.0, differentiable_in=2),
    OpCase("recall_gradients", recall_samples.recall_loss, scale=1.0),
    OpCase("recall_gradients", recall_samples.recall_loss_js, scale=1.0, variant="js"),
    OpCase("divergence", recall_samples.divergence, scale=1.0, differentiable_in=2),
    OpCase("soft_cross_entropy", recall_samples.soft_cross_entropy, differentiable_in=1),
    OpCase("image_prior", recall_samples.image_prior, differentiable_in=1),
    OpCase("total_variation", recall_samples.total_variation, differentiable_in=1),
    OpCase("recall_step_", recall_samples.recall_step_, in_place=True),
    OpCase("project_gradients_", consolidation_samples.opposed_gradients, in_place=True),
    OpCase(
        *("project_gradients_", consolidation_samples.agreeing_gradients),
        in_place=True,
        variant="agreeing",
    ),
    OpCase("gem_project", consolidation_samples.gem_project, scale=1.0),
    OpCase("gem_project", consolidation_samples.gem_project_agreeing, variant="agreeing"),
    OpCase("quadratic_penalty", consolidation_samples.quadratic_penalty),
    OpCase("add_penalty_gradients_", consolidation_samples.add_penalty_gradients, in_place=True),
    OpCase("path_integral_", consolidation_samples.path_integral, in_place=True),
    OpCase(
        *("path_integral_", consolidation_samples.path_integral_of_a_step),
        in_place=True,
        variant="of a step",
    ),
    OpCase("masked_weight", mask_samples.masked_weight, differentiable_in=2),
    OpCase("masked_weight", mask_samples.masked_by_units, differentiable_in=2, variant="units"),
    OpCase("mask_sparsity", mask_samples.mask_sparsity),
    OpCase("mask_sparsity", mask_samples.packed(mask_samples.mask_sparsity), variant="packed"),
    OpCase("masked_weights", mask_samples.masked_weights),
    OpCase("masked_weights_gradients", mask_samples.masked_weights_gradients, scale=4.0),
    OpCase("block_gradients_", mask_samples.block_gradients, in_place=True),
    OpCase(
        *("block_gradients_", mask_samples.packed(mask_samples.block_gradients)),
        in_place=True,
        variant="packed",
    ),
    OpCase("compensate_embedding_gradients_", mask_samples.compensate, in_place=True),
    OpCase("reserve_", mask_samples.reserve, in_place=True),
    OpCase("reserve_", mask_samples.reserve_packed, in_place=True, variant="packed"),
    OpCase("pack_mask", mask_samples.pack_mask),
    OpCase("unpack_mask", mask_samples.unpack_mask),
    OpCase("masked_sgd_step_", optimizer_samples.sgd, in_place=True, changes=(0, 2)),
    OpCase(
        *("masked_sgd_step_", optimizer_samples.sgd_nesterov),
        in_place=True,
        changes=(0, 2),
        variant="nesterov",
    ),
    OpCase("masked_sgd_step_", optimizer_samples.sgd_plain, in_place=True, variant="plain"),
    OpCase("masked_adam_step_", optimizer_samples.adam, in_place=True, changes=(0, 2, 3)),
    OpCase(
        *("masked_adam_step_", optimizer_samples.adam_amsgrad),
        in_place=True,
        changes=(0, 2, 3, 4),
        variant="amsgrad",
    ),
    OpCase("masked_grad_norm", optimizer_samples.grad_norm),
    OpCase(
        *("distillation_loss", exemplar_loss_samples.distillation_loss),
        scale=1.0,
        differentiable_in=1,
    ),
    OpCase(
        *("distillation_loss", exemplar_loss_samples.distillation_sum),
        scale=1.0,
        differentiable_in=1,
        variant="sum",
    ),
    OpCase(
        *("margin_ranking_loss", exemplar_loss_samples.margin_ranking_loss),
        scale=1.0,
        differentiable_in=1,
    ),
    OpCase("cosine_logits", exemplar_loss_samples.cosine_logits, differentiable_in=3),
    OpCase(
        *("cosine_logits", exemplar_loss_samples.cosine_logits_of_number),
        differentiable_in=2,
        variant="number",
    ),
    OpCase("bias_correct", exemplar_loss_samples.bias_correct, differentiable_in=4),
    OpCase(
        *("bias_correct", exemplar_loss_samples.bias_correct_by_numbers),
        differentiable_in=1,
        variant="numbers",
    ),
    OpCase("herding", exemplar_samples.herding, traceable=False),
    OpCase("herding", exemplar_samples.duplicates, traceable=False, variant="duplicates"),
    OpCase("softmax_descent", exemplar_samples.softmax_descent, scale=1.0, differentiable_in=4),
    OpCase(
        *("softmax_descent", exemplar_samples.without_bias),
        scale=1.0,
        differentiable_in=3,
        variant="no bias",
    ),
]
KNN_WITH_NORMS = OpCase("knn", _knn_with_norms)
