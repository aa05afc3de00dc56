"""`JointTraining`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_dgm import same, task
from torch import Tensor

from clfast.methods import JointTraining
from clfast.nn import Critic

SMALL: dict[str, Any] = {
    "epochs": 2,
    "batch": 8,
    "critic_width": 3,
    "max_classes": 5,
    "lr": 1e-3,
}


def scaled(*classes: int, each: int = 16) -> tuple[Tensor, Tensor]:
    x, y = zip(*task(*classes, each=each), strict=True)
    return 2 * torch.cat(x).double() - 1, torch.cat(y)


def test_an_iteration_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the second task, by a critic that has learnt nothing, on real samples of all
    classes; a class with fewer of them begins again."""
    method = JointTraining(**SMALL, dtype=torch.float64)
    method.fit_task(task(0, each=6) + task(2, each=16))
    begins: list[tuple[Critic, Tensor]] = []
    whole = JointTraining._learn_batch

    def begun(self: Any, *arguments: Any) -> Tensor:
        begins.append((copy.deepcopy(self.critic), self._random.get_state()))
        return whole(self, *arguments)

    monkeypatch.setattr(JointTraining, "_learn_batch", begun)
    states: list[dict[str, Any]] = []
    old = method.critic
    method.fit_task(task(1), after_batch=lambda at: states.append(method.state_dict()))
    D, random = begins[0][0].train(), torch.Generator()
    assert old is not None
    assert not torch.equal(D.classify.weight[:2], old.classify.weight)
    random.set_state(begins[0][1])

    real = [scaled(0, each=6)[0], scaled(2)[0]]
    replay = states[0]["run"]["replay"]
    assert torch.equal(replay[0], torch.cat([real[0], real[0], real[0][:4]]))
    assert torch.equal(replay[1], real[1])
    x = scaled(1)[0][states[0]["run"]["order"][:8]]
    rows = torch.randint(16, (2, 8), generator=random)
    mixed = torch.randperm(24, generator=random)
    x = torch.cat([x, replay[0][rows[0]], replay[1][rows[1]]])[mixed]
    y = torch.tensor([2] * 8 + [0] * 8 + [1] * 8)[mixed]
    adam = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.999))
    for part in range(3):
        adam.zero_grad()
        rows = torch.arange(8 * part, 8 * part + 8)
        F.cross_entropy(D(x[rows])[1], y[rows]).backward()
        adam.step()
    for key, value in D.state_dict().items():
        torch.testing.assert_close(states[0]["critic"][key], value, rtol=1e-6, atol=1e-8)


def test_it_keeps_and_gives_all_samples() -> None:
    method = JointTraining(**SMALL, dtype=torch.float64)
    method.fit_task(task(3, 1))
    method.fit_task(task(0))
    for label, of in ((1, (3, 1)), (3, (3, 1)), (0, (0,))):
        x, y = scaled(*of)
        mine = x[y == label]
        drawn = method.generate(200, [label], generator=torch.Generator().manual_seed(0))
        assert set(drawn.labels.tolist()) == {label}
        equal = (2 * drawn.images - 1 - mine[:, None]).abs().flatten(2).amax(2) < 1e-12
        assert (equal.sum(0) == 1).all()  # each that is given is one of them
        assert (equal.sum(1) > 0).all()  # and each of them is given
    assert method.history[1]["bytes"] == {"images": 3 * 16 * 1024 * 8}


def test_it_learns_and_does_not_forget() -> None:
    method = JointTraining(**{**SMALL, "epochs": 6, "lr": 5e-3, "critic_width": 6})
    for number in range(3):
        method.fit_task(task(number))
    for number in range(3):
        x, y = task(number, each=10)[0]
        assert float((method.predict(x) == y).float().mean()) > 0.8


def test_tasks_and_states() -> None:
    method, states = JointTraining(**SMALL), []
    method.fit_task(task(0))
    method.fit_task(task(1, 3), after_batch=lambda at: states.append(method.state_dict()))
    assert method.classes == [0, 1, 3]
    twins = [copy.deepcopy(method), pickle.loads(pickle.dumps(method)), JointTraining(**SMALL)]
    twins[2].load_state_dict(method.state_dict())
    middle = JointTraining(**SMALL, seed=4)
    middle.load_state_dict(states[1])
    middle.fit_task(task(1, 3))
    for twin in (*twins, middle):
        assert same(twin.state_dict(), method.state_dict())
    with pytest.raises(ValueError, match="nothing was loaded"):
        middle.load_state_dict({**method.state_dict(), "generator": {}})
    assert same(middle.state_dict(), method.state_dict())


def test_options() -> None:
    with pytest.raises(TypeError, match=r"^JointTraining: there is no option width; there are ep"):
        JointTraining(width=3)
    with pytest.raises(RuntimeError, match=r"^JointTraining\.predict: nothing was learnt yet"):
        JointTraining(**SMALL).predict(task(0)[0][0])
