"""Perceptrons on few samples against autograd through `nn.Linear` and `nn.ReLU` in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from sizes import TAILS
from torch import Tensor, nn

import clfast.ops  # noqa: F401 - loads the library

perceptron_logits = torch.ops.clfast.perceptron_logits
perceptron_gradient = torch.ops.clfast.perceptron_gradient


def networks_of(
    sizes: tuple[int, ...], count: int, *, bias: bool = True, dtype: torch.dtype = torch.float64
) -> list[nn.Sequential]:
    def layers() -> Iterator[nn.Module]:
        for at, shape in enumerate(pairwise(sizes)):
            if at:
                yield nn.ReLU()
            yield nn.Linear(*shape, bias=bias)

    return [nn.Sequential(*layers()).to(dtype) for _ in range(count)]


def lists_of(networks: list[nn.Sequential]) -> tuple[list[Tensor], list[Tensor | None]]:
    layers = [layer for network in networks for layer in network if isinstance(layer, nn.Linear)]
    biases: list[Any] = [layer.bias for layer in layers]
    return (
        [layer.weight.detach() for layer in layers],
        [None if bias is None else bias.detach() for bias in biases],
    )


def assert_equals_autograd(
    networks: list[nn.Sequential], samples: int, dtype: torch.dtype = torch.float64
) -> None:
    weights, biases = lists_of(networks)
    x = torch.randn(samples, weights[0].shape[1]).to(dtype)
    classes = weights[-1].shape[0]
    grads = [torch.randn(samples, classes).to(dtype) for _ in networks]
    logits, hidden = perceptron_logits(x, weights, biases, len(networks))
    found = perceptron_gradient(grads, weights, hidden)
    wide = x.double().requires_grad_()
    expected = [network.double()(wide) for network in networks]
    (by_x,) = torch.autograd.grad(expected, wide, [grad.double() for grad in grads])
    units = 64 * torch.finfo(found.dtype).eps
    for ours, theirs in zip([*logits, found], [*expected, by_x], strict=True):
        assert ours.is_contiguous()
        atol = units * max(1.0, float(theirs.detach().abs().amax())) if theirs.numel() else 0
        torch.testing.assert_close(ours.double(), theirs.detach(), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("size", TAILS)
def test_every_size(size: int, dtype: torch.dtype, simd_level: str) -> None:
    for sizes, samples in (((9, 6, 4), size), ((size, 7, 5, 3), 5), ((6, size, 4), 3)):
        assert_equals_autograd(networks_of(sizes, 2, dtype=dtype), samples, dtype)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(5, 4), (50, 70, 40, 10)])
def test_several_networks(sizes: tuple[int, ...], bias: bool, count: int) -> None:
    assert_equals_autograd(networks_of(sizes, count, bias=bias), 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    assert_equals_autograd(networks_of((20, 30, 5), 2, dtype=dtype), 7, dtype)


def test_no_samples() -> None:
    assert_equals_autograd(networks_of((5, 6, 4), 2), 0)


def test_layouts_do_not_matter() -> None:
    weights, biases = lists_of(networks_of((8, 9, 4), 2))
    x, grads = torch.randn(8, 5).double().t(), list(torch.randn(2, 4, 5).double().mT)
    logits, hidden = perceptron_logits(x, weights, biases, 2)
    other = [weight.t().contiguous().t() for weight in weights]
    again, _ = perceptron_logits(x.contiguous(), other, biases, 2)
    for first, second in zip(logits, again, strict=True):
        assert torch.equal(first, second)
    plain = perceptron_gradient([grad.contiguous() for grad in grads], weights, hidden)
    assert torch.equal(perceptron_gradient(grads, other, hidden), plain)


def test_threads_do_not_matter(simd_level: str) -> None:
    weights, biases = lists_of(networks_of((300, 200, 210, 10), 2, dtype=torch.float32))
    x, grads = torch.randn(10, 300), list(torch.randn(2, 10, 10))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            logits, hidden = perceptron_logits(x, weights, biases, 2)
            results.append([*logits, perceptron_gradient(grads, weights, hidden)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_rows_do_not_depend_on_one_another() -> None:
    """Nor does NaN go from one to the other; a unit of which it is keeps it."""
    weights, biases = lists_of(networks_of((20, 30, 4), 1, dtype=torch.float32))
    x = torch.randn(6, 20)
    x[2, 3] = torch.nan
    (logits,), hidden = perceptron_logits(x, weights, biases, 1)
    found = perceptron_gradient([torch.ones(6, 4)], weights, hidden)
    for row in range(6):
        (alone,), units = perceptron_logits(x[row : row + 1], weights, biases, 1)
        assert bool(logits[row].isnan().all()) == (row == 2)
        torch.testing.assert_close(logits[row], alone[0], rtol=0, atol=0, equal_nan=True)
        assert torch.equal(found[row], perceptron_gradient([torch.ones(1, 4)], weights, units)[0])


X, W, B = torch.zeros(5, 6), [torch.zeros(8, 6), torch.zeros(4, 8)], [torch.zeros(8), None]
G, H = [torch.zeros(5, 4)], [torch.zeros(1, 5, 8)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, W, B, 0), "weights must hold as many tensors for each of 0 networks, got 2"),
        ((X, [], [], 1), "weights must hold as many tensors for each of 1 networks, got 0"),
        ((X, [*W, W[0]], [*B, None], 2), "weights must hold as many .* of 2 networks, got 3"),
        ((X, [W[0][0]], [None], 1), r"every tensor of weights must be 2-D, got 1-D"),
        ((X, [W[0], W[0]], B, 1), r"weights\[1\] must have shape \[\., 8\], .* got \[8, 6\]"),
        ((X, [W[0], W[0][:3]], B, 2), r"weights\[1\] must have shape \[8, 6\], .* got \[3, 6\]"),
        ((X, [W[0], W[1].double()], B, 1), r"weights\[1\] is torch.float64 but weights\[0\] is"),
        ((X, W, B[:1], 1), "biases must hold 2 tensors, as weights does, got 1"),
        ((X, W, [None, B[0]], 1), r"biases\[1\] must have shape \[4\], got \[8\]"),
        ((X, W, [B[0].double(), None], 1), r"biases\[0\] is torch.float64"),
        ((X[0], W, B, 1), "x must be 2-D, got 1-D"),
        ((X[:, :5], W, B, 1), r"x must have shape \[5, 6\], got \[5, 5\]"),
        ((X.double(), W, B, 1), "x is torch.float64 but weights"),
    ],
)
def test_wrong_layers(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^clfast::perceptron_logits: {message}"):
        perceptron_logits(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], W, H), "weights must hold as many tensors for each of 0 networks, got 2"),
        (([G[0][0]], W, H), "every tensor of grads must be 2-D, got 1-D"),
        (([G[0].t()], W, H), r"every tensor of grads must have shape \[4, 4\], got \[4, 5\]"),
        (([G[0].double()], W, H), "a tensor of grads is torch.float64 but weights"),
        ((G, W, []), "hidden must hold 1 tensors, one behind each layer but the last, got 0"),
        ((G, W, [H[0][:, :4]]), r"a tensor of hidden must have shape \[1, 5, 8\], got \[1, 4, 8\]"),
        ((G, W, [H[0].double()]), "a tensor of hidden must be of dtype torch.float32"),
    ],
)
def test_wrong_gradients(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RuntimeError, match=f"^clfast::perceptron_gradient: {message}"):
        perceptron_gradient(*arguments)
