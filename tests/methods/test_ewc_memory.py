"""`EWCM`: its Fisher information, and what it keeps of tasks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_dgm import images, same, task
from torch import Tensor

from clfast.methods import EWCM
from clfast.nn import ConditionalGenerator, Critic

SMALL: dict[str, Any] = {
    "epochs": 1,
    "batch": 8,
    "width": 2,
    "noise": 5,
    "max_classes": 4,
    "critic_width": 3,
    "critic_steps": 1,
    "fisher_samples": 15,
    "strength": 4.0,
}


def fisher_by_loop(G: ConditionalGenerator, D: Critic, z: Tensor, y: Tensor) -> dict[str, Tensor]:
    """E (d (score + log P(c)) / d theta)^2, one image at a time."""
    found = {name: torch.zeros_like(p) for name, p in G.named_parameters()}
    for row in range(len(y)):
        G.zero_grad()
        score, logits = D(G(z[row : row + 1], y[row : row + 1]))
        probability = torch.exp(logits[0, y[row]]) / torch.exp(logits[0]).sum()
        (score[0] + torch.log(probability)).backward()
        for name, p in G.named_parameters():
            assert p.grad is not None
            found[name] += p.grad.square() / len(y)
    return found


def test_the_fisher_information_and_the_penalty_over_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two tasks, the first of two classes; the penalty and its gradient against the sum over
    tasks."""
    method = EWCM(**SMALL, dtype=torch.float64)
    tasks = []
    noise_begins: list[Tensor] = []
    whole = method._fisher

    def begun(classes: int) -> list[Tensor]:
        noise_begins.append(method._random.get_state())
        return whole(classes)

    monkeypatch.setattr(method, "_fisher", begun)
    for number, classes in enumerate(((0, 2), (1,))):
        method.fit_task(task(*classes))
        assert method.critic is not None
        G, D = copy.deepcopy(method.generator).eval(), copy.deepcopy(method.critic).eval()
        random = torch.Generator()
        random.set_state(noise_begins[number])
        positions = [0, 1] if number == 0 else [2]
        y = torch.tensor([p for p in positions for _ in range(15)])
        z = torch.randn(len(y), 5, generator=random, dtype=torch.float64)
        tasks.append((fisher_by_loop(G, D, z, y), dict(G.named_parameters())))
    for index, (name, _) in enumerate(method.generator.named_parameters()):
        total = sum(fisher[name] for fisher, _ in tasks)
        torch.testing.assert_close(method._importances[index], total)
    assert float(tasks[0][0]["scales.0"][2:].abs().max()) == 0  # of classes to come

    generator = torch.Generator().manual_seed(3)
    drift = [
        p.detach() + torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for p in method.generator.parameters()
    ]
    found, expected = [], []
    for at in (drift, [2 * p for p in drift]):
        with torch.no_grad():
            for p, value in zip(method.generator.parameters(), at, strict=True):
                p.copy_(value)
        penalty = method._generator_keeps(None)
        assert isinstance(penalty, Tensor)
        grads = torch.autograd.grad(penalty, list(method.generator.parameters()))
        leaves = [p.clone().requires_grad_() for p in at]
        plain = torch.zeros((), dtype=torch.float64)
        for fisher, end in tasks:
            for (name, f), leaf in zip(fisher.items(), leaves, strict=True):
                plain = plain + 4 / 2 * (f * (leaf - end[name].detach()) ** 2).sum()
        for one, other in zip(grads, torch.autograd.grad(plain, leaves), strict=True):
            torch.testing.assert_close(one, other)
        found.append(penalty.detach())
        expected.append(plain.detach())
    # The same up to a constant.
    torch.testing.assert_close(found[1] - found[0], expected[1] - expected[0])


def test_the_penalty_begins_with_the_second_task_and_holds_what_counted() -> None:
    moved, apart, first = [], [], []
    for strength in (0.0, 1e12):
        method = EWCM(**{**SMALL, "strength": strength, "epochs": 4, "lr": 0.01})
        method.fit_task(task(0))
        first.append(method.state_dict()["generator"])
        ends, importances = method._anchors, method._importances
        before = images(method, [0])
        method.fit_task(task(1))
        drift = [p.detach() - end for p, end in zip(method._learnt(), ends, strict=True)]
        moved.append(sum(float((f * d**2).sum()) for f, d in zip(importances, drift, strict=True)))
        apart.append(float((images(method, [0]) - before).abs().max()))
    assert same(first[0], first[1])
    assert moved[1] < 0.1 * moved[0]
    assert apart[1] < 0.5 * apart[0]


def test_old_images_have_the_statistics_of_their_task() -> None:
    method = EWCM(**SMALL)
    method.fit_task(task(0))
    before = images(method, [0])
    with torch.no_grad():
        for buffer in method.generator.buffers():
            buffer.add_(1)
    assert torch.equal(images(method, [0]), before)


def test_history_and_misuse() -> None:
    method = EWCM(**SMALL)
    method.fit_task(task(0))
    weights = sum(p.numel() for p in method.generator.parameters()) * 4
    # A mean and a variance for each of 8 + 4 + 2 channels, and a count for each of three layers.
    statistics = 2 * 14 * 4 + 3 * 8
    assert method.history[0]["bytes"] == {
        "weights": weights,
        "importances": 2 * weights,
        "statistics": statistics,
    }
    assert method.history[0]["widths"] == [8, 4, 2]
    with pytest.raises(ValueError, match=r"^EWCM: strength must"):
        EWCM(strength=-1)
    with pytest.raises(ValueError, match=r"^EWCM: fisher_samples must be at least 1"):
        EWCM(fisher_samples=0)
    state = method.state_dict()
    before = copy.deepcopy(state)
    state["importances"] = state["importances"][1:]
    with pytest.raises(ValueError, match="nothing was loaded"):
        method.load_state_dict(state)
    assert torch.equal(method._importances[0], before["importances"][0])
