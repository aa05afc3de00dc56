"""What all learners with exemplars share: phases, exemplars, states, and errors."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exemplar_learners import (
    CLASSES,
    PHASES,
    First,
    alike,
    assert_same_models,
    classes_of,
    every_learner,
    learner,
    learnt,
    network,
    optimizer_of,
    samples,
    unchanged,
)
from torch import Tensor, nn

from clfast.memory import ExemplarMemory
from clfast.methods import BiC, LwF, Phase, PhaseProgress
from clfast.methods.exemplar_selection import Exemplars, Network
from clfast.methods.weight_transfer import WeightTransfer
from clfast.nn import CosineLinear


def test_two_phases_by_hand() -> None:
    """LwF with exemplars: epochs, even batches, rates, exemplars, fine-tuning."""
    phase = Phase(epochs=3, batch=4, milestones=(1, 2), finetune_epochs=2, finetune_lr=0.03)
    options: dict[str, Any] = {"weight": 0.5, "phase": phase}
    lwf = learner("LwF", **options)
    plain = network()
    generator = torch.Generator().manual_seed(0)
    kept_x, kept_y = torch.empty(0, 1, 5, 5).double(), torch.empty(0, dtype=torch.int64)
    old: nn.Module | None = None
    for number in range(2):
        x, y = samples(PHASES[number], seed=number)
        found = lwf.fit_task([(x[:5], y[:5]), (x[5:], y[5:])])
        seen = classes_of(number + 1)
        before = classes_of(number)
        all_x, all_y = torch.cat([x, kept_x]), torch.cat([y, kept_y])
        sgd = optimizer_of(plain)
        losses: list[Tensor] = []

        def train(on_x: Tensor, on_y: Tensor, lr: float, teacher: nn.Module | None) -> None:
            order = torch.randperm(len(on_y), generator=generator)
            batches = -(-len(order) // 4)
            small, rest = divmod(len(order), batches)
            sizes = [small + 1] * rest + [small] * (batches - rest)
            losses.clear()  # noqa: B023
            sgd.param_groups[0]["lr"] = lr  # noqa: B023
            for rows in order.split(sizes):
                logits = plain(on_x[rows])
                position = torch.tensor([seen.index(label) for label in on_y[rows].tolist()])  # noqa: B023
                loss = F.cross_entropy(logits[:, seen], position)  # noqa: B023
                losses.append(loss.detach())  # noqa: B023
                if teacher is not None:
                    with torch.no_grad():
                        target = (teacher(on_x[rows])[:, before] / 2).softmax(1)  # noqa: B023
                    loss = loss + 0.5 * F.kl_div(
                        (logits[:, before] / 2).log_softmax(1),  # noqa: B023
                        target,
                        reduction="batchmean",
                    )
                sgd.zero_grad()  # noqa: B023
                loss.backward()
                sgd.step()  # noqa: B023

        plain.train()
        for lr in (0.1, 0.01, 0.001):
            train(all_x, all_y, lr, old)
        assert found["loss"] == pytest.approx(float(torch.stack(losses).mean()))
        firsts = [(x[y == label][:3], label) for label in PHASES[number]]
        kept = [(0.5 * kept_x[kept_y == label], label) for label in before] + firsts
        kept.sort(key=lambda pair: pair[1])
        kept_x = torch.cat([images for images, _ in kept])
        kept_y = torch.tensor([label for _, label in kept]).repeat_interleave(3)
        assert torch.equal(lwf.exemplars.x, kept_x)
        assert torch.equal(lwf.exemplars.y, kept_y)
        sgd = optimizer_of(plain)
        statistics = {name: buffer.clone() for name, buffer in plain.named_buffers()}
        for _ in range(2):
            train(kept_x, kept_y, 0.03, None)
        for name, buffer in plain.named_buffers():
            buffer.copy_(statistics[name])
        old = copy.deepcopy(plain).eval()
    assert_same_models(lwf.model, plain)
    assert lwf.optimizer.param_groups[0]["lr"] == 0.1
    assert lwf.phases == 2
    assert lwf.old_classes == [0, 3, 4]


@every_learner
def test_learning_works(name: str) -> None:
    phase = Phase(epochs=40, batch=16, milestones=(20, 30))
    method = learnt(name, phases=3, phase=phase)
    x, y = samples([0, 1, 2, 3, 4], each=20, seed=9)
    accuracy = float((method.predict(x) == y).double().mean())
    assert accuracy > (0.4 if name == "LwF" else 0.6), accuracy
    assert method.exemplars.classes == [0, 1, 2, 3, 4]


@every_learner
def test_only_classes_seen_are_predicted(name: str) -> None:
    method = learnt(name)
    x, _ = samples([0, 1, 2, 3, 4], seed=5)
    scores = method.predict_log_proba(x)
    assert set(method.predict(x).tolist()) <= {0, 3}
    assert torch.isneginf(scores[:, [1, 2, 4]]).all()
    torch.testing.assert_close(scores[:, [0, 3]].exp().sum(1), torch.ones(len(x)).double())
    assert torch.equal(scores.argmax(1), method.predict(x))
    with unchanged(method):
        method.predict(x)


@every_learner
def test_labels_may_leave_numbers_out(name: str) -> None:
    plain, gaps = learner(name), learner(name, classes=9)
    places = [1, 2, 4, 7, 8]
    own = dict(plain.model.get_submodule("head").named_parameters())
    with torch.no_grad():
        for part, parameter in gaps.model.get_submodule("head").named_parameters():
            if parameter.dim():
                parameter[places] = own[part]
    gaps.model.features.load_state_dict(plain.model.features.state_dict())
    for number in range(2):
        x, y = samples(PHASES[number], seed=number)
        plain.fit_task([(x, y)])
        gaps.fit_task([(x, torch.tensor(places)[y])])
    x, _ = samples([0, 3, 4], seed=5)
    one, other = plain.predict_log_proba(x), gaps.predict_log_proba(x)
    torch.testing.assert_close(other[:, places], one)
    assert torch.isneginf(other[:, [0, 3, 5, 6]]).all()


@every_learner
@pytest.mark.parametrize("transfer", [None, "scale_shift"])
def test_a_phase_goes_on_from_any_epoch(name: str, transfer: Any) -> None:
    phase = Phase(epochs=3, batch=8, milestones=(2,), finetune_epochs=1)
    options: dict[str, Any] = {"phase": phase, "transfer": transfer}
    whole = learnt(name, phases=2, **options)
    states: list[Any] = []

    def after_epoch(at: PhaseProgress) -> None:
        assert at == PhaseProgress(1, len(states) + 1, 3)
        file = io.BytesIO()
        torch.save(method.state_dict(), file)
        file.seek(0)
        states.append(torch.load(file, weights_only=True))

    method = learnt(name, **options)
    method.fit_task([samples(PHASES[1], seed=1)], after_epoch=after_epoch)
    assert alike(method.state_dict(), whole.state_dict())
    for state in states:
        other = learner(name, **options)
        other.load_state_dict(state)
        assert alike(other.state_dict(), state)
        other.fit_task([samples(PHASES[1], seed=1)])
        assert alike(other.state_dict(), whole.state_dict())


@every_learner
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradient_modes_do_not_matter(name: str, mode: Any) -> None:
    plain, method = learnt(name, phases=2), learner(name)
    with mode():
        for number in range(2):
            x, y = samples(PHASES[number], seed=number)
            method.fit_task([(x.clone(), y.clone())])
    assert alike(method.state_dict(), plain.state_dict())
    x, y = samples(PHASES[2])
    assert method.observe(x, y) == plain.observe(x, y)


@every_learner
def test_copies_go_on_alike(name: str) -> None:
    method = learnt(name, phases=2, transfer="scale")
    twins = [copy.deepcopy(method), pickle.loads(pickle.dumps(method))]
    for each in (method, *twins):
        each.fit_task([samples(PHASES[2], seed=2)])
        assert alike(each.state_dict(), method.state_dict())


@every_learner
def test_what_is_raised_undoes_the_phase(name: str) -> None:
    def after_epoch(at: PhaseProgress) -> None:
        if at.epoch == 2:
            raise KeyboardInterrupt

    for phases in (0, 1, 2):
        method = learnt(name, phases=phases, transfer="scale")
        task = [samples(PHASES[phases], seed=1)]
        with unchanged(method), pytest.raises(KeyboardInterrupt):
            method.fit_task(task, after_epoch=after_epoch)


@every_learner
def test_a_selection_that_fails_undoes_the_phase(name: str) -> None:
    class Broken(First):
        def _adjust(self, network: Network, exemplars: Exemplars, generator: Any) -> Exemplars:
            raise RuntimeError("no exemplars")

    method = learnt(name, selection=Broken())
    with unchanged(method), pytest.raises(RuntimeError, match=f"^{name}.fit_task: no exemplars"):
        method.fit_task([samples(PHASES[1])])


def test_lwf_needs_no_exemplars() -> None:
    """Nor modules of certain names."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 5)).double()
    method = LwF(model, torch.optim.SGD(model.parameters(), lr=0.1), phase=Phase(2, 4))
    for number in range(2):
        method.fit_task([samples(PHASES[number], seed=number)])
    assert len(method.exemplars) == 0
    assert method.old_classes == [0, 3, 4]


@every_learner
def test_a_stream(name: str) -> None:
    method = (
        learner(name, exemplars=ExemplarMemory(3)) if name == "LwF" else learner(name, replay=2)
    )
    for number in range(2):
        x, y = samples(PHASES[number], seed=number)
        for rows in torch.arange(len(y)).split(4):
            losses = method.observe(x[rows], y[rows])
            assert losses["loss"] > 0
        assert method.exemplars.classes == classes_of(number)
        with unchanged(method), pytest.raises(TypeError, match="loader must give the task's"):
            method.on_task_end()
        method.on_task_end([(x, y)])
        assert method.exemplars.classes == classes_of(number + 1)
    x, _ = samples([0, 3, 4])
    assert set(method.predict(x).tolist()) <= {0, 1, 2, 3, 4}
    before = copy.deepcopy(method.state_dict())
    twin = learner(name, exemplars=ExemplarMemory(3)) if name == "LwF" else learner(name, replay=2)
    twin.load_state_dict(before)
    task = samples(PHASES[2], seed=3)
    assert method.observe(*task) == twin.observe(*task)
    assert alike(method.state_dict(), twin.state_dict())


def test_replayed_exemplars_come_from_the_generator() -> None:
    method = learnt("ICaRL", replay=4, loss="softmax")
    x, y = samples(PHASES[1])
    generator = torch.Generator()
    generator.set_state(method.generator.get_state())
    drawn = torch.randperm(6, generator=generator)[:4]
    both = torch.cat([x, method.exemplars.x[drawn]]), torch.cat([y, method.exemplars.y[drawn]])
    other = copy.deepcopy(method)
    other.replay = 0
    assert method.observe(x, y) == other.observe(*both)


@every_learner
def test_uint8_images(name: str) -> None:
    levels = [((255 * x).round().clamp(0, 255).byte(), y) for x, y in map(samples, PHASES)]
    options: dict[str, Any] = {"selection": None, "dtype": torch.float32}
    bytes_, floats = learner(name, **options), learner(name, **options)
    for x, y in levels[:2]:
        bytes_.fit_task([(x, y)])
        floats.fit_task([(x.float() / 255, y)])
    assert bytes_.exemplars.x.dtype == torch.uint8
    assert_same_models(bytes_.model, floats.model)
    x, _ = levels[2]
    assert torch.equal(bytes_.predict(x), floats.predict(x.float() / 255))


def test_a_total_budget_shrinks() -> None:
    method = learner("ICaRL", exemplars=ExemplarMemory(total=8))
    counts = []
    for number, classes in enumerate(PHASES):
        method.fit_task([samples(classes, seed=number)])
        counts.append(torch.bincount(method.exemplars.y, minlength=CLASSES).tolist())
    # ceil(8 / 2), ceil(8 / 3), ceil(8 / 5)
    assert counts == [[4, 0, 0, 4, 0], [3, 0, 0, 3, 3], [2, 2, 2, 2, 2]]
    large = learner("ICaRL", exemplars=ExemplarMemory(total=80))
    large.fit_task([samples([0, 1])])
    assert len(large.exemplars) == 12


def test_a_budget_for_bic() -> None:
    with pytest.raises(ValueError, match="BiC: exemplars must be at least 2 of each class"):
        learner("BiC", exemplars=ExemplarMemory(1))
    method = learner("BiC", exemplars=ExemplarMemory(total=2))
    with unchanged(method), pytest.raises(ValueError, match="the budget for 2 classes gives 1"):
        method.fit_task([samples([0, 1])])


def test_augmentation_sees_every_batch() -> None:
    shapes = []

    def augment(x: Tensor, generator: torch.Generator) -> Tensor:
        shapes.append(list(x.shape))
        return x + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype)

    phase = Phase(epochs=2, batch=5, augment=augment, finetune_epochs=1)
    method = learnt("ICaRL", phases=1, phase=phase)
    assert shapes == [[4, 1, 5, 5]] * 6 + [[3, 1, 5, 5]] * 2
    assert torch.equal(method.exemplars.x[3:], samples(PHASES[0])[0][::2][:3])


@pytest.mark.parametrize("kind", ["scale", "scale_shift"])
def test_weight_transfer(kind: Any) -> None:
    """Against a network whose convolutions compute their weights from scale and shift."""
    model = network()
    transfer = WeightTransfer(model, optimizer_of(model), kind)
    other = network()
    convs = [other.features[0], other.features[3]]
    base = [conv.weight.detach().clone() for conv in convs]
    shape = [(4, 1, 1, 1), (6, 4, 1, 1)]
    scale = [torch.ones(s).double().requires_grad_() for s in shape]
    shift = [torch.zeros(s).double().requires_grad_() for s in shape]
    learnt_too = [p for p in other.parameters() if p.dim() != 4]
    trained = [*scale, *(shift if kind == "scale_shift" else [])]
    sgd = torch.optim.SGD([*learnt_too, *trained], lr=0.1, momentum=0.9, weight_decay=0.01)
    x, y = samples([0, 1, 2])
    for _ in range(3):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        transfer.step()
        weights = {
            f"features.{place}.weight": b * s + t
            for place, b, s, t in zip((0, 3), base, scale, shift, strict=True)
        }
        sgd.zero_grad()
        F.cross_entropy(torch.func.functional_call(other, weights, (x,)), y).backward()
        sgd.step()
    for ours, theirs in zip(transfer.scale + transfer.shift, scale + shift, strict=True):
        torch.testing.assert_close(ours, theirs)
    effective = [b * s + t for b, s, t in zip(base, scale, shift, strict=True)]
    torch.testing.assert_close(model.features[3].weight, effective[1])
    assert bool((transfer.shift[0] != 0).any()) == (kind == "scale_shift")


def test_transfer_begins_with_the_second_phase() -> None:
    method = learnt("ICaRL", transfer="scale")
    first = method.model.features[3].weight.detach().clone()
    for number in (1, 2):
        method.fit_task([samples(PHASES[number], seed=number)])
        ratio = method.model.features[3].weight / first
        torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))
        assert not torch.equal(method.model.features[3].weight, first)
    plain = learner("ICaRL")
    with unchanged(plain), pytest.raises(ValueError, match="made without transfer; nothing was"):
        plain.load_state_dict(method.state_dict())


def test_the_selection_sees_classes_seen_alone() -> None:
    """With a head for these: outputs that nothing has trained say nothing."""
    widths = []

    class Looking(First):
        def _select(self, network: Network, x: Tensor, y: Tensor, *rest: Any) -> Exemplars:
            logits = network.head(network.features(x))
            widths.append((type(network.head), logits.shape[1], y.unique().tolist()))
            return super()._select(network, x, y, *rest)

    for name, kind in (("ICaRL", nn.Linear), ("LUCIR", CosineLinear)):
        learnt(name, phases=2, selection=Looking())
        assert widths == [(kind, 2, [0, 1]), (kind, 3, [2])]
        widths.clear()
    model = network()
    head = nn.Sequential(nn.Tanh(), model.head)
    optimizer = torch.optim.SGD([*model.features.parameters(), *head.parameters()], lr=0.1)
    method = BiC(model.features, head, optimizer, selection=Looking(), phase=Phase(1, 4))
    method.exemplars.per_class = 3
    method.fit_task([samples([1, 3])])
    assert widths == [(nn.Sequential, 2, [0, 1])]
