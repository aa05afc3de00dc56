"""ADI and DeepInversion: images of past classes, as their authors' code makes them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Residual, batches, mlp, same
from torch import Tensor, nn

from clfast import reference
from clfast.methods import ADI, DeepInversion

OPTIONS: dict[str, Any] = {"snapshot": "task", "images": 20, "steps": 3, "lr": 0.5}
FEW: dict[str, Any] = {**OPTIONS, "steps": 6, "lr": 0.1, "warm_up": 2}


def _model() -> nn.Module:
    torch.manual_seed(1)
    return Residual().double()


def _learner(kind: Any = ADI, model: nn.Module | None = None, **options: Any) -> Any:
    model = _model() if model is None else model
    generator = torch.Generator().manual_seed(7)
    given = {**(OPTIONS if kind is ADI else FEW), "generator": generator, **options}
    return kind(model, torch.optim.SGD(model.parameters(), lr=0.05), **given)


def _taught(learner: Any, stream: list[tuple[Tensor, Tensor]]) -> Any:
    """After two tasks."""
    for i, (x, y) in enumerate(stream):
        if i == len(stream) // 2:
            learner.on_task_end()
        learner.observe(x, y)
    return learner


def _statistics(x: Tensor, norm: nn.BatchNorm2d, correction: int) -> Tensor:
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=correction)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return (mean - norm.running_mean).norm() + (variance - norm.running_var).norm()


def _distances(model: nn.Module, images: Tensor, correction: int) -> tuple[Tensor, list[Tensor]]:
    """Logits, and how far each batch normalisation is from what it knows."""
    found: list[Tensor] = []
    hooks = [
        norm.register_forward_pre_hook(
            lambda m, inputs: found.append(_statistics(inputs[0], m, correction))
        )
        for norm in model.norms
    ]
    logits = model(images)
    for hook in hooks:
        hook.remove()
    return logits, found


def _published(
    model: nn.Module, stream: list[tuple[Tensor, Tensor]], generator: torch.Generator
) -> list[Tensor]:
    """The ARM authors' loop, on every copy and by autograd; all parameters and buffers."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for i, (x, y) in enumerate(stream):
        if i == len(stream) // 2:
            old = copy.deepcopy(model)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if i < len(stream) // 2:
            continue
        images = x[torch.randint(len(x), (OPTIONS["images"],), generator=generator)]
        known = {int(label) for _, labels in stream[: i + 1] for label in labels}
        past = torch.tensor(sorted(known - set(y.tolist())))
        classes = past[torch.randint(len(past), (OPTIONS["images"],), generator=generator)]
        for _ in range(OPTIONS["steps"]):
            images = images.detach().requires_grad_()
            before, distances = _distances(old, images, 1)
            p, q = before.softmax(1), model(images).softmax(1)
            mean = (p + q) / 2
            d = F.kl_div(p.log(), mean, reduction="batchmean") / 2
            d = d + F.kl_div(q.log(), mean, reduction="batchmean") / 2
            loss = F.cross_entropy(before, classes) + (1 - d) + 0.1 * sum(distances) / 3
            loss = loss + reference.recall.image_prior(images)
            images = images - OPTIONS["lr"] * torch.autograd.grad(loss, images)[0]
        images = images.detach()
        with torch.no_grad():
            target, target_here = old(images), old(x)
        loss = F.kl_div(model(images).log_softmax(1), target.softmax(1), reduction="batchmean")
        here = model(x).log_softmax(1)
        loss = loss + 0.5 * F.kl_div(here, target_here.softmax(1), reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [*model.parameters(), *model.buffers()]


@pytest.mark.parametrize("dedup", [True, False])
def test_adi_is_the_authors_loop(dedup: bool) -> None:
    stream = batches(6, 2, 4, 6)
    wanted = _published(_model(), stream, torch.Generator().manual_seed(7))
    learner = _taught(_learner(dedup=dedup, distill_weight=0.5), stream)
    got = [*learner.model.parameters(), *learner.model.buffers()]
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_equal_pairs_of_image_and_class_are_run_once() -> None:
    """To 1e-12 in float64, with the running statistics."""
    stream = batches(6, 2, 4, 6)
    first, second = (_taught(_learner(dedup=dedup, images=40), stream) for dedup in (True, False))
    x, y = stream[-1]
    drawn = first._recall.draw(first.model, x, y, first.seen)
    assert len(drawn.rows) <= 5 * len(asked := set(drawn.classes.tolist()))
    assert asked == first.seen - set(y.tolist())
    assert int(drawn.multiplicity.sum()) == 40
    assert len(drawn.copies) == 40
    pairs = torch.stack([drawn.rows[drawn.copies], drawn.classes[drawn.copies]])
    every = second._recall.draw(second.model, x, y, second.seen)
    assert torch.equal(pairs, torch.stack([every.rows, every.classes]))
    images = [learner.recall(x, y).images for learner in (first, second)]
    torch.testing.assert_close(*images, rtol=0, atol=1e-12)
    for a, b in ((first.model, second.model), (first.old, second.old)):
        for ours, theirs in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_images_become_more_of_their_classes() -> None:
    for kind, options in (
        (ADI, {"steps": 40, "bn_track_recall": False}),
        (DeepInversion, {"steps": 60}),
    ):
        learner = _taught(_learner(kind, divergence_weight=0.0, **options), batches(4, 2, 4, 6))
        x, y = batches(1, 2, 4, 6, seed=9)[0]
        drawn = learner._recall.draw(learner.model, x, y + 2, learner.seen)
        begin = learner._recall.begin(x, drawn)
        end, _ = learner._recall.refine(learner.old, learner.model, begin, drawn)
        copies = drawn.copies
        losses = [
            float(F.cross_entropy(learner.old(images[copies]), drawn.classes[copies]))
            for images in (begin, end)
        ]
        assert losses[1] < losses[0]


@pytest.mark.parametrize("kind", [ADI, DeepInversion])
def test_recall_in_another_loop_is_told_of_past_classes(kind: Any) -> None:
    learner = _learner(kind)
    learner.on_task_end()
    x, y = batches(1, 2, 4, 6)[0]
    with pytest.raises(ValueError, match=r"recall: no class has been learnt before.*past_classes"):
        learner.recall(x, y + 2)
    asked: list[Tensor] = []
    draw = learner._recall.draw
    learner._recall.draw = lambda *given: asked.append(draw(*given).classes) or draw(*given)
    learner.recall(x, y + 2, past_classes=[0, 1])
    assert set(asked[0].tolist()) == {0, 1}


def test_without_other_classes_the_known_ones_are_drawn() -> None:
    learner = _learner()
    x, y = batches(1, 2, 4, 6)[0]
    learner.observe(x, y)
    learner.on_task_end()
    assert set(learner.observe(x, y)) == {"loss", "recall", "replay", "distill"}


def _four_ways(images: Tensor) -> list[Tensor]:
    """Each difference by a loop over pixels."""
    h, w = images.shape[2:]
    found = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        pairs = [
            images[:, :, i + down, j + right] - images[:, :, i, j]
            for i in range(h)
            for j in range(w)
            if i + down < h and 0 <= j + right < w
        ]
        found.append(torch.stack(pairs))
    return found


def test_deep_inversion_is_the_loss_of_its_authors() -> None:
    """One step, against Adam on the loss written out; no jitter, and the mirroring found out."""
    learner = _taught(
        _learner(DeepInversion, steps=1, jitter=0, l1_variation_weight=0.3, tv_weight=0.2),
        batches(4, 2, 4, 6),
    )
    x, y = batches(1, 2, 4, 6, seed=9)[0]
    recall = learner._recall
    drawn = recall.draw(learner.model, x, y + 2, learner.seen)
    begin = recall.begin(x, drawn)
    state = recall.generator.get_state()
    got, loss = recall.refine(learner.old, learner.model, begin, drawn)
    recall.generator.set_state(state)
    torch.randint(1, (2,), generator=recall.generator)
    mirrored = bool(torch.rand((), generator=recall.generator) < 0.5)

    images = begin.clone().requires_grad_()
    seen = images.flip(3) if mirrored else images
    old, new = copy.deepcopy(learner.old).eval(), copy.deepcopy(learner.model).eval()
    before, distances = _distances(old, seen, 0)
    p, q = ((z / 3).softmax(1) for z in (before, new(seen)))
    mean = ((p + q) / 2).clamp(0.01, 0.99)
    p, q = p.clamp(0.01, 0.99), q.clamp(0.01, 0.99)
    d = ((mean * (mean / p).log()).sum(1) + (mean * (mean / q).log()).sum(1)).mean() / 2
    ways = _four_ways(seen)
    wanted = (
        F.cross_entropy(before, drawn.classes)
        + 0.2 * (1 - d.clamp(0, 1))
        + 0.05 * (10 * distances[0] + distances[1] + distances[2])
        + 0.2 * torch.stack([way.norm() for way in ways]).sum()
        + 0.3 * torch.stack([way.abs().mean() for way in ways]).sum()
        + 1e-5 * torch.stack([image.norm() for image in seen]).mean()
    )
    torch.testing.assert_close(loss, wanted.detach())
    (slope,) = torch.autograd.grad(wanted, images)
    rate = 0.1 / 2  # the first of two steps of warm-up
    step = rate * slope / (slope.abs() + 1e-8)
    torch.testing.assert_close(got, (begin - step).clamp(0, 1), rtol=1e-6, atol=1e-9)


def test_the_learning_rate_rises_and_falls() -> None:
    from clfast.methods.deep_inversion import _schedule

    assert [_schedule(step, 5, 2) for step in range(5)] == pytest.approx([0.5, 1, 1, 0.75, 0.25])


def test_images_stay_within_their_values_and_models_as_they_are() -> None:
    learner = _taught(_learner(DeepInversion, values=(-0.2, 0.4)), batches(4, 2, 4, 6))
    x, y = batches(4, 2, 4, 6)[-1]
    before = copy.deepcopy(learner.model.state_dict())
    old = copy.deepcopy(learner.old.state_dict())
    learner.model.zero_grad(set_to_none=True)
    with torch.random.fork_rng():
        found = learner.recall(x, y)
    assert found.images.min() >= -0.2
    assert found.images.max() <= 0.4
    assert all(p.grad is None for p in learner.model.parameters())
    assert same(before, learner.model.state_dict())
    after = learner.old.state_dict()
    # the logits of the images are asked for in train mode, as in the ARM authors' loop
    assert all(torch.equal(old[n], after[n]) for n in old if "running" not in n and "num_" not in n)


@pytest.mark.parametrize("kind", [ADI, DeepInversion])
def test_vectors(kind: Any) -> None:
    torch.manual_seed(1)
    learner = _learner(kind, mlp().double(), image_shape=(2, 4, 6))
    stream = [(x.flatten(1), y) for x, y in batches(4, 2, 4, 6)]
    _taught(learner, stream)
    assert learner.recall(*stream[-1]).images.shape == (20, 48)


@pytest.mark.parametrize("kind", [ADI, DeepInversion])
def test_states_and_failures(kind: Any) -> None:
    stream = batches(6, 2, 4, 6)
    learner = _taught(_learner(kind), stream[:4])
    state, copied = learner.state_dict(), pickle.loads(pickle.dumps(learner))
    fresh = _learner(kind)
    fresh.load_state_dict(state)
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.observe"):
        learner.observe(stream[4][0] * float("nan"), stream[4][1])
    assert same(state, learner.state_dict())
    wanted = learner.observe(*stream[4])
    assert fresh.observe(*stream[4]) == wanted
    assert copied.observe(*stream[4]) == wanted


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (ADI, {"steps": 0}, ValueError, "ADI: steps must be at least 1"),
        (ADI, {"statistics_weight": float("nan")}, ValueError, "ADI: statistics_weight must be"),
        (
            ADI,
            {"diversity": 1.0},
            TypeError,
            "ADI: there is no option diversity; of recall: images",
        ),
        (DeepInversion, {"cuda_graph": True}, TypeError, "there is no option cuda_graph"),
        (ADI, {"generator": 1}, TypeError, "ADI: generator must be"),
        (ADI, {"lr": -0.1}, ValueError, "ADI: lr must be finite and in"),
        (ADI, {"dedup": "False"}, TypeError, "ADI: dedup must be True or False, got str"),
        (DeepInversion, {"lr": -0.1}, ValueError, "DeepInversion: lr must be finite and in"),
        (
            DeepInversion,
            {"bn_track_recall": "False"},
            TypeError,
            "DeepInversion: bn_track_recall must be True or False, got str",
        ),
        (DeepInversion, {"jitter": -1}, ValueError, "DeepInversion: jitter must be at least 0"),
        (DeepInversion, {"warm_up": 0}, ValueError, "DeepInversion: warm_up must be at least 1"),
        (DeepInversion, {"values": (1, 0)}, ValueError, "DeepInversion: values must be"),
        (DeepInversion, {"values": (0, 1, 2)}, ValueError, "DeepInversion: values must be"),
        (DeepInversion, {"values": 3}, ValueError, "DeepInversion: values must be"),
        (DeepInversion, {"values": (0, "a")}, TypeError, "DeepInversion: values must be"),
        (DeepInversion, {"replay_mean": "both"}, ValueError, "DeepInversion: replay_mean must be"),
    ],
)
def test_bad_options(
    kind: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _learner(kind, **options)
