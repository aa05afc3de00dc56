"""`DGMw` and `DGMa` with the networks for natural images, last layers of classes, other sizes."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_dgm import METHODS, images, same
from torch import Tensor, nn

from clfast.methods import DGR, DGMw, MeRGAN
from clfast.methods.dgm import DGM
from clfast.nn import DCGANGenerator, ResNetGenerator

TINY: dict[str, Any] = {
    "network": "resnet",
    "size": 16,
    "epochs": 1,
    "batch": 8,
    "width": 2,
    "noise": 8,
    "max_classes": 8,
    "critic_width": 1,
    "max_scale": 8.0,
}
BOTH = pytest.mark.parametrize("method", METHODS)
LASTS = pytest.mark.parametrize("last", ["task", "class"])


def learner(method: str, **options: Any) -> DGM:
    return METHODS[method](3, **{**TINY, **options})


def task(*classes: int, each: int = 8, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    """One batch of coloured images with a bright bar, whose place is the class."""
    generator = torch.Generator().manual_seed(sum(classes))
    y = torch.tensor(classes).repeat_interleave(each)
    y = y[torch.randperm(len(y), generator=generator)]
    x = 0.3 * torch.rand(len(y), 3, size, size, generator=generator)
    for image, label in zip(x, y.tolist(), strict=True):
        image[label % 3, 2 * label : 2 * label + 3] += 0.6
    return [(x, y)]


def reserve_half(dgm: DGM) -> Callable[[Any], None]:
    """After a batch: every other entry of the masks, which a short task alone would not come to."""

    def after_batch(at: Any) -> None:
        with torch.no_grad():
            for embedding in dgm.generator.embeddings:
                embedding.fill_(-1.0).view(-1)[at.task % 2 :: 2] = 1.0

    return after_batch


@LASTS
@pytest.mark.parametrize("replay_mask", ["soft", "binary"])
@BOTH
def test_old_images_stay_bit_for_bit(method: str, replay_mask: Any, last: Any) -> None:
    dgm = learner(method, max_scale=100.0, replay_mask=replay_mask, last=last)
    assert isinstance(dgm.generator, ResNetGenerator)
    found: list[Tensor] = []
    for classes in ((0,), (2, 1), (4,)):
        dgm.fit_task(task(*classes), after_batch=reserve_half(dgm))
        now = images(dgm)
        for past in found:
            assert torch.equal(now[: len(past)], past)
        found.append(now)
    assert found[-1].shape == (4 * 3, 3, 16, 16)
    assert not torch.equal(found[1][3:6], found[1][6:9])
    widths = dgm.generator.widths
    assert sum(widths[0]) < sum(widths[1]) < sum(widths[2]) < sum(widths[3])
    assert [record["widths"] for record in dgm.history] == [list(w) for w in widths[:3]]
    assert all(len(record["masks"]) == 7 for record in dgm.history)


def critic_step(adam: torch.optim.Optimizer, loss: Tensor) -> None:
    adam.zero_grad()
    loss.backward()
    adam.step()


def generate(net: Any, z: Tensor, masks: list[Tensor], unit: bool, y: Tensor) -> Tensor:
    """By ordinary convolutions, with one last layer an image; train mode."""
    task = net.task

    def conv(x: Tensor, layer: int) -> Tensor:
        weight, mask = net.weights[layer], masks[layer]
        kernel = (weight if unit else weight * mask).flip(2, 3).transpose(0, 1)
        y = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        return y * mask if unit else y

    whole = net.weights[0] * masks[0]
    x = torch.einsum("bn,nchw->bchw", z, whole)
    for block in range(2):
        h = F.interpolate(net.norms[2 * block](x, task).relu(), scale_factor=2)
        h = net.norms[2 * block + 1](conv(h, 3 * block + 1), task).relu()
        beside = conv(F.interpolate(x, scale_factor=2), 3 * block + 3)
        x = conv(h, 3 * block + 2) + beside
    x = net.norms[4](x, task).relu()
    last, found = net.lasts[task], []
    for image, label in zip(x, (y - 2).tolist(), strict=True):
        weight = last.weight[label].flip(2, 3).transpose(0, 1)
        found.append(F.conv2d(image, weight, last.bias[label], padding=1).tanh())
    return torch.stack(found)


@pytest.mark.parametrize("alpha", ["outputs", "weights"])
@BOTH
def test_an_iteration_is_the_plain_one(
    method: str, alpha: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of the second task, as the authors have it for ImageNet."""
    imagenet: dict[str, Any] = {
        "alpha": alpha,
        "last": "class",
        "schedule": "dgmw_imnet",
        "sparsity_weight": 0.5,
        "penalty_weight": 0.6,
        "classify_fakes": True,
        "new_critic": False,
    }
    dgm = learner(method, **imagenet, epochs=2, lr=1e-3, dtype=torch.float64)
    dgm.fit_task(task(0, 1, each=4), after_batch=reserve_half(dgm))
    begins: list[tuple[DGM, Tensor, Tensor]] = []
    states: list[dict[str, Any]] = []
    whole = DGM._learn_batch

    def begun(self: Any, run: Any, x: Tensor, y: Tensor, *arguments: Any) -> Tensor:
        begins.append((copy.deepcopy(self), x, y))
        return whole(self, run, x, y, *arguments)

    monkeypatch.setattr(DGM, "_learn_batch", begun)
    dgm.fit_task(task(2, 3), after_batch=lambda at: states.append(dgm.state_dict()))
    twin, x, y = begins[0]
    unit = method == "DGMa"
    assert twin.critic is not None
    assert twin._run is not None
    G, D, random = twin.generator.train(), twin.critic.train(), twin._random
    assert set(y.tolist()) == {2, 3}
    assert twin._run.replay.shape == (2, 8, 3, 16, 16)
    adam = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.999))
    # 1. Two past classes, and two new: as many of each past class as of a new one.
    rows = torch.randint(8, (2, 4), generator=random)
    old = [twin._run.replay[c][rows[c]] for c in range(2)]
    mixed = torch.randperm(16, generator=random)
    every = torch.cat([x, *old])[mixed]
    labels = torch.cat([y, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])])[mixed]
    for part in (slice(8), slice(8, 16)):
        critic_step(adam, F.cross_entropy(D(every[part])[1], labels[part]))

    # 2. and 3.
    def noise() -> Tensor:
        z = torch.randn(8, 8, generator=random, dtype=torch.float64)
        return torch.cat([F.one_hot(y, 8).double(), z[:, 8:]], 1)

    top = (8 - 1 / 8) / 2 + 1 / 8  # of the first of two epochs; batch 0 begins at 1 / top
    s = 1 / top
    masks = [torch.sigmoid(s * e) for e in G.embeddings]
    fake = generate(G, noise(), [mask.detach() for mask in masks], unit, y).detach()
    mix = torch.rand(8, generator=random, dtype=torch.float64).view(-1, 1, 1, 1)
    loss = -D(x)[0].mean() + D(fake)[0].mean()
    u = (mix * x + (1 - mix) * fake).requires_grad_()
    slope = torch.autograd.grad(D(u)[0].sum(), u, create_graph=True)[0]
    norms = slope.flatten(1).norm(dim=1)
    critic_step(adam, loss + 0.6 * (norms - 1).square().mean())

    score, logits = D(generate(G, noise(), masks, unit, y))
    free = [(~r).double() for r in G.reserved]
    R = sum((m * f).sum() for m, f in zip(masks, free, strict=True)) / sum(f.sum() for f in free)
    sizes = [
        sum(w) if alpha == "outputs" else sum(torch.Size(s).numel() for s in G._shapes(w))
        for w in (G.widths[1], G.widths[0])
    ]
    loss = F.cross_entropy(logits, y) - score.mean() + 0.5 * sizes[0] / sizes[1] * R
    loss.backward()
    for weight, blocked in zip(G.weights, G.blocked, strict=True):
        assert bool(blocked.any())
        weight.grad[blocked] = 0
    for e in G.embeddings:
        at = e.detach()
        e.grad *= top / s * (torch.cosh(s * at) + 1) / (torch.cosh(at) + 1)
    learnt = list(G.learnt())
    nn.utils.clip_grad_norm_(learnt, 1e4)
    torch.optim.Adam(learnt, lr=1e-3, betas=(0.5, 0.999)).step()

    after = states[0]
    for key, value in G.state_dict().items():
        torch.testing.assert_close(after["generator"][key], value, rtol=1e-6, atol=1e-8)
    for key, value in D.state_dict().items():
        torch.testing.assert_close(after["critic"][key], value, rtol=1e-6, atol=1e-8)
    assert torch.equal(after["random"], random.get_state())


@pytest.mark.parametrize(
    ("method", "last"),
    [
        ("DGMw", "task"),
        pytest.param("DGMw", "class", marks=pytest.mark.slow),
        pytest.param("DGMa", "task", marks=pytest.mark.slow),
        ("DGMa", "class"),
    ],
)
def test_a_state_in_the_middle_of_a_task_goes_on_alike(method: str, last: Any) -> None:
    dgm = learner(method, last=last, batch=6)
    dgm.fit_task(task(0))
    states: list[dict[str, Any]] = []
    dgm.fit_task(task(1, 2), after_batch=lambda at: states.append(dgm.state_dict()))
    assert len(states) == 3
    other = learner(method, last=last, batch=6, seed=9)
    other.load_state_dict(states[1])
    other.fit_task(task(1, 2))
    assert same(other.state_dict(), dgm.state_dict())
    for each in (other, dgm):
        each.fit_task(task(3))
    assert same(other.state_dict(), dgm.state_dict())


def test_classes_have_last_layers_of_their_own_with_either_network() -> None:
    dgm = learner("DGMw", network="dcgan", last="class")
    assert isinstance(dgm.generator, DCGANGenerator)
    dgm.fit_task(task(0, 3))
    before = images(dgm)
    dgm.fit_task(task(1))
    assert [len(layer.weight) for layer in dgm.generator.lasts] == [2, 1, 0]
    assert torch.equal(images(dgm, [0, 3]), before)
    with torch.no_grad():
        dgm.generator.lasts[0].weight[1] += 0.1
    assert torch.equal(images(dgm, [0]), before[:3])
    assert not torch.equal(images(dgm, [3]), before[3:])


def test_a_batch_of_one_image() -> None:
    dgm = learner("DGMw")
    dgm.fit_task(task(0, each=9))
    dgm.fit_task(task(1, each=9))
    assert dgm.classes == [0, 1]


@pytest.mark.parametrize("kind", [DGMw, DGR, MeRGAN])
def test_other_sizes(kind: Any) -> None:
    options = {name: TINY[name] for name in ("epochs", "batch", "width", "noise", "max_classes")}
    method = kind(3, **options, size=64, critic_width=1)
    for number in range(2):
        method.fit_task(task(number, size=64))
    assert images(method).shape == (6, 3, 64, 64)
    assert set(method.predict(task(0, size=64)[0][0]).tolist()) <= {0, 1}
    with pytest.raises(ValueError, match=re.escape("must have shape [B, 3, 64, 64], got [8, 3,")):
        method.fit_task(task(2, size=32))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"network": "vgg"}, ValueError, "DGMw: network must be one of dcgan, resnet"),
        ({"last": "image"}, ValueError, "DGMw: last must be one of task, class"),
        ({"alpha": None}, ValueError, "DGMw: alpha must be one of outputs, weights"),
        ({"size": 28}, ValueError, "DGMw: size must be a power of two, got 28; resize the images"),
        ({"size": 8}, ValueError, "DGMw: size must be at least 16, got 8"),
        ({"size": "32"}, TypeError, "DGMw: size must be an integer, got str"),
    ],
)
def test_options(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match="^" + re.escape(message)):
        learner("DGMw", **options)


def test_states_of_other_networks_do_not_fit() -> None:
    dgm = learner("DGMw")
    dgm.fit_task(task(0))
    state = dgm.state_dict()
    for options in ({"network": "dcgan"}, {"last": "class"}, {"size": 32}):
        other = learner("DGMw", **options)
        before = other.state_dict()
        with pytest.raises(ValueError, match="nothing was loaded"):
            other.load_state_dict(state)
        assert same(other.state_dict(), before)


def test_an_interrupted_task_leaves_nothing() -> None:
    dgm = learner("DGMw", last="class")
    dgm.fit_task(task(0))
    before = dgm.state_dict()

    def stop(at: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dgm.fit_task(task(1, 2), after_batch=stop)
    assert same(dgm.state_dict(), before)
