"""ARM: as Algorithm 1 says, exactly cheaper, and unharmed by bad input."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from networks import Residual, batches, mlp, same
from torch import Tensor, nn

from benchmarks.baselines.arm import AS_PUBLISHED, VECTORISED, Losses, PlainARM
from clfast.methods import ARM

OPTIONS: dict[str, Any] = {"snapshot": 2, "images": 20, "steps": 3, "lr": 0.5}


def _arm(model: nn.Module, **options: Any) -> ARM:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(7)
    return ARM(model, optimizer, **{**OPTIONS, "generator": generator, **options})


def _residual() -> nn.Module:
    torch.manual_seed(1)
    return Residual().double()


def _flat() -> nn.Module:
    torch.manual_seed(1)
    return mlp().double()


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize("losses", [VECTORISED, AS_PUBLISHED], ids=["vectorised", "published"])
@pytest.mark.parametrize(("flat", "images"), [(False, 20), (True, 20), (True, 3)])
def test_the_algorithm(dedup: bool, losses: Losses, flat: bool, images: int) -> None:
    """As the authors' code runs it, on every copy and by autograd."""
    make, shape = (_flat, (2, 4, 6)) if flat else (_residual, None)
    learner = _arm(make(), teach_from=0, images=images, image_shape=shape, dedup=dedup)
    model = make()
    plain = PlainARM(
        *(model, torch.optim.SGD(model.parameters(), lr=0.05), losses),
        images=images,
        steps=OPTIONS["steps"],
        lr=OPTIONS["lr"],
        image_shape=shape,
        generator=torch.Generator().manual_seed(7),
    )
    for t, (x, y) in enumerate(batches(6, 2, 4, 6)):
        given = x.flatten(1) if flat else x
        if t % OPTIONS["snapshot"] == 0:
            plain.on_task_end()
        plain.observe(given, y)
        learner.observe(given, y)
    for ours, theirs in ((learner.model, plain.model), (learner.old, plain.old)):
        assert ours is not None
        assert theirs is not None
        expected = theirs.state_dict()
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("joint", ["separate", "joint"])
def test_distinct_images_alone_are_exact(flat: bool, joint: str) -> None:
    """Images, running statistics and parameters, to 1e-12 in float64."""
    shape = {"image_shape": (2, 4, 6)} if flat else {}
    learners = [
        _arm(_flat() if flat else _residual(), dedup=dedup, replay_mean=joint, **shape)
        for dedup in (True, False)
    ]
    for x, y in batches(6, 2, 4, 6):
        given = x.flatten(1) if flat else x
        losses = [learner.observe(given, y) for learner in learners]
        assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    first, second = (learner.recall(given, y) for learner in learners)
    torch.testing.assert_close(first.images, second.images, rtol=0, atol=1e-12)
    torch.testing.assert_close(first.old_logits, second.old_logits, rtol=0, atol=1e-11)
    for modules in (
        [learner.model for learner in learners],
        [learner.old for learner in learners],
    ):
        a, b = (module.state_dict() for module in modules if module is not None)
        for name, ours in a.items():
            torch.testing.assert_close(ours, b[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("images", [20, 3])
def test_a_network_whose_calls_are_watched_learns_the_same(images: int) -> None:
    """A hook, that does nothing, has the network called; a plain one is run layer by layer."""
    learners = []
    for watched in (False, True):
        model = _flat()
        if watched:
            model.register_forward_hook(lambda *_: None)
        learners.append(_arm(model, images=images, image_shape=(2, 4, 6)))
    for x, y in batches(6, 2, 4, 6):
        losses = [learner.observe(x.flatten(1), y) for learner in learners]
        assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    plain, watched_too = (learner.model.state_dict() for learner in learners)
    for name, ours in plain.items():
        torch.testing.assert_close(ours, watched_too[name], rtol=0, atol=1e-12)


def test_recalled_images_leave_the_batch_and_the_model_alone() -> None:
    learner = _arm(_residual(), bn_track_recall=False)
    stream = batches(4, 2, 4, 6)
    for x, y in stream:
        learner.observe(x, y)
    x, y = stream[-1]
    learner.model.zero_grad(set_to_none=True)
    before = copy.deepcopy(learner.model.state_dict())
    kept = x.clone()
    found = learner.recall(x, y)
    assert found.images.shape == (20, 2, 4, 6)
    assert found.old_logits.shape == (20, 4)
    assert torch.equal(x, kept)
    assert len(found.images.flatten(1).unique(dim=0)) <= len(x)
    assert not torch.equal(found.images[:5], x)
    assert all(p.grad is None for p in learner.model.parameters())
    for name, entry in learner.model.state_dict().items():
        assert torch.equal(entry, before[name]), name


def test_recall_disagrees_more_with_every_step() -> None:
    """On the loss that the images minimise."""
    losses = []
    for steps in (1, 5, 20):
        learner = _arm(_residual(), steps=steps, divergence_weight=8.0, bn_track_recall=False)
        for x, y in batches(4, 2, 4, 6):
            found = learner.observe(x, y)
        losses.append(found["recall"])
    assert losses[0] > losses[1] > losses[2]


def test_when_recall_begins() -> None:
    x, y = batches(1, 2, 4, 6)[0]
    learner = _arm(_residual(), snapshot="task")
    assert set(learner.observe(x, y)) == {"loss"}
    with pytest.raises(RuntimeError, match=r"ARM\.recall: there is no network from before"):
        learner.recall(x, y) if learner.old is None else None
    learner.on_task_end()
    assert set(learner.observe(x, y)) == {"loss", "recall", "replay", "distill"}
    lagging = _arm(_residual(), snapshot=1, teach_from=3)
    assert [len(lagging.observe(x, y)) for _ in range(5)] == [1, 1, 1, 4, 4]
    by_steps = _arm(_residual(), snapshot=2)
    assert [len(by_steps.observe(x, y)) for _ in range(4)] == [1, 1, 4, 4]


@pytest.mark.parametrize(
    "changes",
    [
        {"start": "noise"},
        {"divergence": "js"},
        {"divergence": "ce"},
        {"repeats": 2},
        {"repeats": 2, "refine_from_scratch": True},
        {"images": 3},
        {"replay_weight": 0.0},
        {"distill_weight": 2.0},
        {"bn_track_recall": False},
        {"tv_weight": 5.0},
    ],
)
def test_options_change_what_is_learnt(changes: dict[str, Any]) -> None:
    states = []
    for given in ({}, changes, changes):
        learner = _arm(_residual(), **given)
        for x, y in batches(4, 2, 4, 6):
            learner.observe(x, y)
        states.append(learner.model.state_dict())
    plain, changed, again = states
    assert any(not torch.equal(plain[name], changed[name]) for name in plain)
    assert all(torch.equal(again[name], changed[name]) for name in plain)


def test_a_model_with_dropout_runs_every_copy_and_says_so_once() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 20), nn.Dropout(0.5), nn.Linear(20, 4))
    learner = _arm(model.double())
    stream = batches(6, 2, 4, 6)
    for x, y in stream[:2]:
        learner.observe(x, y)
    with pytest.warns(UserWarning, match="ARM: model treats equal images") as heard:
        learner.observe(*stream[2])
    assert heard[0].filename == __file__
    for x, y in stream[3:]:
        learner.observe(x, y)  # a second warning would be an error
        learner.on_task_end()
    assert len(learner.recall(x, y).images) == 20
    in_another_loop = _arm(model)
    in_another_loop.old = learner.old
    with pytest.warns(UserWarning, match="ARM: model treats equal images") as heard:
        in_another_loop.recall(x, y)
    assert heard[0].filename == __file__


def test_states_are_restored_bit_for_bit() -> None:
    stream = batches(8, 2, 4, 6)
    learner = _arm(_residual())
    for x, y in stream[:5]:
        learner.observe(x, y)
    state = learner.state_dict()
    fresh, copied = _arm(_residual()), pickle.loads(pickle.dumps(learner))
    fresh.load_state_dict(state)
    for x, y in stream[5:]:
        wanted = learner.observe(x, y)
        assert fresh.observe(x, y) == wanted
        assert copied.observe(x, y) == wanted
    x = stream[0][0]
    assert torch.equal(fresh.predict_log_proba(x), learner.predict_log_proba(x))
    broken = {**state, "old": {"nothing": torch.ones(1)}}
    before = learner.state_dict()
    with pytest.raises(ValueError, match=r"(?s)ARM\.load_state_dict: .*nothing was loaded"):
        learner.load_state_dict(broken)
    with pytest.raises(ValueError, match="must have the parts"):
        learner.load_state_dict({"model": state["model"]})
    assert same(before, learner.state_dict())


def _nan(x: Tensor) -> Tensor:
    x = x.clone()
    x[1] = float("nan")
    return x


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x, y + 4), ValueError, "y holds label"),
        (lambda x, y: (x, y[1:]), ValueError, "y must have shape"),
        (lambda x, y: (x, y.int()), TypeError, "y must be int64"),
        (lambda x, y: (x[:, :1], y), ValueError, "model cannot take x"),
        (lambda x, y: (x.long(), y), TypeError, "x must be float32 or float64"),
        (lambda x, y: (x[0], y[:1]), ValueError, "image_shape"),
        (lambda x, y: (x.numpy(), y), TypeError, "x must be a torch.Tensor"),
        (lambda x, y: (_nan(x), y), ValueError, "ARM.observe: x holds NaN"),
    ],
)
@pytest.mark.parametrize("calls", [0, 2, 3])
def test_bad_batches_leave_everything_as_it_was(
    change: Any, error: type[Exception], message: str, calls: int
) -> None:
    learner = _arm(_residual())
    stream = batches(4, 2, 4, 6)
    for x, y in stream[:calls]:
        learner.observe(x, y)
    learner.model.eval()
    before = learner.state_dict()
    with pytest.raises(error, match=message):
        learner.observe(*change(*stream[-1]))
    assert same(before, learner.state_dict())
    assert not any(module.training for module in learner.model.modules())
    learner.observe(*stream[-1])


def test_an_empty_batch_is_refused() -> None:
    learner = _arm(_residual())
    before = learner.state_dict()
    with pytest.raises(ValueError, match=r"ARM\.observe: x is an empty batch"):
        learner.observe(torch.zeros(0, 2, 4, 6).double(), torch.zeros(0).long())
    assert same(before, learner.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"snapshot": 0}, "snapshot must be"),
        ({"snapshot": "epoch"}, "snapshot must be"),
        ({"divergence": "kl"}, "divergence must be"),
        ({"start": "zeros"}, "start must be"),
        ({"replay_mean": "sum"}, "replay_mean must be"),
        ({"repeats": 0}, "repeats must be"),
        ({"image_shape": (8, 8)}, r"image_shape must be \(Ch, H, W\)"),
        ({"image_shape": (-1, 8, -8)}, "image_shape must be at least 1"),
        ({"image_shape": "x"}, "image_shape must be"),
        ({"teach_from": -1}, "teach_from must be"),
        ({"lr": float("nan")}, "lr must be finite"),
        ({"lr": -10.0}, r"lr must be finite and in \[0, inf\), got -10"),
        ({"tv_weight": float("inf")}, "tv_weight must be finite"),
        ({"replay_weight": float("nan")}, "replay_weight must be finite"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"ARM: {message}"):
        _arm(_residual(), **options)


def test_bad_models_and_optimizers() -> None:
    model, other = _residual(), _residual()
    sgd = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="ARM: optimizer holds parameters of another model"):
        ARM(model, sgd)
    with pytest.raises(ValueError, match="ARM: model has no parameters"):
        ARM(nn.Flatten(), sgd)
    with pytest.raises(TypeError, match=r"ARM: model must be an nn\.Module"):
        ARM(None, sgd)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ARM: optimizer must be a torch optimizer"):
        ARM(model, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"images": 10.5}, "images"),
        ({"snapshot": 2, "repeats": 1.5}, "repeats"),
        ({"diversity": None}, "diversity"),
        ({"generator": 3}, "generator"),
        ({"dedup": "False"}, "dedup"),
        ({"bn_track_recall": None}, "bn_track_recall"),
        ({"cuda_graph": 2}, "cuda_graph"),
        ({"refine_from_scratch": "no"}, "refine_from_scratch"),
    ],
)
def test_options_of_a_wrong_kind(options: dict[str, Any], name: str) -> None:
    with pytest.raises(TypeError, match=f"ARM: {name} must be"):
        _arm(_residual(), **options)


def test_vectors_need_the_shape_of_their_images() -> None:
    x, y = batches(1, 2, 4, 6)[0]
    with pytest.raises(ValueError, match=r"ARM\.observe: x must be images .*image_shape"):
        _arm(_flat()).observe(x.flatten(1), y)
    with pytest.raises(ValueError, match=r"no image of image_shape \(1, 8, 7\)"):
        _arm(_flat(), image_shape=(1, 8, 7)).observe(x.flatten(1), y)


def test_what_a_model_puts_in_place_of_its_buffers_is_undone() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(48, 4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            logits: Tensor = self.layer(x.flatten(1))
            return logits

    learner = _arm(Counting().double())
    x, y = batches(1, 2, 4, 6)[0]
    with pytest.raises(ValueError, match="y holds label"):
        learner.observe(x, y + 9)
    assert learner.model.calls == 0


def test_states_of_learners_with_and_without_a_generator_do_not_mix() -> None:
    with_one, without = _arm(_residual()), _arm(_residual(), generator=None)
    for first, second in ((with_one, without), (without, with_one)):
        with pytest.raises(ValueError, match="with a generator, the other without"):
            first.load_state_dict(second.state_dict())


def test_a_snapshot_taken_in_inference_mode_teaches() -> None:
    learner = _arm(_residual(), snapshot="task")
    stream = batches(4, 2, 4, 6)
    learner.observe(*stream[0])
    with torch.inference_mode():
        learner.on_task_end()
    assert "replay" in learner.observe(*stream[1])


class _Infinite(nn.Module):
    """A finite output whose gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits + (self.layer.weight.sum() * 0).sqrt()


def test_gradients_that_are_not_finite_take_no_step() -> None:
    torch.manual_seed(0)
    learner = _arm(_Infinite().double())
    before = learner.state_dict()
    with pytest.raises(ValueError, match=r"ARM\.observe: the gradient of the loss on x holds NaN"):
        learner.observe(*batches(1, 2, 4, 6)[0])
    assert same(before, learner.state_dict())


def test_recall_refuses_what_observe_refuses() -> None:
    learner = _arm(_residual())
    stream = batches(4, 2, 4, 6)
    for x, y in stream:
        learner.observe(x, y)
    learner.model(x).sum().backward()
    gradients = [p.grad.clone() for p in learner.model.parameters()]
    before = learner.state_dict()
    for bad_x, bad_y, error in (
        (torch.cat([x, x], 1), y, ValueError),
        (x * float("nan"), y, ValueError),
        (x, y + 9, ValueError),
        (x, y[1:], ValueError),
        (x, y.double(), TypeError),
        (x, y.tolist(), TypeError),
        (x[:0], y[:0], ValueError),
    ):
        with pytest.raises(error, match=r"ARM\.recall"):
            learner.recall(bad_x, bad_y)
        assert same(before, learner.state_dict())
        now = [p.grad for p in learner.model.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(gradients, now, strict=True))
    assert len(learner._recall.draw(learner.model, x, y, set()).rows) <= 5  # still run once


def test_a_model_that_has_grown_has_a_new_network_before() -> None:
    learner = _arm(_residual(), snapshot="task")
    stream = batches(4, 2, 4, 6)
    learner.observe(*stream[0])
    learner.on_task_end()
    learner.model.head = nn.Linear(6, 9).double()
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.05)
    learner.on_task_end()
    assert learner.old is not None
    assert learner.old(stream[0][0]).shape == (5, 9)
    learner.observe(*stream[1])


def test_batches_made_in_inference_mode() -> None:
    learner = _arm(_residual())
    with torch.inference_mode():
        for x, y in batches(4, 2, 4, 6):
            learner.observe(x, y)
    assert learner.calls == 4


@pytest.mark.parametrize("repeats", [1, 2])
def test_teaching_alone_is_what_observe_does_after_its_step(repeats: int) -> None:
    """For loops that take the step on the batch themselves."""
    whole = _arm(_flat(), snapshot="task", image_shape=(2, 4, 6), repeats=repeats)
    taught = _arm(_flat(), snapshot="task", image_shape=(2, 4, 6), repeats=repeats)
    for t, (x, y) in enumerate(batches(6, 2, 4, 6)):
        losses = whole.observe(x.flatten(1), y)
        taught.optimizer.zero_grad()
        nn.functional.cross_entropy(taught.model(x.flatten(1)), y).backward()
        taught.optimizer.step()
        found = taught.teach(x.flatten(1), y)
        assert found.keys() == (set() if t < 2 else {"recall", "replay", "distill"})
        assert all(found[name] == losses[name] for name in found)
        same(whole.model, taught.model)
        if t % 2:
            for learner in (whole, taught):
                learner.on_task_end()
    assert taught.seen == whole.seen
    assert taught.calls == whole.calls


def test_teaching_alone_is_refused_where_it_cannot_be() -> None:
    (x, y), *_ = batches(1, 2, 4, 6)
    learner = _arm(_residual())
    with pytest.raises(ValueError, match=r"ARM.teach: snapshot is 2, .* snapshot='task'"):
        learner.teach(x, y)
    learner = _arm(_residual(), snapshot="task")
    before = copy.deepcopy(learner.state_dict())
    for labels, error in ((y.int(), TypeError), (-1 - y, ValueError), (y[:1], ValueError)):
        with pytest.raises(error, match=r"ARM\.teach: y"):
            learner.teach(x, labels)
    with pytest.raises(ValueError, match=r"ARM\.teach: x is an empty batch"):
        learner.teach(x[:0], y[:0])
    torch.testing.assert_close(learner.state_dict(), before, rtol=0, atol=0)
