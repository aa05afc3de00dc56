"""LUCIR: its losses against loops, embeddings that stay, and how new ones begin."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from exemplar_learners import (
    PHASES,
    assert_same_models,
    cross_entropy,
    learner,
    learnt,
    network,
    optimizer_of,
    samples,
)
from torch import Tensor, nn

from clfast.methods import LUCIR, Phase, PhaseProgress


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum() / (one.norm() * other.norm())


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_step_by_hand(k: int) -> None:
    method = learnt("LUCIR", less_forget=3.0, ranking=0.6, margin=0.4, k=k)
    method.optimizer.state.clear()
    model, old = copy.deepcopy(method.model), copy.deepcopy(method.model).eval()
    (x, y), (past, labels) = samples([1, 2, 4], each=2, seed=4), samples([0, 3], seed=5)
    x, y = torch.cat([x, past]), torch.cat([y, labels])
    features, before = model.train().features(x), old.features(x).detach()
    weight, sigma = model.head.weight, model.head.sigma
    cosines = torch.stack([torch.stack([_cosine(f, w) for w in weight]) for f in features])
    own = cross_entropy(sigma * cosines, y.tolist(), [0, 1, 2, 3, 4])
    forgotten = torch.stack([1 - _cosine(f, b) for f, b in zip(features, before, strict=True)])
    ranked = []
    for row, label in zip(cosines, y.tolist(), strict=True):
        if label in (0, 3):
            hardest = sorted((row[c] for c in (1, 2, 4)), key=Tensor.item, reverse=True)[:k]
            ranked += [torch.clamp(0.4 - row[label] + other, min=0) for other in hardest]
    ranking = torch.stack(ranked).mean()
    loss = own + 3.0 * math.sqrt(2 / 3) * forgotten.mean() + 0.6 * ranking
    loss.backward()
    kept = weight[[0, 3]].detach().clone()
    optimizer_of(model).step()
    with torch.no_grad():
        weight[[0, 3]] = kept
    wanted = {"loss": own, "less_forget": forgotten.mean(), "ranking": ranking}
    found = method.observe(x, y)
    assert found == pytest.approx({name: value.item() for name, value in wanted.items()})
    assert_same_models(method.model, model)


def test_old_embeddings_stay_to_the_bit() -> None:
    method = learnt("LUCIR", phases=1)
    for number in (1, 2):
        before = method.model.head.weight.detach().clone()
        old = list(method.old_classes)
        method.fit_task([samples(PHASES[number], seed=number)])
        after = method.model.head.weight.detach()
        assert torch.equal(after[old], before[old])
        assert not (after[PHASES[number]] == before[PHASES[number]]).any()


def test_fine_tuning_trains_them_all() -> None:
    phase = Phase(epochs=1, batch=8, finetune_epochs=1)
    method = learnt("LUCIR", phases=1, phase=phase)
    before = method.model.head.weight.detach().clone()
    method.fit_task([samples(PHASES[1])])
    assert not (method.model.head.weight[[0, 3]] == before[[0, 3]]).all()


def test_new_embeddings_begin_as_means() -> None:
    method = learnt("LUCIR")
    old = copy.deepcopy(method.model).eval()
    x, y = samples(PHASES[2])
    length = float(sum(old.head.weight[c].detach().norm() for c in (0, 3))) / 2
    means = {}
    for label in PHASES[2]:
        rows = [old.features(image[None])[0] for image in x[y == label]]
        mean = torch.stack([f / f.norm() for f in rows]).mean(0)
        means[label] = (length * mean / mean.norm()).detach()
    seen = []

    class Watched(LUCIR):
        def _epoch(self, *arguments: object) -> dict[str, float]:
            seen.append(self.model.head.weight.detach().clone())
            return super()._epoch(*arguments)  # type: ignore[arg-type]

    method.__class__ = Watched
    method.fit_task([(x, y)])
    for label, mean in means.items():
        torch.testing.assert_close(seen[0][label], mean)
    torch.testing.assert_close(seen[0][4], old.head.weight[4])
    assert not torch.equal(seen[1], seen[0])


def test_a_cosine_head_is_needed() -> None:
    model = network()
    with pytest.raises(TypeError, match="LUCIR: head must be a CosineLinear, got Linear"):
        LUCIR(model.features, nn.Linear(6, 5), optimizer_of(model))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="LUCIR: k must be at least 1"):
        learner("LUCIR", k=0)


def test_epochs_are_told() -> None:
    told: list[PhaseProgress] = []
    learner("LUCIR").fit_task([samples([0, 1])], after_epoch=told.append)
    assert told == [PhaseProgress(0, 1, 2), PhaseProgress(0, 2, 2)]
