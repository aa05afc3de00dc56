"""`DGMw` and `DGMa`."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clfast.methods import DGMa, DGMw
from clfast.methods.dgm import DGM
from clfast.methods.task_run import Progress

SMALL: dict[str, Any] = {
    "epochs": 2,
    "batch": 8,
    "width": 2,
    "noise": 8,
    "max_classes": 5,
    "critic_width": 3,
    "max_scale": 8.0,
}
METHODS: dict[str, type[DGM]] = {"DGMw": DGMw, "DGMa": DGMa}
BOTH = pytest.mark.parametrize("method", METHODS)


def task(*classes: int, each: int = 16) -> list[tuple[Tensor, Tensor]]:
    """Two batches of images with a bright bar, whose place is the class."""
    generator = torch.Generator().manual_seed(sum(classes))
    y = torch.tensor(classes).repeat_interleave(each)
    y = y[torch.randperm(len(y), generator=generator)]
    x = 0.3 * torch.rand(len(y), 1, 32, 32, generator=generator)
    for image, label in zip(x, y.tolist(), strict=True):
        image[:, 5 * label : 5 * label + 6] += 0.6
    half = len(y) // 2
    return [(x[:half], y[:half]), (x[half:], y[half:])]


def images(of: DGM, classes: list[int] | None = None, n: int = 3) -> Tensor:
    return of.generate(n, classes, generator=torch.Generator().manual_seed(1)).images


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# One iteration, written out


class Plain:
    """A state of DGM in a task as plain tensors, and an iteration on it: sections 3.1 to 3.4."""

    def __init__(self, state: dict[str, Any], unit: bool, options: dict[str, Any]) -> None:
        self.unit, self.options = unit, options
        self.run = state["run"]
        self.random = torch.Generator()
        self.random.set_state(state["random"])
        self.past = len(self.run["replay"])
        self.classes = len(state["classes"])
        self.sizes = state["widths"]
        g, t = state["generator"], len(self.sizes) - 1
        weights = [g[f"weights.{i}"] for i in range(3)]
        embeddings = [g[f"embeddings.{i}"] for i in range(3)]
        of_norms = [[v for k, v in g.items() if k.startswith(f"norms.{i}.")] for i in range(3)]
        # weight, bias, running mean, running variance and count of each task
        self.norms = [of[5 * t : 5 * t + 4] for of in of_norms]
        self.last = g[f"lasts.{t}.weight"]
        affine = [p for norm in self.norms for p in norm[:2]]
        self.G = [p.requires_grad_() for p in [*weights, *embeddings, *affine, self.last]]
        self.D = state["critic"]
        learnt = [v for k, v in self.D.items() if "running" not in k and "num" not in k]
        self.D_learnt = [p.requires_grad_() for p in learnt]
        self.reserved = [g[f"reserved_{i}"] for i in range(3)]
        self.blocked = [g[f"blocked_{i}"] for i in range(3)] if unit else self.reserved
        self.adam = {}
        for name, parameters in (("critic", self.D_learnt), ("generator", self.G)):
            adam = torch.optim.Adam(parameters, lr=options["lr"], betas=(0.5, 0.999))
            adam.load_state_dict(self.run["optimizers"][name])
            self.adam[name] = adam

    def generate(self, z: Tensor, s: float) -> Tensor:
        x = z.view(len(z), -1, 1, 1)
        for i in range(3):
            mask, weight = torch.sigmoid(s * self.G[3 + i]), self.G[i]
            if not self.unit:
                weight = weight * mask
            x = F.conv_transpose2d(x, weight, stride=2 if i else 1, padding=1 if i else 0)
            if self.unit:
                x = x * mask
            gamma, beta, mean, var = self.norms[i]
            x = F.relu(F.batch_norm(x, mean, var, gamma, beta, True, 0.1))
        return torch.tanh(F.conv_transpose2d(x, self.last, stride=2, padding=1))

    def judge(self, x: Tensor) -> tuple[Tensor, Tensor]:
        D = self.D
        x = F.leaky_relu(F.conv2d(x, D["features.0.weight"], stride=2, padding=2), 0.2)
        for conv, norm in ((2, 3), (5, 6)):
            x = F.conv2d(x, D[f"features.{conv}.weight"], stride=2, padding=2)
            mean, var = (D[f"features.{norm}.running_{kind}"] for kind in ("mean", "var"))
            gamma, beta = (D[f"features.{norm}.{kind}"] for kind in ("weight", "bias"))
            x = F.leaky_relu(F.batch_norm(x, mean, var, gamma, beta, True, 0.1), 0.2)
        x = x.reshape(len(x), -1)
        score = x @ D["score.weight"].T + D["score.bias"]
        return score, x @ D["classify.weight"].T + D["classify.bias"]

    def noise(self, y: Tensor) -> Tensor:
        z = torch.randn(len(y), self.options["noise"], generator=self.random, dtype=torch.float64)
        z[:, : self.options["max_classes"]] = 0
        for row, label in enumerate(y.tolist()):
            z[row, label] = 1
        return z

    def iterate(self, x: Tensor, y: Tensor, s: float, s_max: float) -> None:
        o, size, replay = self.options, len(x), self.run["replay"]
        # 1. The classifier: the batch and as many of each past class, in t + 1 minibatches.
        rows = torch.randint(replay.shape[1], (self.past, size), generator=self.random)
        old = [replay[c][rows[c]] for c in range(self.past)]
        labels = [torch.full((size,), c) for c in range(self.past)]
        mixed = torch.randperm(size * (1 + self.past), generator=self.random)
        every, targets = torch.cat([x, *old])[mixed], torch.cat([y, *labels])[mixed]
        for i in range(1 + self.past):
            part = slice(i * size, (i + 1) * size)
            self.adam["critic"].zero_grad()
            F.cross_entropy(self.judge(every[part])[1], targets[part]).backward()
            self.adam["critic"].step()
        # 2. The critic.
        with torch.no_grad():
            fake = self.generate(self.noise(y), s)
        mix = torch.rand(size, generator=self.random, dtype=torch.float64).view(-1, 1, 1, 1)
        self.adam["critic"].zero_grad()
        (-self.judge(x)[0].mean()).backward()
        self.judge(fake)[0].mean().backward()
        u = (mix * x + (1 - mix) * fake).requires_grad_()
        slope = torch.autograd.grad(self.judge(u)[0].sum(), u, create_graph=True)[0]
        norms = slope.square().sum((1, 2, 3)).sqrt()
        (o["penalty_weight"] * ((norms - 1) ** 2).mean()).backward()
        self.adam["critic"].step()
        # 3. The generator.
        score, logits = self.judge(self.generate(self.noise(y), s))
        masks = [torch.sigmoid(s * e) for e in self.G[3:6]]
        free = [(~r).double() for r in self.reserved]
        R = sum((m * f).sum() for m, f in zip(masks, free, strict=True)) / sum(
            f.sum() for f in free
        )
        alpha = sum(self.sizes[-1]) / sum(self.sizes[0])
        loss = -o["adversarial_weight"] * score.mean() + o["sparsity_weight"] * alpha * R
        if o["classify_fakes"]:
            loss = loss + F.cross_entropy(logits, y)
        self.adam["generator"].zero_grad()
        loss.backward()
        for weight, blocked in zip(self.G[:3], self.blocked, strict=True):
            weight.grad[blocked] = 0
        if o["compensation"] != "none":
            for e in self.G[3:6]:
                up = torch.cosh((s * e.detach()).clamp(-50, 50)) + 1
                e.grad *= s_max / s * up / (torch.cosh(e.detach()) + 1)
        total = math.sqrt(sum(float(p.grad.square().sum()) for p in self.G))
        if total > o["clip_norm"]:
            for p in self.G:
                p.grad *= o["clip_norm"] / total
        self.adam["generator"].step()
        if o["embedding_clamp"] is not None:
            for e in self.G[3:6]:
                e.data.clamp_(-o["embedding_clamp"], o["embedding_clamp"])


PARITY = {
    "authors": {},
    "reference": {"compensation": "reference"},
    "none": {"compensation": "none", "classify_fakes": True},
    "others": {"clip_norm": 0.05, "penalty_weight": 0.6, "embedding_clamp": 0.004},
}


@pytest.mark.parametrize("options", PARITY.values(), ids=PARITY)
@BOTH
def test_an_iteration_is_the_plain_one(method: str, options: dict[str, Any]) -> None:
    """Of the second task; numbers are drawn in the order in which the section has them."""
    dgm = METHODS[method](dtype=torch.float64, **SMALL, **options)
    dgm.fit_task(task(0))
    states = []
    batches = task(3, each=32)
    dgm.fit_task(batches, after_batch=lambda at: states.append((at, dgm.state_dict())))
    at, before = states[1]
    assert at == Progress(1, 0, 1, 1, 8)
    plain = Plain(before, method == "DGMa", vars(dgm.options))
    x = 2 * torch.cat([x for x, _ in batches]).double() - 1
    rows = before["run"]["order"][16:24]
    top = 1 / 8  # of the first epoch, Eq. 3
    s = (top - 1 / top) * 2 / 4 + 1 / top if method == "DGMw" else top
    plain.iterate(x[rows], torch.full((8,), 1), s, top)
    after = states[2][1]
    g, t = after["generator"], 1
    found = [g[f"{kind}.{i}"] for kind in ("weights", "embeddings") for i in range(3)]
    for value, expected in zip(found, plain.G, strict=False):
        torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(g[f"lasts.{t}.weight"], plain.last.detach(), rtol=1e-6, atol=1e-8)
    for name, value in after["critic"].items():
        if "num" not in name:
            torch.testing.assert_close(value, plain.D[name].detach(), rtol=1e-6, atol=1e-8)
    for i in range(3):
        of_norm = [v for k, v in g.items() if k.startswith(f"norms.{i}.")][5 : 5 + 4]
        for value, expected in zip(of_norm, plain.norms[i], strict=True):
            torch.testing.assert_close(value, expected.detach(), rtol=1e-6, atol=1e-8)
    assert torch.equal(after["random"], plain.random.get_state())


@pytest.mark.parametrize("normalise", ["code", "paper"])
@pytest.mark.parametrize("schedule", ["dgmw", "dgma", "dgmw_imnet", "hat"])
def test_the_largest_scale_of_an_epoch(schedule: Any, normalise: Any) -> None:
    """To which Eq. 4 comes at the end of the epoch; compensation is by it."""
    dgm = DGMw(**{**SMALL, "epochs": 4}, schedule=schedule, normalise=normalise)
    for epoch in range(4):
        scales, tops = zip(*(dgm._scales(epoch, batch, 5) for batch in range(5)), strict=True)
        assert len(set(tops)) == 1
        part = epoch / 3 if normalise == "paper" else (epoch + (schedule == "dgmw_imnet")) / 4
        of_epoch = (8 - 1 / 8) * part + 1 / 8
        assert tops[0] == pytest.approx(8 if schedule == "hat" else of_epoch)
        if schedule == "dgma":
            assert set(scales) == {tops[0]}
        elif normalise == "paper":
            assert scales[-1] == pytest.approx(tops[0])


# Tasks


@pytest.mark.parametrize("replay_mask", ["soft", "binary"])
@BOTH
def test_old_images_stay_bit_for_bit(method: str, replay_mask: Any) -> None:
    dgm = METHODS[method](**{**SMALL, "max_scale": 100.0}, replay_mask=replay_mask)
    found: list[Tensor] = []
    for number in range(3):
        dgm.fit_task(task(number))
        now = images(dgm)
        for past in found:
            assert torch.equal(now[: len(past)], past)
        found.append(now)
    assert not torch.equal(found[2][:3], found[2][3:6])
    widths = [sum(each["widths"]) for each in dgm.history]
    assert widths[0] < widths[1] < sum(dgm.generator.widths[-1])
    assert dgm.classes == [0, 1, 2]


def test_tasks_of_several_classes_in_any_order() -> None:
    dgm = DGMw(**SMALL)
    dgm.fit_task(task(4, 1))
    dgm.fit_task(task(3, 0))
    assert dgm.classes == [1, 4, 0, 3]
    found = dgm.generate(2, [3, 1])
    assert found.labels.tolist() == [3, 3, 1, 1]
    assert found.images.shape == (4, 1, 32, 32)
    assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1
    x = task(3)[0][0]
    labels = dgm.predict(x)
    assert set(labels.tolist()) <= {0, 1, 3, 4}
    scores = dgm.predict_log_proba(x)
    assert torch.equal(torch.tensor(dgm.classes)[scores.argmax(1)], labels)
    assert torch.equal(dgm.predict((255 * x).round().byte()), dgm.predict((255 * x).round() / 255))


def test_it_learns() -> None:
    dgm = DGMw(**{**SMALL, "epochs": 6, "lr": 5e-3, "critic_width": 6, "real_share": 1.0})
    for number in range(2):
        dgm.fit_task(task(number))
    for number in range(2):
        x, y = task(number, each=10)[0]
        assert float((dgm.predict(x) == y).float().mean()) > 0.8


def test_generated_images_alone_keep_old_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the same training without any image of the past."""
    options = {**SMALL, "epochs": 10, "lr": 5e-3, "critic_width": 6, "sparsity_weight": 0.0}
    kept = DGMw(**options)
    kept.fit_task(task(0))
    none = copy.deepcopy(kept)
    kept.fit_task(task(1))
    whole = DGMw._replayed
    monkeypatch.setattr(DGMw, "_replayed", lambda self, count: whole(self, count)[:0])
    none.fit_task(task(1))
    found = []
    for dgm in (kept, none):
        (x, y), (new_x, new_y) = task(0, each=20)[0], task(1, each=20)[0]
        assert float((dgm.predict(new_x) == new_y).float().mean()) > 0.8
        found.append(float((dgm.predict(x) == y).float().mean()))
    assert found[0] > 0.8
    assert found[1] < 0.2


@pytest.mark.parametrize("blocked", ["outputs", "both_ends"])
def test_what_the_authors_block_lets_old_images_drift(blocked: Any) -> None:
    """A unit that is masked out is a constant behind batch normalisation, which is read."""
    dgm = DGMa(**SMALL, blocked=blocked)

    def close_half(at: Progress) -> None:
        if at.step == at.steps - 1:
            with torch.no_grad():
                for embedding in dgm.generator.embeddings:
                    embedding[:, ::2] = -30.0

    dgm.fit_task(task(0), after_batch=close_half)
    before = images(dgm, [0])
    dgm.fit_task(task(1))
    assert torch.equal(images(dgm, [0]), before) == (blocked == "outputs")


@BOTH
def test_history(method: str) -> None:
    dgm = METHODS[method](**SMALL)
    for number in range(2):
        dgm.fit_task(task(number))
    for number, record in enumerate(dgm.history):
        assert record["task"] == number
        assert record["classes"] == [number]
        assert record["samples"] == 16
        assert [len(curve) for curve in record["losses"].values()] == [2, 2, 2, 2]
        newly, used = sum(record["newly_blocked"]), sum(record["used"])
        assert record["newly_blocked_ratio"] == newly / used
        assert record["newly_blocked_ratio"] + record["reused_ratio"] == pytest.approx(1)
        for way in record["masks"]:
            assert len(way["occupation"]) == 2
            assert len(way["values"][0]) <= 32
        assert record["bytes"]["masks"] > 0
    assert dgm.history[0]["newly_blocked_ratio"] == 1
    assert dgm.history[1]["alpha"] > dgm.history[0]["alpha"] == 1


def test_real_samples() -> None:
    share = DGMw(**SMALL, real_share=0.25)
    budget = DGMw(**SMALL, real_budget=10)
    for number in range(3):
        share.fit_task(task(number))
        budget.fit_task(task(number))
    assert share.real is not None
    assert budget.real is not None
    assert share.real.counts(3).tolist() == [4, 4, 4]
    assert len(budget.real) == 10
    assert min(budget.real.counts(3).tolist()) >= 3
    replays = []
    share.fit_task(task(3), after_batch=lambda at: replays.append(share._run))
    replay = replays[0].replay
    assert replay.shape == (3, 16, 1, 32, 32)
    stored = share.real.rows
    for label in range(3):
        real = stored["x"][stored["y"] == label]
        assert torch.equal(replay[label, :4], real)


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize(("first", "second"), [(40, 10), (10, 40)])
def test_the_share_of_real_samples_in_tasks_that_differ_in_size(
    first: int, second: int, share: float
) -> None:
    """It is r of the replay, and no more of a class is stored than r of its samples."""
    options = {**SMALL, "epochs": 1, "real_share": share}
    free, budget = DGMw(**options), DGMw(**options, real_budget=3)
    for dgm in (free, budget):
        dgm.fit_task(task(0, each=first))
        runs: list[Any] = []
        dgm.fit_task(
            task(1, each=second), after_batch=lambda at, to=runs, of=dgm: to.append(of._run)
        )
        replay = runs[0].replay[0]
        assert len(replay) == second
        samples = 2 * torch.cat([x for x, _ in task(0, each=first)]) - 1
        which = [[bool(torch.equal(image, real)) for real in samples] for image in replay]
        counts = torch.tensor(which).sum(0)
        stored = share * first if dgm is free else 3
        assert int(counts.sum()) == (share * second if dgm is free else 3)
        assert int((counts > 0).sum()) == min(stored, share * second)
        assert int(counts.max() - counts[counts > 0].min()) <= 1


def test_a_critic_may_go_on() -> None:
    dgm = DGMw(**SMALL, new_critic=False)
    dgm.fit_task(task(0))
    states = []
    score = dgm.state_dict()["critic"]["score.weight"]
    dgm.fit_task(task(1), after_batch=lambda at: states.append(dgm.state_dict()["critic"]))
    # The first steps move weights by lr at most, each.
    assert float((states[0]["score.weight"] - score).abs().max()) < 5 * 2e-3
    assert states[0]["classify.weight"].shape[0] == 2


# State


@pytest.mark.parametrize("options", [{}, {"real_budget": 6}], ids=["plain", "real"])
@BOTH
def test_a_state_in_a_new_learner_goes_on_alike(method: str, options: dict[str, Any]) -> None:
    dgm = METHODS[method](**SMALL, **options)
    for number in range(2):
        dgm.fit_task(task(number))
    other = METHODS[method](**SMALL, **options, seed=9)
    other.load_state_dict(dgm.state_dict())
    twins = [other, copy.deepcopy(dgm), pickle.loads(pickle.dumps(dgm))]
    for twin in twins:
        assert same(twin.state_dict(), dgm.state_dict())
    dgm.fit_task(task(2))
    for twin in twins:
        twin.fit_task(task(2))
        assert same(twin.state_dict(), dgm.state_dict())


@pytest.mark.parametrize("stop", [0, 1, 3])
@BOTH
def test_a_state_in_the_middle_of_a_task_goes_on_alike(method: str, stop: int) -> None:
    dgm = METHODS[method](**SMALL)
    dgm.fit_task(task(0))
    states = []
    dgm.fit_task(task(1), after_batch=lambda at: states.append(dgm.state_dict()))
    assert len(states) == 4
    other = METHODS[method](**SMALL, seed=9)
    other.load_state_dict(states[stop])
    other.fit_task(task(1))
    assert same(other.state_dict(), dgm.state_dict())


def test_a_state_is_what_torch_saves(tmp_path: Any) -> None:
    dgm = DGMw(**SMALL, real_share=0.5)
    dgm.fit_task(task(0))
    torch.save(dgm.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert same(state, dgm.state_dict())


def test_use_changes_nothing() -> None:
    dgm = DGMa(**SMALL)
    dgm.fit_task(task(0))
    before = dgm.state_dict()
    dgm.generate(3)
    dgm.predict(task(0)[0][0])
    assert same(dgm.state_dict(), before)
