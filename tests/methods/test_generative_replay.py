"""Methods with a conditional GAN: `DGR`, `MeRGAN`, `EWCM` and `NoReplay`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_dgm import images, same, task
from torch import Tensor

from clfast.methods import DGR, EWCM, MeRGAN, NoReplay
from clfast.methods.conditional_gan import ConditionalGan
from clfast.nn import ConditionalGenerator, Critic

SMALL: dict[str, Any] = {
    "epochs": 2,
    "batch": 8,
    "width": 2,
    "noise": 5,
    "max_classes": 4,
    "critic_width": 3,
    "critic_steps": 2,
    "lr": 1e-3,
}
METHODS: dict[str, tuple[type[ConditionalGan], dict[str, Any]]] = {
    "DGR": (DGR, {}),
    "joint": (MeRGAN, {}),
    "alignment": (MeRGAN, {"replay": "alignment", "alignment_weight": 0.01}),
    "EWC": (EWCM, {"strength": 5.0, "fisher_samples": 3}),
    "none": (NoReplay, {}),
}
EVERY = pytest.mark.parametrize("name", METHODS)


def learner(name: str, **options: Any) -> ConditionalGan:
    kind, own = METHODS[name]
    return kind(**SMALL, **own, **options)


def test_the_generator_normalises_by_class() -> None:
    net = ConditionalGenerator(2, 5, 2, 3, generator=torch.Generator().manual_seed(0)).eval()
    z, y = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 2, 2, 0])
    with torch.no_grad():
        for scale, shift in zip(net.scales, net.shifts, strict=True):
            scale[2], shift[2] = 3.0, 0.5
    found = net(z, y)
    assert found.shape == (4, 2, 32, 32)
    for row in range(4):
        x = z[row : row + 1, :, None, None]
        for layer in range(3):
            x = F.conv_transpose2d(x, net.weights[layer], None, *((2, 1) if layer else (1, 0)))
            x = x / (1 + 1e-5) ** 0.5
            x = F.relu(3 * x + 0.5 if y[row] == 2 else x)
        x = torch.tanh(F.conv_transpose2d(x, net.weights[3], None, 2, 1))
        torch.testing.assert_close(found[row], x[0])


@EVERY
def test_an_iteration_is_the_plain_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the third task; numbers are drawn in the order of the steps."""
    method = learner(name, dtype=torch.float64)
    for number in range(2):
        method.fit_task(task(number))
    old_generator, old_critic = copy.deepcopy(method.generator), copy.deepcopy(method.critic)
    states: list[dict[str, Any]] = []
    batches = task(2)

    def first(at: Any) -> None:
        states.append(method.state_dict())
        raise InterruptedError

    before = method.state_dict()
    begins: list[tuple[Critic, Tensor]] = []
    whole = type(method)._learn_batch

    def begun(self: Any, *arguments: Any) -> Tensor:
        begins.append((copy.deepcopy(self.critic), self._random.get_state()))
        return whole(self, *arguments)

    monkeypatch.setattr(type(method), "_learn_batch", begun)
    with pytest.raises(InterruptedError):
        method.fit_task(batches, after_batch=first)
    assert same(method.state_dict(), before)

    assert old_critic is not None
    D, G = begins[0][0].train(), copy.deepcopy(old_generator).train()
    torch.testing.assert_close(D.classify.weight[:2], old_critic.classify.weight)
    random = torch.Generator()
    random.set_state(begins[0][1])
    rows = states[0]["run"]["order"][:8]
    x = 2 * torch.cat([x for x, _ in batches])[rows].double() - 1
    y = torch.full((8,), 2)
    new, old = {"DGR": (1 / 3, 2 / 3), "none": (1, 0)}.get(name, (1, 2))
    retrained = name in ("DGR", "joint")
    adam_d, adam_g = (torch.optim.Adam(n.parameters(), lr=1e-3, betas=(0.0, 0.9)) for n in (D, G))

    def noise(count: int) -> Tensor:
        return torch.randn(count, 5, generator=random, dtype=torch.float64)

    adam_d.zero_grad()
    taught = new * F.cross_entropy(D(x)[1], y)
    if old:
        past = torch.randint(2, (8,), generator=random)
        with torch.no_grad():
            if name == "EWC":
                rows = torch.randint(16, (8,), generator=random)
                old_x = states[0]["run"]["replay"][past, rows]
            else:
                old_x = old_generator.eval()(noise(8), past)
            labels = old_critic.eval()(old_x)[1].argmax(1) if name == "DGR" else past
        taught = taught + old * F.cross_entropy(D(old_x)[1], labels)
    taught.backward()
    adam_d.step()
    for _ in range(2):
        fake = G(noise(8), y).detach()
        mix = torch.rand(8, generator=random, dtype=torch.float64).view(-1, 1, 1, 1)
        adam_d.zero_grad()
        loss = D(x)[0].mean().neg() + D(fake)[0].mean()
        u = (mix * x + (1 - mix) * fake).requires_grad_()
        slope = torch.autograd.grad(D(u)[0].sum(), u, create_graph=True)[0]
        loss = new * (loss + 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean())
        if retrained:
            loss = loss + old * -D(old_x)[0].mean()
            loss = loss + old * D(G(noise(8), past).detach())[0].mean()
        loss.backward()
        adam_d.step()
    adam_g.zero_grad()
    score, logits = D(G(noise(8), y))
    loss = new * (F.cross_entropy(logits, y) - score.mean())
    if name == "alignment":
        c = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
        z = noise(8)
        apart = (G(z, c) - old_generator(z, c).detach()).square().sum()
        loss = loss + 0.01 / 2 * apart / 2
    if name == "EWC":
        sums = before["importances"], before["weighted"]
        for p, f, fp in zip(G.parameters(), *sums, strict=True):
            loss = loss + 5 / 2 * (f * p.square() - 2 * fp * p).sum()
    if retrained:
        score, logits = D(G(noise(8), past))
        loss = loss + old * (F.cross_entropy(logits, past) - score.mean())
    loss.backward()
    adam_g.step()
    for found, expected in ((states[0]["generator"], G), (states[0]["critic"], D)):
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-8)


@EVERY
def test_tasks_and_states(name: str) -> None:
    method, states = learner(name), []
    method.fit_task(task(0))
    method.fit_task(task(1, 3), after_batch=lambda at: states.append(method.state_dict()))
    assert method.classes == [0, 1, 3]
    assert images(method, [3, 0]).shape == (6, 1, 32, 32)
    assert set(method.predict(task(1)[0][0]).tolist()) <= {0, 1, 3}
    assert [len(curve) for curve in method.history[1]["losses"].values()] == [2, 2, 2]
    twins = [copy.deepcopy(method), pickle.loads(pickle.dumps(method)), learner(name, seed=4)]
    twins[2].load_state_dict(method.state_dict())
    middle = learner(name, seed=4)
    middle.load_state_dict(states[1])
    middle.fit_task(task(1, 3))
    for twin in (*twins, middle):
        assert same(twin.state_dict(), method.state_dict())


def test_no_replay_sees_nothing_of_the_past() -> None:
    method = learner("none")
    method.fit_task(task(0))
    runs: list[Any] = []
    method.fit_task(task(1), after_batch=lambda at: runs.append(method._run))
    assert runs[0].replay.numel() == 0
    before = method.state_dict()
    kept = [key for key in before if isinstance(before[key], Tensor)]
    assert kept == ["random", "initial"]  # besides the networks
    assert images(method, [0]).shape == (3, 1, 32, 32)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"replay": "both"}, ValueError, r"^MeRGAN: replay must be one of joint, alignment"),
        ({"alignment_weight": -1}, ValueError, r"^MeRGAN: alignment_weight must"),
        ({"critic_steps": 0}, ValueError, r"^MeRGAN: critic_steps must be at least 1"),
        ({"max_scale": 3}, TypeError, r"^MeRGAN: there is no option max_scale; there are epochs"),
    ],
)
def test_options(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        MeRGAN(**options)
