"""What a call costs before and after its kernel: every op on an empty batch, where the kernel has
nothing to do; through the public function, and straight into PyTorch's dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from clfast import ops

from ..case import Case, Variant, Work, tensors
from ._adaptation_inputs import Adaptation, Sizes, make

SIZES = Sizes(B=1, K=7, d=33, C=5, M=103)
OPTIONS: dict[str, Any] = {"steps": 5, "lr": 0.1, "optimizer": "rmsprop", "eps": 1e-3}


class Empty(NamedTuple):
    x: Adaptation  # with no query
    labels: Tensor  # [0]
    present: Tensor  # [1]
    images: Tensor  # [0, 1, 1, 1]


class Arguments(NamedTuple):
    """Of one op."""

    positional: tuple[Any, ...]
    keywords: dict[str, Any]  # of the public function
    straight: tuple[Any, ...]  # all that the dispatcher takes


def _empty(generator: Generator) -> Empty:
    x = make(generator, SIZES)
    batch = type(x.batch)(*(part[:0] for part in x.batch))
    labels = x.memory.labels
    images = x.memory.keys[:0, :1, None, None]
    return Empty(x._replace(batch=batch), labels[:0], labels[:1], images)


def _case(op: str, arguments: Callable[[Empty], Arguments]) -> Case:
    public, overload = getattr(ops, op), getattr(torch.ops.clfast, op).default

    def shapes(output: Any) -> list[torch.Size]:
        return [part.shape for part in tensors(output)]

    return Case(
        op=op,
        size={"batch": "empty batch"},
        inputs=_empty,
        oracle=lambda x: shapes(overload(*arguments(x).straight)),
        # The public function may leave out what stands behind its results.
        error=lambda output, expected, _: float(shapes(output) != expected[: _count(output)]),
        tolerance=0.0,
        work=lambda _: Work(0, 0),
        variants=(
            Variant(
                "clfast",
                "clfast",
                lambda positional, keywords: public(*positional, **keywords),
                lambda x: arguments(x)[:2],
            ),
            Variant(
                "clfast, straight into the dispatcher",
                "clfast",
                lambda given: overload(*given),
                lambda x: (arguments(x).straight,),
            ),
        ),
    )


def _count(output: Any) -> int:
    return len(list(tensors(output)))


def _knn(given: Empty) -> Arguments:
    x, norms = given.x, given.x.memory.key_sq_norms
    searched = (x.batch.queries, x.memory.keys, 7)
    return Arguments(searched, {"key_sq_norms": norms}, (*searched, norms, None, None))


def _class_means(given: Empty) -> Arguments:
    samples = (given.x.batch.queries, given.labels, 5)
    return Arguments(samples, {}, (*samples, True))


def _nearest_class_mean(given: Empty) -> Arguments:
    features = (given.x.batch.queries, given.x.layer.weight)
    return Arguments(features, {}, (*features, "euclidean"))


def _interpolation_weights(given: Empty) -> Arguments:
    return Arguments((given.labels, 0.5), {}, (given.labels, 0.5, torch.float32))


def _neighbourhood(x: Adaptation) -> tuple[tuple[Any, ...], tuple[Tensor, ...]]:
    """keys, labels and neighbours, as the public functions take them and as the dispatcher does."""
    memory, found = x.memory[:2], (x.batch.sq_distances, x.batch.indices)
    return (*memory, ops.Neighbors(*found)), (*memory, *found)


def _hebbian_update(given: Empty) -> Arguments:
    public, straight = _neighbourhood(given.x)
    return Arguments((*public, 5), {}, (*straight, 5, OPTIONS["eps"], None, None))


def _mbpa_update(given: Empty) -> Arguments:
    public, straight = _neighbourhood(given.x)
    layer = given.x.layer
    return Arguments((*layer, *public), OPTIONS, (*layer, *straight, *OPTIONS.values(), None))


def _hebb_logits(given: Empty) -> Arguments:
    x = given.x
    public, straight = _neighbourhood(x)
    layer = (x.batch.queries, *x.layer)
    own = {"interpolation": x.interpolation, "eta": 0.5}
    kept = {"key_sq_norms": x.memory.key_sq_norms, "base_logits": x.batch.base_logits}
    return Arguments(
        (*layer, *public),
        {**own, **OPTIONS, **kept},
        (*layer, *straight, *own.values(), *OPTIONS.values(), None, *kept.values(), None),
    )


def _mixture_log_probs(given: Empty) -> Arguments:
    x = given.x
    public, straight = _neighbourhood(x)
    scores, norms = (x.batch.base_logits, x.batch.queries), x.memory.key_sq_norms
    own = {"theta": 1.0, "gamma": 0.1}
    return Arguments(
        (*scores, *public),
        {**own, "key_sq_norms": norms},
        (*scores, *straight, *own.values(), "normalized", norms),
    )


def _recall(given: Empty) -> Arguments:
    pair = (given.x.batch.base_logits, given.x.batch.base_logits, given.present)
    return Arguments(pair, {}, (*pair, 1.0, 1.0, 0.1, 16.0, 0.1, "ag", None))


def _divergence(given: Empty) -> Arguments:
    pair = (given.x.batch.base_logits, given.x.batch.base_logits)
    return Arguments(pair, {}, (*pair, "ag"))


def _soft_cross_entropy(given: Empty) -> Arguments:
    pair = (given.x.batch.base_logits, given.x.batch.base_logits)
    return Arguments(pair, {}, (*pair, 1.0, None))


def _image_prior(given: Empty) -> Arguments:
    return Arguments((given.images,), {}, (given.images, 1.0, 1.0, None, False))


def _total_variation(given: Empty) -> Arguments:
    return Arguments((given.images,), {}, (given.images, "squared", False))


def _recall_step(given: Empty) -> Arguments:
    options = {"lr": 1.0, "tv_weight": 1.0, "l2_weight": 1.0}
    pair = (given.images, given.images)
    return Arguments(pair, options, (*pair, *options.values(), None, False))


def _project_gradients(given: Empty) -> Arguments:
    lists = ([given.images], [given.images])
    return Arguments(lists, {}, lists)


def _gem_project(given: Empty) -> Arguments:
    grads = (given.x.memory.key_sq_norms[:0], given.images.reshape(0, 0), 0.5)
    return Arguments(grads, {}, grads)


def _quadratic_penalty(given: Empty) -> Arguments:
    lists = ([given.images], [given.images], [given.images])
    return Arguments(lists, {}, (*lists, False))


def _add_penalty_gradients(given: Empty) -> Arguments:
    lists = ([given.images], [given.images], [given.images], [given.images], 1.0)
    return Arguments(lists, {}, lists)


def _path_integral(given: Empty) -> Arguments:
    lists = ([given.images], [given.images], [given.images])
    return Arguments(lists, {}, (*lists, None))


def _layer(given: Empty) -> tuple[Tensor, Tensor]:
    """A weight, gradient or embedding, and its mask."""
    return given.images, given.images.bool()


def _masked_weight(given: Empty) -> Arguments:
    pair = (given.images, given.images, 3.0)
    return Arguments(pair, {}, (*pair, None))


def _mask_sparsity(given: Empty) -> Arguments:
    embedding, mask = _layer(given)
    lists = ([embedding], [mask], 3.0)
    return Arguments(lists, {}, (*lists, None, False))


def _masked_weights(given: Empty) -> Arguments:
    weight, mask = _layer(given)
    lists = ([weight], [weight], [mask], 3.0)
    return Arguments(lists, {}, (*lists, None))


def _masked_weights_gradients(given: Empty) -> Arguments:
    weight, mask = _layer(given)
    lists = ([weight], weight.new_ones(()), [weight], [weight], [mask])
    return Arguments((*lists, 3.0), {}, (*lists, None, 3.0, None))


def _block_gradients(given: Empty) -> Arguments:
    grad, mask = _layer(given)
    return Arguments(([grad], [mask]), {}, ([grad], [mask]))


def _compensate_embedding_gradients(given: Empty) -> Arguments:
    given_lists = ([given.images], [given.images], 3.0, 50.0)
    return Arguments(given_lists, {}, (*given_lists, "analytic", 50.0))


def _reserve(given: Empty) -> Arguments:
    embedding, mask = _layer(given)
    lists = ([mask], [embedding], 3.0)
    return Arguments(lists, {}, lists)


def _pack_mask(given: Empty) -> Arguments:
    _, mask = _layer(given)
    return Arguments((mask,), {}, (mask,))


def _unpack_mask(given: Empty) -> Arguments:
    packed = (given.labels.to(torch.uint8), [0])
    return Arguments(packed, {}, packed)


def _masked_sgd_step(given: Empty) -> Arguments:
    param, mask = _layer(given)
    lists = ([param], [param], [], [mask])
    return Arguments(lists, {"lr": 0.1}, (*lists, 0.1, 0.0, 0.0, 0.0, False, False, None))


def _masked_adam_step(given: Empty) -> Arguments:
    param, mask = _layer(given)
    lists = ([param], [param], [param], [param], [], [mask])
    options: tuple[Any, ...] = ([1], 0.1, [0.9, 0.999], 1e-8, 0.0, False, False, None)
    return Arguments(lists, {"steps": [1], "lr": 0.1}, (*lists, *options))


def _masked_grad_norm(given: Empty) -> Arguments:
    grad, mask = _layer(given)
    return Arguments(([grad], [mask]), {}, ([grad], [mask]))


def _distillation_loss(given: Empty) -> Arguments:
    pair = (given.x.batch.base_logits, given.x.batch.base_logits, 2.0)
    return Arguments(pair, {}, (*pair, "batchmean", False))


def _margin_ranking_loss(given: Empty) -> Arguments:
    samples = (given.x.batch.base_logits, given.labels, given.present)
    return Arguments(samples, {}, (*samples, 0.5, 2))


def _cosine_logits(given: Empty) -> Arguments:
    rows = (given.x.batch.queries, given.x.layer.weight, torch.tensor(2.0))
    return Arguments(rows, {}, rows)


def _bias_correct(given: Empty) -> Arguments:
    scale, shift = torch.tensor(0.5), torch.tensor(1.0)
    logits = (given.x.batch.base_logits, given.present, scale, shift)
    return Arguments(logits, {}, logits)


def _herding(given: Empty) -> Arguments:
    samples = (given.x.batch.queries, given.labels, 3)
    return Arguments(samples, {}, samples)


def _softmax_descent(given: Empty) -> Arguments:
    inputs = (given.x.batch.queries, given.labels, *given.x.layer)
    return Arguments(inputs, {"steps": 0, "lr": 0.1}, (*inputs, 0, 0.1))


CASES = [
    _case("knn", _knn),
    _case("class_means", _class_means),
    _case("nearest_class_mean", _nearest_class_mean),
    _case("hebbian_update", _hebbian_update),
    _case("mbpa_update", _mbpa_update),
    _case("hebb_logits", _hebb_logits),
    _case("interpolation_weights", _interpolation_weights),
    _case("mixture_log_probs", _mixture_log_probs),
    _case("recall_loss", _recall),
    _case("recall_gradients", _recall),
    _case("divergence", _divergence),
    _case("soft_cross_entropy", _soft_cross_entropy),
    _case("image_prior", _image_prior),
    _case("total_variation", _total_variation),
    _case("recall_step_", _recall_step),
    _case("project_gradients_", _project_gradients),
    _case("gem_project", _gem_project),
    _case("quadratic_penalty", _quadratic_penalty),
    _case("add_penalty_gradients_", _add_penalty_gradients),
    _case("path_integral_", _path_integral),
    _case("masked_weight", _masked_weight),
    _case("mask_sparsity", _mask_sparsity),
    _case("masked_weights", _masked_weights),
    _case("masked_weights_gradients", _masked_weights_gradients),
    _case("block_gradients_", _block_gradients),
    _case("compensate_embedding_gradients_", _compensate_embedding_gradients),
    _case("reserve_", _reserve),
    _case("pack_mask", _pack_mask),
    _case("unpack_mask", _unpack_mask),
    _case("masked_sgd_step_", _masked_sgd_step),
    _case("masked_adam_step_", _masked_adam_step),
    _case("masked_grad_norm", _masked_grad_norm),
    _case("distillation_loss", _distillation_loss),
    _case("margin_ranking_loss", _margin_ranking_loss),
    _case("cosine_logits", _cosine_logits),
    _case("bias_correct", _bias_correct),
    _case("herding", _herding),
    _case("softmax_descent", _softmax_descent),
]
