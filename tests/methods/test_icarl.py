"""iCaRL: its loss and its classifier against loops over samples and classes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from exemplar_learners import (
    CLASSES,
    assert_same_models,
    cross_entropy,
    distillation,
    learner,
    learnt,
    optimizer_of,
    samples,
)
from torch import Tensor, nn

from clfast.memory import ExemplarMemory
from clfast.methods import ICaRL, Phase


def _binary(logits: Tensor, said: Tensor, labels: list[int], old: list[int]) -> Tensor:
    """Algorithm 3: old outputs are targets of old classes, labels of the others."""
    terms = []
    for row, before, label in zip(logits, said, labels, strict=True):
        for c in (0, 3, 4):
            target = 1 / (1 + math.exp(-float(before[c]))) if c in old else float(c == label)
            p = 1 / (1 + (-row[c]).exp())
            terms.append(-(target * p.log() + (1 - target) * (1 - p).log()))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_a_step_by_hand(kind: Any) -> None:
    method = learnt("ICaRL", loss=kind, weight=0.7)
    method.optimizer.state.clear()
    model, old = copy.deepcopy(method.model), copy.deepcopy(method.model).eval()
    (x, y), (past, labels) = samples([4], seed=4), samples([0, 3], seed=5)
    x, y = torch.cat([x, past]), torch.cat([y, labels])
    logits, said = model.train()(x), old(x).detach()
    if kind == "sigmoid":
        loss = _binary(logits, said, y.tolist(), [0, 3])
        wanted = {"loss": loss.item()}
    else:
        own = cross_entropy(logits, y.tolist(), [0, 3, 4])
        distilled = distillation(logits, said, [0, 3], 2.0)
        loss = own + 0.7 * distilled
        wanted = {"loss": own.item(), "distill": distilled.item()}
    loss.backward()
    optimizer_of(model).step()
    assert method.observe(x, y) == pytest.approx(wanted)
    assert_same_models(method.model, model)


@pytest.mark.parametrize("mirror", [True, False])
def test_the_nearest_mean_by_hand(mirror: bool) -> None:
    method = learnt("ICaRL", phases=2, mirror=mirror)
    assert isinstance(method, ICaRL)
    features = copy.deepcopy(method.model.features).eval()
    means: dict[int, Tensor] = {}
    for label in (0, 3, 4):
        kept = [image for image, y in zip(method.exemplars.x, method.exemplars.y, strict=True)]
        kept = [i for i, y in zip(kept, method.exemplars.y.tolist(), strict=True) if y == label]
        parts = []
        for image in kept + [i.flip(2) for i in kept] * mirror:
            f = features(image[None])[0].detach()
            parts.append(f / f.norm())
        mean = torch.stack(parts).mean(0)
        means[label] = mean / mean.norm()
    x, _ = samples([0, 3, 4, 1], seed=6)
    wanted, scores = [], torch.full((len(x), CLASSES), -math.inf, dtype=torch.float64)
    for row, image in enumerate(x):
        f = features(image[None])[0].detach()
        f = f / f.norm()
        distances = {label: float((f - mean).square().sum()) for label, mean in means.items()}
        wanted.append(min(distances, key=lambda label: distances[label]))
        for label, distance in distances.items():
            scores[row, label] = -distance
    assert method.predict(x).tolist() == wanted
    torch.testing.assert_close(method.predict_log_proba(x), scores.log_softmax(1))
    torch.testing.assert_close(method.class_means()[3], means[3])
    assert not method.class_means()[1].any()


def test_means_follow_the_network() -> None:
    method = learnt("ICaRL")
    assert isinstance(method, ICaRL)
    means = method.class_means()
    state = method.state_dict()
    method.observe(*samples([4]))
    moved = method.class_means()
    assert not torch.equal(moved, means)
    method.load_state_dict(state)
    assert torch.equal(method.class_means(), means)
    method.on_task_end([samples([4])])
    assert method.class_means()[4].any()


def test_means_follow_what_others_do_to_the_learner() -> None:
    method = learnt("ICaRL")
    assert isinstance(method, ICaRL)
    means = method.class_means()
    with torch.no_grad():
        next(method.model.parameters()).mul_(-1)
    assert not torch.equal(method.class_means(), means)
    x, y = samples([4])
    method.exemplars.put(x, y)
    assert method.class_means()[4].any()
    method.model = copy.deepcopy(method.model)
    with torch.no_grad():
        next(method.model.parameters()).mul_(-1)
    torch.testing.assert_close(method.class_means()[:4], means[:4])


def test_features_may_be_maps_that_the_head_flattens() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).double()
        head = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).double()
    optimizer = torch.optim.SGD([*features.parameters(), *head.parameters()], lr=0.1)
    phase = Phase(epochs=1, batch=8)
    method = ICaRL(features, head, optimizer, exemplars=ExemplarMemory(2), phase=phase)
    x, y = samples([0, 1])
    method.fit_task([(x, y)])
    assert set(method.predict(x).tolist()) <= {0, 1}


def test_the_head_predicts_before_there_are_exemplars() -> None:
    method = learner("ICaRL")
    x, y = samples([0, 3])
    head = method.model.eval()(x)
    torch.testing.assert_close(method.predict_log_proba(x), head.log_softmax(1))
    assert torch.equal(method.predict(x), head.argmax(1))
    method.observe(x, y)
    assert set(method.predict(x).tolist()) <= {0, 3}
    assert isinstance(method, ICaRL)
    with pytest.raises(RuntimeError, match=r"ICaRL\.class_means: there are no exemplars"):
        method.class_means()


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="ICaRL: loss must be one of sigmoid, softmax"):
        learner("ICaRL", loss="hinge")
    with pytest.raises(TypeError, match="ICaRL: mirror must be True or False"):
        learner("ICaRL", mirror="no")
    method = learnt("ICaRL")
    with pytest.raises(ValueError, match=r"ICaRL\.predict: model cannot take x"):
        method.predict(torch.zeros(3, 7).double())
    spoiled, _ = samples([0])
    spoiled[1] = torch.nan
    with pytest.raises(ValueError, match=r"ICaRL\.predict: features of x hold NaN or Inf in row 1"):
        method.predict(spoiled)
