"""`Mnemonics` against loops written from the paper (section 4.3), and what it may not change."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from selections import CLASSES, images, mnemonics, network, seeded, unchanged
from torch import Tensor, nn

from clfast.methods.exemplar_selection import (
    Exemplars,
    Herding,
    RandomSelection,
)
from clfast.methods.mnemonics import Mnemonics, stratified


def logits(net: Any, params: dict[str, Tensor], x: Tensor) -> Tensor:
    """Of a network in eval mode, with other parameters."""
    for start in ("features", "head"):
        own = {n.removeprefix(f"{start}."): p for n, p in params.items() if n.startswith(start)}
        x = torch.func.functional_call(getattr(net, start), own, (x,))
    return x


def evaluated(net: Any) -> Any:
    return SimpleNamespace(
        features=copy.deepcopy(net.features).eval(), head=copy.deepcopy(net.head).eval()
    )


def parameters(net: Any, *parts: str) -> dict[str, Tensor]:
    found = {}
    for part in parts:
        for name, p in getattr(net, part).named_parameters():
            found[f"{part}.{name}"] = p.detach().clone().requires_grad_()
    return found


def outer_gradient(
    net: Any,
    e: Tensor,
    labels: Tensor,
    x: Tensor,
    y: Tensor,
    parts: tuple[str, ...],
    steps: int = 3,
) -> tuple[Tensor, Tensor]:
    """Eq. 8 and 9 by one graph; the inner learning rate is 0.2."""
    net, e = evaluated(net), e.clone().requires_grad_()
    params = parameters(net, *parts)
    for _ in range(steps):
        loss = F.cross_entropy(logits(net, params, e), labels)
        found = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {n: p - 0.2 * g for (n, p), g in zip(params.items(), found, strict=True)}
    loss = F.cross_entropy(logits(net, params, x), y)
    return loss.detach(), torch.autograd.grad(loss, e)[0]


def prototype_gradient(
    net: Any, e: Tensor, labels: Tensor, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Cosines of real features and of each class's mean of exemplar features, one after another."""
    e, features = e.clone().requires_grad_(), evaluated(net).features
    means = [features(e[labels == label]).mean(0) for label in labels.unique()]
    scores = torch.stack([F.cosine_similarity(features(x), mean[None]) for mean in means], 1)
    loss = F.cross_entropy(scores, y)
    return loss.detach(), torch.autograd.grad(loss, e)[0]


def gradient_of(objective: str, net: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
    if objective == "proto":
        return prototype_gradient(net, *given)
    parts = ("head",) if objective == "bop_fc" else ("features", "head")
    return outer_gradient(net, *given, parts)


OBJECTIVES = ("bop_full", "bop_fc", "proto")
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)


@every_objective
def test_select_is_descent_on_the_objective(objective: str) -> None:
    net, (x, y) = network(), images(9)
    init = "random"
    selection = mnemonics(objective, batch=5, init=init, halve_every=1, optimizer=torch.optim.SGD)
    with unchanged(net):
        found = selection.select(net, x, y, 2, generator=seeded())
    generator = seeded()
    start = RandomSelection().select(net, x, y, 2, generator=generator)
    e, losses = start.x.clone(), []
    for epoch in range(2):
        order = torch.randperm(9, generator=generator)
        mean = []
        for rows in (order[:5], order[5:]):
            loss, gradient = gradient_of(objective, net, e, start.y, x[rows], y[rows])
            e = e - 0.5**epoch * gradient
            mean.append(float(loss))
        losses.append(sum(mean) / 2)
    torch.testing.assert_close(found.x, e, rtol=1e-10, atol=1e-12)
    assert torch.equal(found.y, start.y)
    assert selection.select_losses == pytest.approx(losses, rel=1e-10)
    assert not torch.equal(found.x, start.x)


@pytest.mark.parametrize("objective", ["bop_full", "bop_fc"])
def test_other_forms_of_inner_training(objective: str) -> None:
    """Momentum, first order and inner batches give other exemplars, and none fails."""
    net, (x, y) = network(), images()
    found = [
        mnemonics(objective, **options).select(net, x, y, 2, generator=seeded()).x
        for options in (
            {},
            {"inner_momentum": 0.9},
            {"first_order": True},
            {"inner_batch": 4},
            {"batch_norm": "batch"},
            {"optimizer": torch.optim.Adam, "lr": 0.01},
            {"batches": 1},
            {"init": "herding"},
        )
    ]
    for i, each in enumerate(found):
        assert all(not torch.allclose(each, other) for other in found[:i])
    sparse = mnemonics(objective, checkpoint_every=2).select(net, x, y, 2, generator=seeded()).x
    torch.testing.assert_close(sparse, found[0])


def test_batch_statistics_are_those_of_exemplars_and_of_real_images() -> None:
    net, (x, y) = network(), images(9)
    selection = mnemonics("bop_fc", epochs=1, batch_norm="batch", batch=9)
    with unchanged(net):
        found = selection.select(net, x, y, 2, generator=seeded())
    generator = seeded()
    start = RandomSelection().select(net, x, y, 2, generator=generator)

    def features(of: Tensor) -> Tensor:
        conv, norm, _, _, flatten, linear = net.features
        z = F.batch_norm(conv(of), None, None, norm.weight, norm.bias, True)
        result: Tensor = linear(flatten(z.tanh()))
        return result

    e = start.x.clone().requires_grad_()
    weight, bias = net.head.weight, net.head.bias
    for _ in range(3):
        loss = F.cross_entropy(F.linear(features(e), weight, bias), start.y)
        steps = torch.autograd.grad(loss, [weight, bias], create_graph=True)
        weight, bias = weight - 0.2 * steps[0], bias - 0.2 * steps[1]
    loss = F.cross_entropy(F.linear(features(x), weight, bias), y)
    wanted = start.x - torch.autograd.grad(loss, e)[0]
    torch.testing.assert_close(found.x, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("folds", "lr"), [(2, None), (3, None), (2, 0.25)])
def test_each_fold_of_old_exemplars_is_judged_by_the_others(folds: int, lr: Any) -> None:
    net, (x, y) = network(), images(12)
    y, order = y.sort(stable=True)
    old = Exemplars(x[order], y)
    selection = mnemonics(folds=folds, adjust_lr=lr, batch=100)
    with unchanged(net):
        found = selection.adjust(net, old, generator=seeded())
    generator = seeded()
    rows = stratified(old.y, folds, generator)
    parts = [old.x[each] for each in rows]
    losses: list[list[float]] = [[] for _ in rows]
    for _ in range(2):
        for i, each in enumerate(rows):
            others = [j for j in range(folds) if j != i]
            real = torch.cat([parts[j] for j in others])
            labels = torch.cat([old.y[rows[j]] for j in others])
            torch.randperm(len(real), generator=generator)
            loss, gradient = gradient_of("bop_full", net, parts[i], old.y[each], real, labels)
            parts[i] = parts[i] - (lr or 1.0) * gradient
            losses[i].append(float(loss))
    wanted = torch.empty_like(old.x)
    for each, part in zip(rows, parts, strict=True):
        wanted[each] = part
    torch.testing.assert_close(found.x, wanted, rtol=1e-9, atol=1e-12)
    assert torch.equal(found.y, old.y)
    assert selection.adjust_losses == [pytest.approx(each, rel=1e-9) for each in losses]
    assert torch.equal(old.x, x[order])


def test_folds_share_every_class() -> None:
    y = torch.tensor([0] * 5 + [2] * 4 + [7] * 4)
    folds = stratified(y, 3, seeded())
    assert sorted(torch.cat(folds).tolist()) == list(range(13))
    counts = torch.stack([torch.bincount(y[rows], minlength=8) for rows in folds])
    assert int((counts.max(0).values - counts.min(0).values).max()) == 1
    assert int(counts.sum(1).max() - counts.sum(1).min()) == 1
    assert not torch.equal(torch.cat(folds), torch.cat(stratified(y, 3, seeded(2))))


def test_a_single_fold_leaves_old_exemplars() -> None:
    old = Exemplars(*images(6))
    assert mnemonics(folds=1).adjust(network(), old, generator=seeded()) is old
    assert mnemonics("proto").folds == 1


def test_the_loss_on_real_images_falls() -> None:
    net, (x, y) = network(torch.float32), images(60)
    for objective in OBJECTIVES:
        options = {"epochs": 12, "lr": 10.0, "batch": 60, "steps": 10, "inner_lr": 0.5}
        selection = mnemonics(objective, **options, values=(0, 1))
        found = selection.select(net, x.float(), y, 2, generator=seeded())
        losses = selection.select_losses
        assert len(losses) == 12
        assert losses[-1] < 0.97 * losses[0]
        assert float(found.x.min()) >= 0
        assert float(found.x.max()) <= 1


def test_training_on_the_exemplars_gets_better() -> None:
    """A loop of one's own, on the exemplars before and after."""
    net, (x, y) = network(), images(60)
    start = RandomSelection().select(net, x, y, 2, generator=seeded())
    trained = mnemonics(epochs=10, lr=10.0, batch=60, steps=5).select(
        net, x, y, 2, generator=seeded()
    )
    before, after = (
        outer_gradient(net, each.x, each.y, x, y, ("features", "head"), steps=5)[0]
        for each in (start, trained)
    )
    assert after < 0.95 * before


def test_defaults_are_those_of_the_paper_and_of_the_code() -> None:
    paper, code = Mnemonics(), Mnemonics("proto")
    assert (paper.training.steps, paper.training.lr) == (50, 0.01)
    assert (paper.epochs, paper.lr, paper.halve_every, paper.folds) == (50, 0.01, 10, 2)
    assert paper.init == "random"
    assert (code.epochs, code.lr, code.init) == (1, 1e-5, "herding")
    defaults = code.optimizer([torch.zeros(1)], lr=1e-5).param_groups[0]
    assert (defaults["momentum"], defaults["weight_decay"]) == (0.9, 5e-4)


@every_objective
def test_bytes_stand_for_255ths(objective: str) -> None:
    net, (x, y) = network(), images()
    stored = (255 * x).round().to(torch.uint8)
    selection = mnemonics(objective, init="herding")
    found = selection.select(net, stored, y, 2, generator=seeded())
    wanted = selection.select(net, stored.double() / 255, y, 2, generator=seeded())
    torch.testing.assert_close(found.x, wanted.x)
    assert found.x.dtype == torch.float64
    adjusted = mnemonics(folds=2).adjust(net, Exemplars(stored, y), generator=seeded())
    wanted = mnemonics(folds=2).adjust(net, Exemplars(stored.double() / 255, y), generator=seeded())
    torch.testing.assert_close(adjusted.x, wanted.x)


def test_inference_mode_and_other_heads() -> None:
    net, (x, y) = network(), images()
    net.head = nn.Sequential(net.head, nn.Tanh())
    wanted = mnemonics("bop_fc").select(net, x, y, 2, generator=seeded())
    with torch.inference_mode():
        inside = x.clone()
        found = mnemonics("bop_fc").select(net, inside, y, 2, generator=seeded())
    assert torch.equal(found.x, wanted.x)


def test_frozen_parts_do_not_learn() -> None:
    net, (x, y) = network(), images()
    net.features.requires_grad_(False)
    found = mnemonics("bop_full").select(net, x, y, 2, generator=seeded()).x
    wanted = mnemonics("bop_fc").select(net, x, y, 2, generator=seeded()).x
    torch.testing.assert_close(found, wanted)


def test_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    net, (x, y) = network(), images()
    mnemonics("proto", progress=True).select(net, x, y, 2, generator=seeded())
    assert "Mnemonics.select" in capsys.readouterr().out


# Random and herded exemplars


def test_herding_picks_greedily() -> None:
    net, (x, y) = network(), images()
    for normalize in (True, False):
        with unchanged(net):
            found = Herding(normalize=normalize).select(net, x, y, 3, generator=seeded())
        features = evaluated(net).features(x).detach()
        features = F.normalize(features) if normalize else features
        rows = []
        for label in range(CLASSES):
            own, picked = (y == label).nonzero()[:, 0].tolist(), []
            mean = features[own].mean(0)
            for _ in range(3):
                picked.append(
                    min(
                        (i for i in own if i not in picked),
                        key=lambda i: float((features[[*picked, i]].mean(0) - mean).norm()),
                    )
                )
            rows += picked
        assert torch.equal(found.x, x[rows])
        assert torch.equal(found.y, y[rows])


def test_random_images_of_each_class() -> None:
    net, (x, y) = network(), images()
    found = RandomSelection().select(net, x, y + 4, 3, generator=seeded())
    assert found.y.tolist() == [4] * 3 + [5] * 3 + [6] * 3
    for image, label in zip(found.x, found.y, strict=True):
        (row,) = [i for i in range(len(x)) if torch.equal(x[i], image)]
        assert y[row] + 4 == label
    again = RandomSelection().select(net, x, y + 4, 3, generator=seeded())
    assert torch.equal(again.x, found.x)
    assert not torch.equal(
        RandomSelection().select(net, x, y + 4, 3, generator=seeded(2)).x, found.x
    )
