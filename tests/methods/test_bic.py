"""BiC: what is kept apart, the correction, and the loss against loops."""

from __future__ import annotations

import copy

import pytest
import torch
from exemplar_learners import (
    PHASES,
    assert_same_models,
    cross_entropy,
    distillation,
    learner,
    learnt,
    optimizer_of,
    samples,
)
from torch import Tensor

from clfast.memory import ExemplarMemory
from clfast.methods import BiC


def _bic(phases: int, **options: object) -> BiC:
    method = learnt("BiC", phases, exemplars=ExemplarMemory(5), held_out=0.3, **options)
    assert isinstance(method, BiC)
    return method


def _corrected(logits: Tensor, method: BiC) -> Tensor:
    assert method.correction is not None
    rows = []
    for row in logits:
        values = [
            method.correction.scale * o + method.correction.shift
            if c in method.correction.classes
            else o
            for c, o in enumerate(row)
        ]
        rows.append(torch.stack(values))
    return torch.stack(rows)


def test_a_step_by_hand() -> None:
    method = _bic(2, temperature=1.5)
    assert method.correction is not None
    assert method.correction.classes == [4]
    method.optimizer.state.clear()
    model, old = copy.deepcopy(method.model), copy.deepcopy(method.model).eval()
    (x, y), (past, labels) = samples([1, 2], seed=4), samples([0, 3, 4], seed=5)
    x, y = torch.cat([x, past]), torch.cat([y, labels])
    logits, said = model.train()(x), _corrected(old(x).detach(), method)
    own = cross_entropy(logits, y.tolist(), [0, 1, 2, 3, 4])
    distilled = distillation(logits, said, [0, 3, 4], 1.5)
    (3 / 5 * distilled + 2 / 5 * own).backward()
    optimizer_of(model).step()
    found = method.observe(x, y)
    assert found == pytest.approx({"loss": own.item(), "distill": distilled.item()})
    assert_same_models(method.model, model)


def test_the_correction_by_hand() -> None:
    method = _bic(2, correction_epochs=40, correction_lr=0.2, shift_weight=0.3)
    logits = method.model.eval()(method.validation.x).detach()
    labels = method.validation.y.tolist()
    beta, gamma = torch.tensor(1.0).double(), torch.tensor(0.0).double()
    speed = [0.0, 0.0]
    lr = 0.2
    for epoch in range(40):
        if epoch in (12, 24, 32, 36):
            lr /= 10
        beta, gamma = beta.detach().requires_grad_(), gamma.detach().requires_grad_()
        rows = torch.stack([logits[:, 0], logits[:, 3], beta * logits[:, 4] + gamma], 1)
        places = [{0: 0, 3: 1, 4: 2}[label] for label in labels]
        loss = cross_entropy(rows, places, [0, 1, 2]) + 0.3 * gamma**2 / 2
        slopes = torch.autograd.grad(loss, [beta, gamma])
        speed = [0.9 * v + float(g) for v, g in zip(speed, slopes, strict=True)]
        beta, gamma = beta - lr * speed[0], gamma - lr * speed[1]
    assert method.correction is not None
    assert method.correction.scale == pytest.approx(float(beta.detach()))
    assert method.correction.shift == pytest.approx(float(gamma.detach()))
    x, _ = samples([0, 3, 4], seed=8)
    raw = method.model.eval()(x).detach()
    wanted = _corrected(raw, method)[:, [0, 3, 4]].log_softmax(1)
    torch.testing.assert_close(method.predict_log_proba(x)[:, [0, 3, 4]], wanted)


def test_what_is_kept_apart_is_never_trained_on() -> None:
    used: list[Tensor] = []

    class Watching(BiC):
        def _train_on(self, x: Tensor, *rest: object) -> dict[str, Tensor]:
            used.append(x)
            return super()._train_on(x, *rest)  # type: ignore[arg-type]

    method = learner("BiC", exemplars=ExemplarMemory(5), held_out=0.3)
    method.__class__ = Watching
    assert isinstance(method, BiC)
    for number, classes in enumerate(PHASES):
        task = samples(classes, seed=number)
        before = method.validation.x if len(method.validation) else torch.empty(0, 1, 5, 5)
        method.fit_task([task])
        held = method.validation.x
        assert torch.bincount(method.validation.y).unique().tolist() in ([2], [0, 2])
        assert torch.bincount(method.exemplars.y).unique().tolist() in ([3], [0, 3])
        for image in before:  # what was kept apart still is
            assert bool((held == image).flatten(1).all(1).any())
        for image in held:
            assert not bool((torch.cat(used) == image).flatten(1).all(1).any())
        new = held[torch.isin(method.validation.y, torch.tensor(classes))]
        for image in new:
            assert bool((task[0] == image).flatten(1).all(1).any())


def test_a_correction_is_of_the_classes_that_came_last() -> None:
    method = _bic(1)
    assert method.correction is None
    method.fit_task([samples(PHASES[1], seed=1)])
    assert method.correction is not None
    assert method.correction.classes == [4]
    method.fit_task([samples(PHASES[2], seed=2)])
    assert method.correction.classes == [1, 2]


def test_a_total_budget_is_shared_with_what_is_kept_apart() -> None:
    method = learner("BiC", exemplars=ExemplarMemory(total=15), held_out=0.3)
    assert isinstance(method, BiC)
    for number, classes in enumerate(PHASES):
        method.fit_task([samples(classes, each=9, seed=number)])
        assert len(method.exemplars) + len(method.validation) <= 15 + number * 2
    assert torch.bincount(method.validation.y).tolist() == [1] * 5
    assert torch.bincount(method.exemplars.y).tolist() == [2] * 5


def test_wrong_options() -> None:
    for options, message in (
        ({"held_out": 0.0}, "held_out must be finite and in"),
        ({"held_out": 1.0}, "held_out must be finite and in"),
        ({"correction_epochs": -1}, "correction_epochs must be at least 0"),
        ({"temperature": 0.0}, "temperature must be finite and in"),
    ):
        with pytest.raises(ValueError, match=f"BiC: {message}"):
            learner("BiC", **options)
