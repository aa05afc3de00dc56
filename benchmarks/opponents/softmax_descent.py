"""What `softmax_descent` is measured against: the layer after all steps, and the gradients of a
loss of it by the features and by the initial layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clfast import ops

Layer = tuple[Tensor, Tensor]  # weight, bias
Found = tuple[Tensor, ...]  # the layer; gradients by features, weight and bias


def _leaves(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().requires_grad_() for t in tensors]


def by_clfast(
    features: Tensor, labels: Tensor, layer: Layer, grads: Layer, steps: int, lr: float
) -> Found:
    with torch.enable_grad():
        x, weight, bias = _leaves(features, *layer)
        trained = ops.softmax_descent(x, labels, weight, bias, steps=steps, lr=lr)
        return *trained, *torch.autograd.grad(trained, (x, weight, bias), grads)


def by_double_backward(
    features: Tensor, labels: Tensor, layer: Layer, grads: Layer, steps: int, lr: float
) -> Found:
    """A loss differentiated in every step, and autograd through all of them."""
    with torch.enable_grad():
        x, weight, bias = _leaves(features, *layer)
        trained = [weight, bias]
        for _ in range(steps):
            loss = F.cross_entropy(F.linear(x, *trained), labels)
            slopes = torch.autograd.grad(loss, trained, create_graph=True)
            trained = [p - lr * slope for p, slope in zip(trained, slopes, strict=True)]
        return *trained, *torch.autograd.grad(trained, (x, weight, bias), grads)


def by_residuals(
    features: Tensor, labels: Tensor, layer: Layer, grads: Layer, steps: int, lr: float
) -> Found:
    """Steps by P - Y, and autograd through them once."""
    with torch.enable_grad():
        x, weight, bias = _leaves(features, *layer)
        targets = F.one_hot(labels, len(weight)).to(x.dtype)
        w, b = weight, bias
        for _ in range(steps):
            residuals = (torch.addmm(b, x, w.T).softmax(1) - targets) / len(x)
            w, b = torch.addmm(w, residuals.T, x, alpha=-lr), b - lr * residuals.sum(0)
        return w, b, *torch.autograd.grad((w, b), (x, weight, bias), grads)


def by_hand(
    features: Tensor, labels: Tensor, layer: Layer, grads: Layer, steps: int, lr: float
) -> Found:
    """Both directions in closed form; the weights and predictions of every step are kept."""
    w, b = layer
    count = len(features)
    targets = F.one_hot(labels, len(w)).to(features.dtype)
    weights, predictions = [], []
    for _ in range(steps):
        weights.append(w)
        predictions.append(torch.addmm(b, features, w.T).softmax(1))
        residuals = (predictions[-1] - targets) / count
        w, b = torch.addmm(w, residuals.T, features, alpha=-lr), b - lr * residuals.sum(0)
    v, v_bias = grads
    by_features = torch.zeros_like(features)
    for before, p in zip(reversed(weights), reversed(predictions), strict=True):
        along = torch.addmm(v_bias, features, v.T) * (-lr / count)
        by_logits = p * (along - (p * along).sum(1, keepdim=True))
        by_features = torch.addmm(by_features, p - targets, v, alpha=-lr / count)
        by_features = torch.addmm(by_features, by_logits, before)
        v, v_bias = torch.addmm(v, by_logits.T, features), v_bias + by_logits.sum(0)
    return w, b, by_features, v, v_bias
