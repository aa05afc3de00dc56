"""Who classifies when a task has ended: a network of its own; the critic with new statistics."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_dgm import SMALL as DGM_SMALL
from test_dgm import same, task
from test_generative_replay import SMALL as GAN_SMALL
from torch import Tensor

from clfast.methods import DGR, EWCM, DGMa, DGMw, GenerativeClassifier, JointTraining, MeRGAN
from clfast.nn import dcgan_critic

METHODS: dict[str, tuple[type[GenerativeClassifier], dict[str, Any]]] = {
    "DGMw": (DGMw, DGM_SMALL),
    "DGMa, real": (DGMa, {**DGM_SMALL, "real_share": 0.5}),
    "DGR": (DGR, GAN_SMALL),
    "MeRGAN": (MeRGAN, GAN_SMALL),
    "EWC": (EWCM, {**GAN_SMALL, "fisher_samples": 3}),
}
EVERY = pytest.mark.parametrize("name", METHODS)
OWN = {"classifier_epochs": 2}
STATISTICS = {"recompute_statistics": True}


def learner(name: str, **options: Any) -> Any:
    kind, small = METHODS[name]
    return kind(**small, dtype=torch.float64, **options)


def with_and_without(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Two tasks with the options, and the same without what they do after the second."""
    first = learner(name, **options)
    first.fit_task(task(0, 3))
    plain = learner(name, seed=5)
    plain.load_state_dict(first.state_dict())
    for method in (first, plain):
        method.fit_task(task(1, each=14))
    return first, plain


def generator_of(learner: Any) -> torch.Generator:
    found = torch.Generator()
    found.set_state(learner.state_dict()["random"])
    return found


def remembered(plain: Any, random: torch.Generator) -> Tensor:
    """[3, 14, ...] of classes 0, 3 and 1, the last of which had 14 images."""
    images = [2 * plain.generate(14, [c], generator=random).images - 1 for c in (0, 3, 1)]
    if plain.options.__dict__.get("real_share"):
        # Half of the images of each class are stored: 8 of 16, or 7 of 14; 7 of 14 are replaced.
        rows = plain.real.rows
        for of_class, label in zip(images, (0, 3, 1), strict=True):
            of_class[:7] = rows["x"][rows["y"] == label][:7]
    return torch.stack(images)


@EVERY
def test_a_classifier_of_its_own_learns_generated_images_of_all_classes(name: str) -> None:
    own, plain = with_and_without(name, OWN)
    assert same(own.critic.state_dict(), plain.critic.state_dict())
    assert own.classifier is not own.critic
    assert plain.classifier is plain.critic

    random, initial = generator_of(plain), torch.Generator()
    initial.set_state(plain.state_dict()["initial"])
    x = remembered(plain, random).flatten(0, 1)
    y = torch.arange(3).repeat_interleave(14)
    width, options = plain.options.critic_width, plain.options
    D = dcgan_critic(1, 3, width=width, generator=initial).double().train()
    adam = torch.optim.Adam(D.parameters(), lr=options.lr, betas=options.betas)
    for _ in range(2):
        order = torch.randperm(42, generator=random)
        for first in range(0, 42, 8):
            rows = order[first : first + 8]
            adam.zero_grad()
            F.cross_entropy(D(x[rows])[1], y[rows]).backward()
            adam.step()
    shown = task(1)[0][0]
    with torch.no_grad():
        expected = D.eval()(2 * shown.double() - 1)[1].log_softmax(1)
    found = own.predict_log_proba(shown)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, plain.predict_log_proba(shown), atol=1e-3)
    assert same(own.predict(shown).tolist(), [[0, 3, 1][i] for i in expected.argmax(1).tolist()])


@EVERY
def test_recomputed_statistics_are_means_over_batches(name: str) -> None:
    found, plain = with_and_without(name, STATISTICS)
    assert found.classifier is found.critic
    learnt = dict(plain.critic.named_parameters())
    assert all(torch.equal(p, learnt[n]) for n, p in found.critic.named_parameters())

    random = generator_of(plain)
    old = remembered(plain, random)[:2].flatten(0, 1)
    x = torch.cat([2 * torch.cat([x for x, _ in task(1, each=14)]).double() - 1, old])
    assert len(x) == 42
    order = torch.randperm(42, generator=random)
    D = copy.deepcopy(plain.critic).train()
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for key, module in D.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):

            def look(module: Any, inputs: Any, output: Any, key: str = key) -> None:
                of_channels = inputs[0].transpose(0, 1).flatten(1)
                seen.setdefault(key, []).append((of_channels.mean(1), of_channels.var(1)))

            module.register_forward_hook(look)
    with torch.no_grad():
        for rows in order.split([7] * 6):  # six batches of 8 at most
            D(x[rows])
    assert len(seen) == 2
    buffers = dict(found.critic.named_buffers())
    before = dict(plain.critic.named_buffers())
    for key, moments in seen.items():
        for kind, values in zip(("mean", "var"), zip(*moments, strict=True), strict=True):
            one = f"{key}.running_{kind}"
            torch.testing.assert_close(buffers[one], torch.stack(values).mean(0))
            assert not torch.allclose(buffers[one], before[one], rtol=1e-2)
    for module in found.critic.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.momentum == 0.1  # for the next task


@EVERY
def test_states(name: str) -> None:
    options = {**OWN, **STATISTICS}
    method, states = learner(name, **options), []
    method.fit_task(task(0))
    between = method.state_dict()

    def after_batch(at: Any) -> None:
        assert method.classifier is method.critic  # of the class that is learnt, too
        states.append(method.state_dict())

    method.fit_task(task(1), after_batch=after_batch)
    for state in (between, states[0], states[-1]):
        other = learner(name, **options, seed=9)
        other.load_state_dict(state)
        other.fit_task(task(1))
        assert same(other.state_dict(), method.state_dict())
    for twin in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert same(twin.state_dict(), method.state_dict())
        assert torch.equal(twin.predict(task(1)[0][0]), method.predict(task(1)[0][0]))


def test_the_classifier_labels_the_images_of_dgr() -> None:
    dgr = DGR(**GAN_SMALL, classifier_epochs=1)
    dgr.fit_task(task(0, 1))
    assert dgr.classifier is not None
    before = copy.deepcopy(dgr.classifier.state_dict())
    assert dgr.critic is not None
    assert not same(dict(before), dict(dgr.critic.state_dict()))
    teachers: list[Any] = []
    dgr.fit_task(task(2), after_batch=lambda at: teachers.append(dgr._teacher))
    assert same(dict(teachers[0].state_dict()), dict(before))


def test_it_classifies_where_the_critic_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated images have a grey ground, real ones a black one: to a critic that has seen one
    class on black alone, all that is black is of that class."""
    options = {**DGM_SMALL, "epochs": 5, "critic_width": 6, "lr": 5e-3}
    shown = {c: (torch.cat([x for x, _ in task(c)]) - 0.3).clamp(0, 1) for c in range(3)}

    def grey(self: Any, position: int, n: int, generator: Any) -> Tensor:
        x = 2 * shown[position][torch.randint(16, (n,), generator=generator)] - 1
        return (x + 0.5).clamp(max=1)

    monkeypatch.setattr(DGMw, "_images", grey)
    dgm = DGMw(**options, classifier_epochs=12)
    for c in range(3):
        dgm.fit_task([(shown[c], torch.full((16,), c))])
    y = torch.arange(3).repeat_interleave(16)
    accuracies = []
    for network in (dgm.critic, dgm.classifier):
        assert network is not None
        with torch.no_grad():
            logits = network.eval()(2 * torch.cat([*shown.values()]) - 1)[1]
        accuracies.append(float((logits.argmax(1) == y).float().mean()))
    assert accuracies[0] < 0.7
    assert accuracies[1] > 0.95


def test_a_loss_of_the_classifier_that_becomes_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    dgm = DGMw(**DGM_SMALL, classifier_epochs=3)
    dgm.fit_task(task(0))
    before, whole = dgm.state_dict(), DGMw._remembered

    def spoiled(self: Any, count: int) -> Tensor:
        images = whole(self, count)
        return images * float("nan") if len(images) == 2 else images

    monkeypatch.setattr(DGMw, "_remembered", spoiled)
    message = "the loss of the classifier is nan in epoch 0 of its own, after task 1; try a smaller"
    with pytest.raises(RuntimeError, match=r"^DGMw.fit_task: " + message):
        dgm.fit_task(task(1))
    assert same(dgm.state_dict(), before)


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (DGMw, {"classifier_epochs": -1}, ValueError, "DGMw: classifier_epochs must be at least 0"),
        (DGR, {"classifier_epochs": 1.5}, TypeError, "DGR: classifier_epochs must be an integer"),
        (MeRGAN, {"recompute_statistics": None}, TypeError, "MeRGAN: recompute_statistics must be"),
        (JointTraining, OWN, TypeError, "JointTraining: there is no option classifier_epochs"),
    ],
)
def test_options(kind: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(message)):
        kind(**options)


def test_states_of_a_classifier_that_does_not_fit() -> None:
    dgm = DGMw(**DGM_SMALL, **OWN)
    dgm.fit_task(task(0, 1))
    state = dgm.state_dict()
    state["classifier"]["classify.bias"][0] = float("nan")
    with pytest.raises(ValueError, match=r"the classifier holds NaN or Inf in classify\.bias"):
        dgm.load_state_dict(state)
    state = dgm.state_dict()
    state["classifier"]["classify.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"classify\.bias.*nothing was loaded"):
        dgm.load_state_dict(state)
