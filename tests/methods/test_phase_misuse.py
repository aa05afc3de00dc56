"""What users do wrong with learners in phases: found out before they learn, or undone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exemplar_learners import PHASES, First, every_learner, learner, learnt, samples, unchanged
from torch import Tensor, nn

from clfast.memory import ExemplarMemory
from clfast.methods import BiC, ICaRL, LwF, Mnemonics, Phase, PhaseProgress


@pytest.mark.parametrize("objective", ["bop_full", "bop_fc", "proto"])
def test_more_folds_than_exemplars_are_refused_before_the_phase(objective: Any) -> None:
    selection = Mnemonics(objective, folds=4, steps=1, epochs=1, lr=1.0)
    method = learnt("ICaRL", selection=selection)
    epochs: list[PhaseProgress] = []
    with (
        unchanged(method),
        pytest.raises(ValueError, match="folds is 4, but class 0 has 3 exemplars"),
    ):
        method.fit_task([samples(PHASES[1])], after_epoch=epochs.append)
    assert not epochs


def test_a_share_that_shrinks_counts_for_folds() -> None:
    selection = Mnemonics("bop_fc", folds=3, steps=1, epochs=1, lr=1.0)
    method = learnt("ICaRL", selection=selection, exemplars=ExemplarMemory(total=6))
    with pytest.raises(ValueError, match="folds is 3, but class 0 has 2 exemplars"):
        method.fit_task([samples(PHASES[1])])


def test_a_head_that_nothing_can_train_is_refused_before_the_phase() -> None:
    method = learner("ICaRL", selection=Mnemonics("bop_fc"))
    method.model.get_submodule("head").requires_grad_(False)
    epochs: list[PhaseProgress] = []
    with pytest.raises(ValueError, match="its head has no parameter with requires_grad=True"):
        method.fit_task([samples(PHASES[0])], after_epoch=epochs.append)
    assert not epochs


@every_learner
def test_a_memory_is_of_one_learner(name: str) -> None:
    memory = ExemplarMemory(3)
    first, second = (learner(name, exemplars=memory) for _ in range(2))
    first.fit_task([samples([0, 3])])
    with unchanged(second), pytest.raises(ValueError, match="exemplars holds class 0, which was"):
        second.fit_task([samples([1, 2])])


def test_global_random_numbers_are_put_back() -> None:
    features = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(25, 4)).double()
    head = nn.Linear(4, 5).double()
    optimizer = torch.optim.SGD([*features.parameters(), *head.parameters()], lr=0.1)
    options: dict[str, Any] = {"exemplars": ExemplarMemory(3), "selection": First()}
    method = ICaRL(features, head, optimizer, phase=Phase(epochs=2, batch=4), **options)

    def after_epoch(at: PhaseProgress) -> None:
        raise KeyboardInterrupt

    with unchanged(method), pytest.raises(KeyboardInterrupt):
        method.fit_task([samples([0, 1])], after_epoch=after_epoch)


@every_learner
def test_rates_between_phases_count_under_transfer(name: str) -> None:
    method = learnt(name, phases=2, transfer="scale")
    method.optimizer.param_groups[0]["lr"] = 0.0
    before = [p.clone() for p in method.model.parameters()]
    method.fit_task([samples(PHASES[2])])
    new_rows = 2 if name == "LUCIR" else 0  # of which embeddings are set, not learnt
    moved = [
        int((p != q).flatten(1).any(1).sum()) if p.dim() > 1 else int((p != q).sum())
        for p, q in zip(method.model.parameters(), before, strict=True)
    ]
    assert sum(moved) == new_rows
    assert method.optimizer.param_groups[0]["lr"] == 0


def test_another_optimizer_under_transfer_is_refused() -> None:
    method = learnt("ICaRL", phases=2, transfer="scale")
    method.optimizer = torch.optim.SGD(method.model.parameters(), lr=0.1)
    with unchanged(method), pytest.raises(ValueError, match="optimizer is another one than when"):
        method.fit_task([samples(PHASES[2])])


@pytest.mark.parametrize(
    ("augment", "came"),
    [(lambda x, generator: None, "NoneType"), (lambda x, generator: x[1:], r"\[3, 1, 5, 5\]")],
)
def test_augmentation_gives_as_many_images(augment: Any, came: str) -> None:
    method = learner("ICaRL", phase=Phase(epochs=1, batch=4, augment=augment))
    text = f"phase.augment must give as many images as it takes, 4, got {came}"
    with unchanged(method), pytest.raises(ValueError, match=text):
        method.fit_task([samples([0, 1])])


@pytest.mark.parametrize("joint", [False, True])
def test_lwf_observes_uint8(joint: bool) -> None:
    x, y = samples([0, 1])
    methods = [learner("LwF", joint=joint, exemplars=ExemplarMemory(0)) for _ in range(2)]
    whole = (255 * x).to(torch.uint8)
    scaled: Tensor = whole.double() / 255
    for method, given in zip(methods, (whole, scaled), strict=True):
        assert isinstance(method, LwF)
        for _ in range(2):
            method.observe(given, y)
            method.on_task_end()
    for ours, theirs in zip(*(method.model.parameters() for method in methods), strict=True):
        torch.testing.assert_close(ours, theirs)


@every_learner
@pytest.mark.parametrize("call", ["fit_task", "on_task_end"])
def test_wrong_samples(name: str, call: str) -> None:
    method = learnt(name)
    x, y = samples(PHASES[1])
    nan = x.clone()
    nan[3, 0, 0, 0] = torch.nan
    cases: list[tuple[Any, type[Exception], str]] = [
        ([(x[:2], y[:2])], ValueError, "class 4 has 2 samples in loader, fewer than the 3 exempl"),
        ([], ValueError, "loader gives no samples"),
        ([x], TypeError, r"loader must give pairs \(x, y\)"),
        ([(x, y + 1)], ValueError, r"y holds label 5, but head has outputs for \[0, 5\)"),
        ([(x, -y)], ValueError, "y holds label -4"),
        ([(x, y.int())], TypeError, "y must be int64"),
        ([(x, y[1:])], ValueError, r"y must have shape \[6\]"),
        ([samples([0])], ValueError, "class 0 was learnt in a phase before"),
        (
            [(x[..., 1:], y)],
            ValueError,
            r"shape \[B, 1, 5, 5\] as the exemplars, got \[6, 1, 5, 4\]",
        ),
        ([(x.long(), y)], TypeError, "x must be floating point or uint8, got torch.int64"),
        ([(x, y), (x.float(), y)], TypeError, "x must be of one dtype"),
        ([(nan, y)], ValueError, "x holds NaN or Inf"),
    ]
    for loader, error, message in cases:
        with unchanged(method), pytest.raises(error, match=rf"^{name}\.{call}: .*{message}"):
            getattr(method, call)(loader)


@every_learner
def test_another_task_in_the_middle_of_a_phase(name: str) -> None:
    state: dict[str, Any] = {}
    method = learner(name)
    method.fit_task([samples([0, 1])], after_epoch=lambda at: state.update(method.state_dict()))
    other = learner(name, phase=Phase(epochs=9, batch=4))
    other.load_state_dict(state)
    with unchanged(other), pytest.raises(ValueError, match=r"was begun with 12 samples of .*\[2\]"):
        other.fit_task([samples([2])])
    with unchanged(other), pytest.raises(RuntimeError, match="a phase is being learnt"):
        other.on_task_end([samples([2])])
    x, y = samples([0, 1])
    for given in ((x.flip(0), y.flip(0)), (x.flip(3), y)):
        with unchanged(other), pytest.raises(ValueError, match=r"begun with other samples, or in"):
            other.fit_task([given])
    other.fit_task([(x, y)])


def test_batch_norm_cannot_take_one_sample() -> None:
    features = nn.Sequential(nn.Flatten(), nn.Linear(25, 4), nn.BatchNorm1d(4))
    head = nn.Linear(4, 2)
    optimizer = torch.optim.SGD([*features.parameters(), *head.parameters()], lr=0.1)
    exemplars = ExemplarMemory(1)
    method = ICaRL(features, head, optimizer, exemplars=exemplars, phase=Phase(1, 4))
    x, y = samples([0, 1])
    with (
        unchanged(method),
        pytest.raises(
            ValueError,
            match=r"fit_task: .*more than 1 value per ch.*a batch of one: phase\.batch is 4",
        ),
    ):
        method.fit_task([(x[:1].float(), y[:1])])
    # Nine samples in batches of four leave none alone.
    method.fit_task([(x[:9].float(), y[:9])])


@every_learner
def test_wrong_options(name: str) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"exemplars": 20}, TypeError, "exemplars must be of ExemplarMemory, got int"),
        ({"selection": "herding"}, TypeError, "selection must be of ExemplarSelection, got str"),
        ({"phase": 3}, TypeError, "phase must be of Phase, got int"),
        ({"transfer": "shift"}, ValueError, "transfer must be one of None, scale, scale_shift"),
        ({"replay": -1}, ValueError, "replay must be at least 0"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=f"^{name}: {message}"):
            learner(name, **options)
    full = ExemplarMemory(1)
    full.put(torch.zeros(1, 1, 5, 5), torch.tensor([1]))
    if name != "BiC":
        with pytest.raises(ValueError, match=f"^{name}: exemplars must be empty, got 1 of them"):
            learner(name, exemplars=full)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"batch": 0}, ValueError, "batch must be at least 1"),
        ({"factor": 0}, ValueError, "factor must be finite and in"),
        ({"finetune_lr": 0.0}, ValueError, "finetune_lr must be finite and in"),
        ({"milestones": (0.5,)}, TypeError, "milestones must be an integer"),
        ({"milestones": 5}, TypeError, "milestones must be a sequence of integers, got int"),
        ({"augment": 4}, TypeError, "augment must be callable, got int"),
    ],
)
def test_phases_that_cannot_be(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^Phase: {message}"):
        Phase(**options)


def test_models_that_cannot_be() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 5)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="BiC: no parameter of model requires grad"):
        BiC(nn.Flatten(), nn.Linear(25, 5).requires_grad_(False), optimizer)
    with pytest.raises(ValueError, match="transfer is scale, but model has no convolution"):
        LwF(model, optimizer, transfer="scale")
    with pytest.raises(ValueError, match="snapshot must be 'task' to keep exemplars, got 3"):
        LwF(model, optimizer, snapshot=3, exemplars=ExemplarMemory(3))
    with pytest.raises(ValueError, match="replay must be 0"):
        LwF(model, optimizer, replay=2)
    online = LwF(model, optimizer, snapshot=3)
    with pytest.raises(ValueError, match=r"LwF.fit_task: snapshot must be 'task', got 3"):
        online.fit_task([samples([0])])
    nameless = LwF(model, optimizer, exemplars=ExemplarMemory(3), phase=Phase(1, 4))
    with pytest.raises(ValueError, match="model must have modules features and head"):
        nameless.fit_task([samples([0])])
    nothing: Any = None
    with pytest.raises(TypeError, match=r"ICaRL: features must be an nn\.Module, got NoneType"):
        ICaRL(nothing, model[1], optimizer)


@every_learner
def test_observing_what_is_wrong(name: str) -> None:
    method = learnt(name, replay=0 if name == "LwF" else 2)
    x, y = samples(PHASES[1])
    for labels, error, message in (
        (y + 1, ValueError, "y holds label 5"),
        (y.int(), TypeError, "y must be int64"),
        (y[:2], ValueError, r"y must have shape \[6\]"),
    ):
        with unchanged(method), pytest.raises(error, match=rf"^{name}\.observe: {message}"):
            method.observe(x, labels)
    with unchanged(method), pytest.raises(ValueError, match="cannot take x"):
        method.observe(x[:, :, 0], y)
