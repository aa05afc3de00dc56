"""The adaptation ops against loops written from the paper, one query at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import clfast
from clfast.ops import (
    Neighbors,
    hebb_logits,
    hebbian_update,
    interpolation_weights,
    knn,
    mbpa_update,
    mixture_log_probs,
)

B, M, K, D, C = 4, 60, 11, 19, 6


class Problem:
    def __init__(self, dtype: torch.dtype = torch.float64, seed: int = 1) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.queries = torch.randn(B, D, generator=rng, dtype=dtype)
        self.keys = torch.randn(M, D, generator=rng, dtype=dtype)
        self.labels = torch.randint(0, C - 1, (M,), generator=rng)  # class C - 1 has no neighbour
        self.weight = torch.randn(C, D, generator=rng, dtype=dtype) / D**0.5
        self.bias = torch.randn(C, generator=rng, dtype=dtype)
        self.neighbors = knn(self.queries, self.keys, K)
        self.interpolation = torch.rand(C, generator=rng, dtype=dtype)

    def memory(self) -> tuple[Tensor, Tensor, Neighbors]:
        return self.keys, self.labels, self.neighbors


def mbpa_by_autograd(
    p: Problem, query: int, optimizer: str, steps: int, lr: float, bias: bool = True
) -> tuple[Tensor, Tensor]:
    """Eq. 5 as people write it: a copy of the layer, autograd and an optimiser of torch's."""
    weight = p.weight.clone().requires_grad_()
    shift = p.bias.clone().requires_grad_(bias)
    rows = p.neighbors.indices[query]
    closeness = 1 / (1e-3 + p.neighbors.sq_distances[query])
    parameters = [weight, shift] if bias else [weight]
    tf_average = [torch.ones_like(w) for w in parameters]
    rule: torch.optim.Optimizer
    if optimizer == "rmsprop":
        rule = torch.optim.RMSprop(parameters, lr=lr)
    else:
        rule = torch.optim.SGD(parameters, lr=lr)
    for _ in range(steps):
        logits = p.keys[rows] @ weight.T + (shift if bias else 0)
        losses = F.cross_entropy(logits, p.labels[rows], reduction="none")
        rule.zero_grad()
        (closeness * losses).mean().backward()
        if optimizer == "rmsprop_tf":
            for average, w in zip(tf_average, parameters, strict=True):
                assert w.grad is not None
                average.mul_(0.9).add_(0.1 * w.grad**2)
                w.grad.div_((average + 1e-10).sqrt())
        rule.step()
    return (weight - p.weight).detach(), (shift - p.bias).detach()


@pytest.mark.parametrize("optimizer", ["rmsprop", "rmsprop_tf", "sgd"])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_mbpa_update_is_an_optimiser_on_a_copy(optimizer: str, steps: int, simd_level: str) -> None:
    p = Problem()
    delta_weight, delta_bias = mbpa_update(
        p.weight, p.bias, *p.memory(), steps=steps, lr=0.03, optimizer=optimizer
    )
    for query in range(B):
        weight, bias = mbpa_by_autograd(p, query, optimizer, steps, 0.03)
        torch.testing.assert_close(delta_weight[query], weight, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(delta_bias[query], bias, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimizer", ["rmsprop", "rmsprop_tf", "sgd"])
def test_a_layer_without_bias_adapts_its_weights_only(optimizer: str, simd_level: str) -> None:
    p = Problem()
    delta_weight, delta_bias = mbpa_update(
        p.weight, None, *p.memory(), steps=3, lr=0.03, optimizer=optimizer
    )
    assert torch.equal(delta_bias, torch.zeros(B, C, dtype=torch.float64))
    p.bias.zero_()
    for query in range(B):
        weight, _ = mbpa_by_autograd(p, query, optimizer, 3, 0.03, bias=False)
        torch.testing.assert_close(delta_weight[query], weight, rtol=1e-9, atol=1e-11)
    weight_hebb, _ = hebbian_update(*p.memory(), C)
    logits = hebb_logits(
        p.queries,
        p.weight,
        None,
        *p.memory(),
        interpolation=p.interpolation,
        eta=0.7,
        steps=3,
        lr=0.03,
        optimizer=optimizer,
    )
    e = p.interpolation[:, None]
    adapted = p.weight + (1 - e) * delta_weight + e * 0.7 * weight_hebb
    torch.testing.assert_close(logits, (adapted @ p.queries[:, :, None])[:, :, 0])


def test_first_rmsprop_step_is_ten_learning_rates_of_the_sign() -> None:
    """torch's rule: v = 0.01 g^2, so the step is lr g / (0.1 |g|), whatever the scale of c_k."""
    p = Problem()
    delta_weight, _ = mbpa_update(p.weight, p.bias, *p.memory(), steps=1, lr=0.02)
    assert bool((delta_weight.abs() <= 0.2 + 1e-12).all())
    # eps = 1e-8 beside 0.1 |g| is felt by the smallest gradients only.
    assert delta_weight.abs().quantile(0.1) > 0.2 * (1 - 1e-3)


def hebb_by_loop(p: Problem, query: int, select: Tensor | None) -> tuple[Tensor, Tensor]:
    """Eq. 4."""
    weight, bias = torch.zeros_like(p.weight), torch.zeros_like(p.bias)
    rows = p.neighbors.indices[query].tolist()
    distances = p.neighbors.sq_distances[query].tolist()
    for i in range(C):
        members = [n for n, row in enumerate(rows) if p.labels[row] == i]
        if not members or (select is not None and not select[i]):
            continue
        for n in members:
            c = 1 / (1e-3 + distances[n])
            weight[i] += c * p.keys[rows[n]] / len(members)
            bias[i] += c / len(members)
    return weight, bias


@pytest.mark.parametrize("select", [None, torch.tensor([True, False, True, True, False, True])])
def test_hebbian_update_is_the_mean_of_its_class(select: Tensor | None, simd_level: str) -> None:
    p = Problem()
    delta_weight, delta_bias = hebbian_update(*p.memory(), C, select=select)
    for query in range(B):
        weight, bias = hebb_by_loop(p, query, select)
        torch.testing.assert_close(delta_weight[query], weight)
        torch.testing.assert_close(delta_bias[query], bias)


@pytest.mark.parametrize("optimizer", ["rmsprop", "rmsprop_tf", "sgd"])
@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("given", ["nothing", "norms", "base logits"])
@pytest.mark.parametrize("select", [None, torch.tensor([True, False, True, True, False, True])])
def test_hebb_logits_apply_both_updates(
    optimizer: str, steps: int, given: str, select: Tensor | None, simd_level: str
) -> None:
    p = Problem()
    more = {
        "nothing": {},
        "norms": {"key_sq_norms": p.keys.square().sum(1)},
        "base logits": {"base_logits": F.linear(p.queries, p.weight, p.bias)},
    }[given]
    logits = hebb_logits(
        *(p.queries, p.weight, p.bias, *p.memory()),
        interpolation=p.interpolation,
        eta=1.3,
        steps=steps,
        lr=0.03,
        optimizer=optimizer,
        select=select,
        **more,
    )
    for query in range(B):
        mbpa_w, mbpa_b = mbpa_by_autograd(p, query, optimizer, steps, 0.03)
        hebb_w, hebb_b = hebb_by_loop(p, query, select)
        e = p.interpolation
        weight = p.weight + (1 - e[:, None]) * mbpa_w + e[:, None] * 1.3 * hebb_w
        bias = p.bias + (1 - e) * mbpa_b + e * 1.3 * hebb_b
        torch.testing.assert_close(
            logits[query], weight @ p.queries[query] + bias, rtol=1e-9, atol=1e-9
        )


def test_interpolation_zero_is_mbpa_and_one_without_steps_is_hebb() -> None:
    p = Problem()
    zeros = torch.zeros(C, dtype=torch.float64)
    base = F.linear(p.queries, p.weight, p.bias)
    mbpa_w, mbpa_b = mbpa_update(p.weight, p.bias, *p.memory(), steps=2, lr=0.01)
    call = (p.queries, p.weight, p.bias, *p.memory())
    alone = hebb_logits(*call, interpolation=zeros, eta=1.0, steps=2, lr=0.01)
    wanted = base + (mbpa_w @ p.queries[:, :, None])[:, :, 0] + mbpa_b
    torch.testing.assert_close(alone, wanted)
    unchanged = hebb_logits(*call, interpolation=zeros, eta=1.0, steps=0, lr=0.0)
    torch.testing.assert_close(unchanged, base)
    hebb_w, hebb_b = hebbian_update(*p.memory(), C)
    alone = hebb_logits(*call, interpolation=zeros + 1, eta=0.5, steps=0, lr=0.0)
    wanted = base + 0.5 * ((hebb_w @ p.queries[:, :, None])[:, :, 0] + hebb_b)
    torch.testing.assert_close(alone, wanted)


def test_gram_form_of_gradient_descent_equals_the_direct_form() -> None:
    """K <= d iterates on coefficients, K > d on weights: the same update either way."""
    rng = torch.Generator().manual_seed(3)
    keys = torch.randn(50, 8, generator=rng, dtype=torch.float64)
    wide = F.pad(keys, (0, 32))  # the same problem with 32 features that are always 0
    labels = torch.randint(0, C, (50,), generator=rng)
    weight = torch.randn(C, 8, generator=rng, dtype=torch.float64)
    bias = torch.randn(C, generator=rng, dtype=torch.float64)
    neighbors = knn(keys[:3], keys, 20)
    direct, direct_bias = mbpa_update(
        weight, bias, keys, labels, neighbors, steps=6, lr=0.1, optimizer="sgd"
    )
    gram, gram_bias = mbpa_update(
        F.pad(weight, (0, 32)), bias, wide, labels, neighbors, steps=6, lr=0.1, optimizer="sgd"
    )
    torch.testing.assert_close(gram[:, :, :8], direct)
    torch.testing.assert_close(gram_bias, direct_bias)
    assert torch.equal(gram[:, :, 8:], torch.zeros(3, C, 32, dtype=torch.float64))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999999])
def test_interpolation_weights(beta: float) -> None:
    counts = torch.tensor([0, 1, 2, 10, 1000, 10**12])
    weights = interpolation_weights(counts, beta, dtype=torch.float64)
    n = counts[1:].double()
    wanted = torch.tensor([(1 - beta) / (1 - beta**x) for x in n.tolist()], dtype=torch.float64)
    torch.testing.assert_close(weights[1:], wanted, rtol=1e-9, atol=0)
    assert weights[:2].tolist() == [1.0, 1.0]
    assert abs(weights[-1].item() - (1 - beta)) < 1e-12
    assert interpolation_weights(counts, beta).dtype == torch.get_default_dtype()


@pytest.mark.parametrize("form", ["normalized", "joint"])
@pytest.mark.parametrize(("theta", "gamma"), [(0.5, 0.1), (2.0, 0.9), (1.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("norms", [False, True])
def test_mixture_is_equation_8(
    form: str, theta: float, gamma: float, norms: bool, simd_level: str
) -> None:
    p = Problem()
    logits = F.linear(p.queries, p.weight, p.bias)
    found = mixture_log_probs(
        *(logits, p.queries, *p.memory()),
        theta=theta,
        gamma=gamma,
        form=form,
        key_sq_norms=p.keys.square().sum(1) if norms else None,
    )
    for query in range(B):
        rows = p.neighbors.indices[query]
        near = (theta * (p.keys[rows] @ p.queries[query])).exp()
        own = logits[query].exp()
        if form == "normalized":
            near, own = near / near.sum(), own / own.sum()
        mass = torch.zeros(C, dtype=torch.float64).index_add_(0, p.labels[rows], near)
        total = (1 - gamma) * own + gamma * mass
        torch.testing.assert_close(found[query].exp(), total / total.sum())


@pytest.mark.parametrize("form", ["normalized", "joint"])
def test_mixture_does_not_overflow(form: str, simd_level: str) -> None:
    p = Problem(torch.float32)
    log_probs = mixture_log_probs(
        *(torch.randn(B, C), 300 * p.queries, p.keys, p.labels, p.neighbors),
        theta=30.0,
        gamma=0.3,
        form=form,
    )
    assert bool(log_probs.isfinite().all())
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(B))


def test_mixture_without_any_mass_is_minus_infinity() -> None:
    p = Problem()
    logits = torch.zeros(B, C, dtype=torch.float64)
    log_probs = mixture_log_probs(logits, p.queries, *p.memory(), theta=1.0, gamma=1.0)
    assert bool((log_probs[:, C - 1] == -math.inf).all())
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(B, dtype=torch.float64))


def test_bfloat16_keys_beside_float32_everything() -> None:
    p = Problem(torch.float32)
    keys = p.keys.bfloat16()
    neighbors = knn(p.queries, keys, K)
    arguments = {"interpolation": p.interpolation, "eta": 1.0, "steps": 2, "lr": 0.01}
    mixed = hebb_logits(p.queries, p.weight, p.bias, keys, p.labels, neighbors, **arguments)
    same = hebb_logits(p.queries, p.weight, p.bias, keys.float(), p.labels, neighbors, **arguments)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, same)


def test_an_infinite_distance_has_closeness_zero() -> None:
    p = Problem()
    far = Neighbors(p.neighbors.sq_distances.clone(), p.neighbors.indices)
    far.sq_distances[:, -1] = math.inf
    weight, bias = hebbian_update(p.keys, p.labels, far, C)
    assert bool(weight.isfinite().all())
    assert bool(bias.isfinite().all())


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_key_that_is_not_finite_reaches_its_class_alone(
    bad: float, backend: Any, simd_level: str
) -> None:
    p = Problem()
    near = [set(rows) for rows in p.neighbors.indices.tolist()]
    row, column = int(p.neighbors.indices[0, 0]), 5
    label = int(p.labels[row])
    with clfast.backend(backend):
        weight, bias = hebbian_update(*p.memory(), C)
        p.keys[row, column] = bad
        found, found_bias = hebbian_update(*p.memory(), C)
        others = torch.arange(C) != label
        select, select_bias = hebbian_update(*p.memory(), C, select=others)
    for query in range(B):
        if row in near[query]:
            assert not math.isfinite(found[query, label, column])
            found[query, label, column] = weight[query, label, column]
    assert torch.equal(found, weight)
    assert torch.equal(found_bias, bias)
    assert torch.equal(select, weight * others[:, None])
    assert torch.equal(select_bias, bias * others)
