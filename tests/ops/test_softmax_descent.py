"""Descent on a linear head against autograd: a loss differentiated in every step, and through all
of them with create_graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import clfast
from clfast.ops import softmax_descent

# Fewer and more samples than twice the features: in their span, and in the weights.
SIZES = [(30, 40, 5), (30, 15, 5), (31, 15, 5), (90, 17, 10), (1, 3, 2), (3, 1, 1)]


def unrolled(
    features: Tensor, labels: Tensor, layer: list[Tensor], steps: int, lr: float
) -> list[Tensor]:
    """The parameters after autograd's own steps, still attached to all that they came from."""
    for _ in range(steps):
        loss = F.cross_entropy(F.linear(features, *layer), labels)
        grads = torch.autograd.grad(loss, layer, create_graph=True)
        layer = [p - lr * g for p, g in zip(layer, grads, strict=True)]
    return layer


def make(
    n: int, d: int, c: int, rng: torch.Generator, *, bias: bool, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, list[Tensor]]:
    features = torch.randn(n, d, generator=rng, dtype=dtype).requires_grad_()
    shapes = [(c, d), (c,)][: 1 + bias]
    layer = [torch.randn(s, generator=rng, dtype=dtype).requires_grad_() for s in shapes]
    return features, torch.randint(0, c, (n,), generator=rng), layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n", "d", "c"), SIZES)
@pytest.mark.parametrize("steps", [1, 2, 11])
def test_equals_unrolled_autograd(
    n: int, d: int, c: int, steps: int, bias: bool, simd_level: str, rng: torch.Generator
) -> None:
    features, labels, layer = make(n, d, c, rng, bias=bias)
    held_out = torch.randn(13, d, generator=rng, dtype=torch.float64)
    targets = torch.randint(0, c, (13,), generator=rng)
    values, slopes = [], []
    for trained in (
        unrolled(features, labels, layer, steps, 0.3),
        softmax_descent(features, labels, *layer, steps=steps, lr=0.3),
    ):
        parts = [t for t in trained if t is not None]
        loss = F.cross_entropy(F.linear(held_out, *parts), targets)
        values.append([t.detach() for t in parts])
        slopes.append(torch.autograd.grad(loss, [features, *layer]))
    for found in (values, slopes):
        for theirs, ours in zip(*found, strict=True):
            scale = max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10 * scale)


def test_steps_follow_one_another(rng: torch.Generator) -> None:
    features, labels, layer = make(20, 9, 4, rng, bias=True)
    with torch.no_grad():
        whole = softmax_descent(features, labels, *layer, steps=7, lr=0.5)
        half = softmax_descent(features, labels, *layer, steps=3, lr=0.5)
        rest = softmax_descent(features, labels, *half, steps=4, lr=0.5)
    for ours, theirs in zip(whole, rest, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_no_step_and_no_sample(rng: torch.Generator) -> None:
    features, labels, layer = make(6, 4, 3, rng, bias=True)
    found = softmax_descent(features, labels, *layer, steps=0, lr=0.5)
    grads = torch.autograd.grad(sum(t.sum() for t in found if t is not None), [features, *layer])
    assert all(torch.equal(a, b) for a, b in zip(found, layer, strict=True))
    assert all(a is not b for a, b in zip(found, layer, strict=True))
    assert torch.equal(grads[0], torch.zeros(6, 4, dtype=torch.float64))
    assert all(bool((g == 1).all()) for g in grads[1:])
    found = softmax_descent(features[:0], labels[:0], *layer, steps=3, lr=0.5)
    assert all(torch.equal(a, b) for a, b in zip(found, layer, strict=True))


def test_gradients_by_some_of_the_arguments(rng: torch.Generator) -> None:
    features, labels, (weight, bias) = make(12, 5, 3, rng, bias=True)
    trained, _ = softmax_descent(features, labels, weight.detach(), bias.detach(), steps=3, lr=0.4)
    (alone,) = torch.autograd.grad(trained.square().sum(), features)
    trained, shift = softmax_descent(features, labels, weight, bias, steps=3, lr=0.4)
    together = torch.autograd.grad(trained.square().sum(), [features, weight, bias])
    assert torch.equal(alone, together[0])
    assert shift is not None
    # Of the bias alone, nothing is added by a loss that does not look at the weights.
    by_bias = torch.autograd.grad(
        softmax_descent(features, labels, weight, bias, steps=3, lr=0.4)[1].sum(), bias
    )
    torch.testing.assert_close(by_bias[0], torch.ones(3, dtype=torch.float64))


def test_gradients_have_the_dtype_of_what_they_are_by(rng: torch.Generator) -> None:
    features, labels, layer = make(8, 5, 3, rng, bias=True, dtype=torch.bfloat16)
    trained, shift = softmax_descent(features, labels, *layer, steps=2, lr=0.5)
    assert trained.dtype == torch.float32
    assert shift is not None
    (trained.sum() + shift.sum()).backward()
    assert all(t.grad is not None and t.grad.dtype == t.dtype for t in (features, *layer))


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_steps_that_diverge(backend: Any, rng: torch.Generator) -> None:
    features, labels, layer = make(8, 5, 3, rng, bias=True)
    with clfast.backend(backend):
        with pytest.raises(RuntimeError, match=r"the steps diverge: lr is too large for these fea"):
            softmax_descent(1e200 * features, labels, *layer, steps=4, lr=1e200)
        with pytest.raises(RuntimeError, match=r"clfast::softmax_descent: features holds NaN"):
            softmax_descent(torch.nan * features, labels, *layer, steps=2, lr=0.1)


def test_second_derivatives_raise_by_name(rng: torch.Generator) -> None:
    features, labels, layer = make(8, 5, 3, rng, bias=True)
    trained, _ = softmax_descent(features, labels, *layer, steps=2, lr=0.5)
    (slope,) = torch.autograd.grad(trained.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match=r"clfast::softmax_descent: has no second derivative"):
        slope.sum().backward()


def test_transforms_of_torch_func_get_plain_pytorch(rng: torch.Generator) -> None:
    features, labels, layer = make(8, 5, 3, rng, bias=True)
    weight, bias = (t.detach() for t in layer)

    def loss(x: Tensor) -> Tensor:
        return softmax_descent(x, labels, weight, bias, steps=3, lr=0.5)[0].square().sum()

    wanted = torch.autograd.grad(loss(features), features)[0]
    torch.testing.assert_close(torch.func.grad(loss)(features.detach()), wanted)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiles_with_its_gradient(rng: torch.Generator) -> None:
    features, labels, layer = make(8, 5, 3, rng, bias=True)

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return softmax_descent(x, labels, weight, bias, steps=3, lr=0.5)[0].square().sum()

    wanted = torch.autograd.grad(loss(features, *layer), [features, *layer])
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(features, *layer), [features, *layer])
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.compiler.reset()


def test_the_reference_has_the_same_gradients(rng: torch.Generator) -> None:
    features, labels, layer = make(14, 5, 3, rng, bias=True)
    found = []
    for name in ("compiled", "reference"):
        with clfast.backend(name):
            trained, shift = softmax_descent(features, labels, *layer, steps=4, lr=0.5)
        assert shift is not None
        found.append(torch.autograd.grad(trained.exp().sum() + shift.sum(), [features, *layer]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_large_logits_do_not_overflow() -> None:
    features = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    labels, weight = torch.tensor([0, 1]), torch.tensor([[1.0], [-1.0]])
    trained, _ = softmax_descent(features, labels, weight, steps=3, lr=0.1)
    assert torch.equal(trained, weight)  # both are certain already
    trained.sum().backward()
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())
