"""Penalty plugins against loops written from the papers' formulas in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from penalty_cases import (
    PLUGINS,
    Batch,
    Table,
    every_plugin,
    float64,
    network,
    parameters,
    pulled,
    tasks,
    train,
)
from torch import Tensor, nn

from clfast.plugins import EWC

# --- the papers' formulas -------------------------------------------------------------------------


def by_samples(
    model: nn.Module, batches: list[Batch], objective: Callable[[Tensor, Tensor], list[Tensor]]
) -> Iterator[list[Table]]:
    """Gradients of the objectives of each sample."""
    named = dict(model.named_parameters())
    for x, y in batches:
        for n in range(len(x)):
            found = []
            for value in objective(model(x[n : n + 1])[0], y[n]):
                grads = torch.autograd.grad(value, list(named.values()), retain_graph=True)
                found.append(dict(zip(named, grads, strict=True)))
            yield found


def fisher(model: nn.Module, batches: list[Batch], exact: bool = False) -> Table:
    def log_likelihoods(logits: Tensor, y: Tensor) -> list[Tensor]:
        log_p = logits.log_softmax(0)
        return list(log_p) if exact else [log_p[y]]

    total: Table = {}
    count = sum(len(x) for x, _ in batches)
    xs = [x for batch, _ in batches for x in batch]
    for x, found in zip(xs, by_samples(model, batches, log_likelihoods), strict=True):
        p = model(x[None]).detach().softmax(1)[0].tolist() if exact else [1.0]
        for weight, grads in zip(p, found, strict=True):
            for name, grad in grads.items():
                total[name] = total.get(name, 0) + weight * grad**2 / count
    return total


def mas(model: nn.Module, batches: list[Batch]) -> Table:
    total: Table = {}
    count = sum(len(x) for x, _ in batches)
    for (grads,) in by_samples(model, batches, lambda out, _: [(out**2).sum()]):
        for name, grad in grads.items():
            total[name] = total.get(name, 0) + grad.abs() / count
    return total


def by_the_papers(kind: str, model: nn.Module, given: list[list[Batch]], lr: float) -> list[Any]:
    """Trains; after each task its parameters, and the penalty's value and gradient elsewhere."""
    pulls: list[tuple[float, Table, Table]] = []  # factor, importances, anchors
    start, omega = parameters(model), {n: torch.zeros_like(p) for n, p in parameters(model).items()}
    of_fisher = copy.deepcopy(omega)
    scores, big = copy.deepcopy(omega), copy.deepcopy(omega)
    found = []

    def penalty(values: dict[str, Any]) -> Tensor:
        return sum(
            factor * sum((f[n] * (values[n] - anchors[n]) ** 2).sum() for n in f)
            for factor, f, anchors in pulls
        ) + torch.zeros((), dtype=float64)

    for batches in given:
        named = dict(model.named_parameters())
        for x, y in batches:
            losses = F.cross_entropy(model(x), y), penalty(named)
            task_grad = torch.autograd.grad(losses[0], list(named.values()), retain_graph=True)
            total_grad = torch.autograd.grad(losses[0] + losses[1], list(named.values()))
            of_path = total_grad if kind == "total SI" else task_grad
            for (name, p), g, w in zip(named.items(), total_grad, of_path, strict=True):
                delta = -lr * g
                omega[name] = omega[name] - w * delta
                p.data += delta
        now = parameters(model)
        moved = {n: now[n] - start[n] for n in now}
        if kind in ("EWC", "exact EWC"):
            pulls.append((15.0, fisher(model, batches, kind == "exact EWC"), now))
        elif kind == "OnlineEWC":
            fresh = fisher(model, batches)
            of_fisher = {n: 0.7 * of_fisher[n] + fresh[n] for n in fresh}
            pulls = [(15.0, {n: 0.7 * f for n, f in of_fisher.items()}, now)]
        elif kind in ("SI", "total SI"):
            big = {n: big[n] + omega[n] / (moved[n] ** 2 + 0.1) for n in big}
            pulls = [(2.0, big, now)]
        elif kind == "MAS":
            fresh = mas(model, batches)
            big = {n: big[n] + fresh[n] for n in big}
            pulls = [(3.0, big, now)]
        else:
            fresh = fisher(model, batches)
            of_fisher = {n: 0.5 * of_fisher[n] + 0.5 * fresh[n] for n in fresh}
            s = {n: (omega[n] / (of_fisher[n] * moved[n] ** 2 + 0.1)).clamp(min=0) for n in big}
            scores = {n: (scores[n] + s[n]) / 2 for n in s}
            pulls = [(5.0, {n: of_fisher[n] + scores[n] for n in s}, now)]
        start, omega = now, {n: torch.zeros_like(p) for n, p in now.items()}
        elsewhere = {n: (p + 0.3).requires_grad_() for n, p in now.items()}
        grads = torch.autograd.grad(penalty(elsewhere), list(elsewhere.values()))
        found.append((now, dict(zip(now, grads, strict=True))))
    return found


# --- the plugins ----------------------------------------------------------------------------------


@every_plugin
@pytest.mark.parametrize("how", ["after", "before"])
def test_trains_as_the_papers_say(name: str, how: str) -> None:
    """A pull that is a part of the loss, or added to gradients; after each of three tasks."""
    lr = 0.05
    wanted = by_the_papers(name, network(), tasks(), lr)
    model = network()
    plugin = PLUGINS[name](model)
    for task, batches in enumerate(tasks()):
        train(plugin, model, batches, lr, how)
        plugin.on_task_end(batches)
        now, pull = wanted[task]
        torch.testing.assert_close(parameters(model), now, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(pulled(plugin, model), pull, rtol=1e-8, atol=1e-10)
    assert plugin.tasks == 3
    assert any(float(p.abs().max()) > 1e-3 for p in wanted[-1][1].values())


@every_plugin
def test_nothing_pulls_in_the_first_task(name: str) -> None:
    model, plain = network(), network()
    plugin = PLUGINS[name](model)
    (batches,) = tasks(1)
    train(plugin, model, batches, 0.1)
    train(EWC(plain, strength=0.0), plain, batches, 0.1)
    torch.testing.assert_close(parameters(model), parameters(plain), rtol=0, atol=0)
    assert plugin.penalty() == 0
    loss = torch.ones(())
    assert plugin.before_backward(loss) is loss


@every_plugin
def test_the_penalty_is_differentiable_and_0_at_the_anchor_of_one_task(name: str) -> None:
    model = network()
    plugin = PLUGINS[name](model)
    (batches,) = tasks(1)
    train(plugin, model, batches, 0.1)
    plugin.on_task_end(batches)
    assert plugin.penalty().detach() == 0
    for p, name_ in zip(model.parameters(), parameters(model), strict=True):
        with torch.no_grad():
            p += 0.1
        (grad,) = torch.autograd.grad(plugin.penalty(), p)
        assert bool(grad.any()), name_


def test_where_a_task_finds_nothing_important_parameters_are_free() -> None:
    """The mean of anchors is the parameter as it is where F is 0, also once others are not."""
    model = nn.Linear(2, 2, bias=False).double()
    plugin = EWC(model, strength=2.0)
    nothing, y = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([0])
    plugin.on_task_end([(nothing, y)])
    with torch.no_grad():
        model.weight += 1.0
    state = plugin.state_dict()
    assert not state["importances"]["weight"][:, 1].any()
    plugin.on_task_end([(torch.tensor([[0.0, 1.0]]).double(), y)])
    state = plugin.state_dict()
    assert torch.equal(state["anchors"]["weight"][:, 1], model.weight.detach()[:, 1])
    torch.testing.assert_close(
        state["anchors"]["weight"][:, 0], model.weight.detach()[:, 0] - 1.0, rtol=0, atol=1e-15
    )
