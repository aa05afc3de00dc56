"""Wrong use of `DGMw` and `DGMa`: what is said, and that nothing is half done."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from test_dgm import SMALL, same, task

from clfast.methods import DGMa, DGMw
from clfast.methods.task_run import Progress

X, Y = task(1)[0]
WRONG_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"epoch": 3}, TypeError, "DGMw: there is no option epoch; there are epochs, "),
    ({"blocked": "outputs"}, TypeError, "DGMw: there is no option blocked"),
    ({"epochs": 0}, ValueError, "DGMw: epochs must be at least 1"),
    ({"batch": 2.5}, TypeError, "DGMw: batch must be an integer"),
    ({"lr": 0}, ValueError, "DGMw: lr must"),
    ({"betas": 0.5}, ValueError, "DGMw: betas must be two numbers, got 0.5"),
    ({"betas": (0.5, 1)}, ValueError, "DGMw: betas must"),
    ({"noise": 4}, ValueError, "DGMw: max_classes must be at most noise, 4, got 5"),
    ({"max_scale": 0}, ValueError, "DGMw: max_scale must"),
    ({"max_scale": 1e39}, ValueError, "DGMw: max_scale must"),
    ({"max_scale": 1e-320}, ValueError, "DGMw: max_scale must"),
    ({"new_critic": "no"}, TypeError, "DGMw: new_critic must be True or False, got str"),
    ({"classify_fakes": None}, TypeError, "DGMw: classify_fakes must be True or False, got None"),
    ({"sparsity_weight": -1}, ValueError, "DGMw: sparsity_weight must"),
    ({"penalty_weight": float("nan")}, ValueError, "DGMw: penalty_weight must"),
    ({"schedule": "linear"}, ValueError, "DGMw: schedule must be one of dgmw, dgma"),
    ({"normalise": "n"}, ValueError, "DGMw: normalise must be one of code, paper"),
    ({"compensation": None}, ValueError, "DGMw: compensation must be one of analytic"),
    ({"replay_mask": "hard"}, ValueError, "DGMw: replay_mask must be one of soft, binary"),
    ({"embedding_clamp": 0}, ValueError, "DGMw: embedding_clamp must"),
    ({"real_share": 1.5}, ValueError, "DGMw: real_share must"),
    ({"real_budget": 0}, ValueError, "DGMw: real_budget must be at least 1"),
    ({"channels": 0}, ValueError, "DGMw: channels must be at least 1"),
    ({"seed": -1}, ValueError, "DGMw: seed must be at least 0"),
    ({"dtype": torch.float16}, ValueError, "DGMw: dtype must be one of"),
    ({"device": "meta"}, ValueError, "DGMw: device meta cannot be used"),
]


@pytest.mark.parametrize(("options", "kind", "message"), WRONG_OPTIONS)
def test_options(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match="^" + re.escape(message)):
        DGMw(**{**SMALL, **options})


def test_options_of_units() -> None:
    with pytest.raises(ValueError, match=r"^DGMa: blocked must be one of outputs, both_ends"):
        DGMa(**SMALL, blocked="inputs")


WRONG_TASKS: list[tuple[Any, type[Exception], str]] = [
    ([], ValueError, "loader gives no samples; a task has at least one"),
    ([(X[:0], Y[:0])], ValueError, "loader gives no samples"),
    (3, TypeError, "loader must give pairs (x, y), got int"),
    ([X], TypeError, "loader must give pairs (x, y)"),
    ([([1], Y)], TypeError, "x must be a torch.Tensor, got list"),
    (
        [(X[:, :, :28, :28], Y)],
        ValueError,
        "x must have shape [B, 1, 32, 32], got [8, 1, 28, 28]; resize the images, as "
        "clfast.experiments.dgm.from_arrays does, or make the learner with their size=",
    ),
    ([(X.repeat(1, 3, 1, 1), Y)], ValueError, "x must have shape [B, 1, 32, 32]"),
    ([(X.long(), Y)], TypeError, "x must be floating point or uint8, got torch.int64"),
    ([(X - 1, Y)], ValueError, "x must be in [0, 1], and not NaN"),
    ([(X * float("nan"), Y)], ValueError, "x must be in [0, 1], and not NaN"),
    ([(X, Y.tolist())], TypeError, "y must be an int64 tensor, got list"),
    ([(X, Y.float())], TypeError, "y must be an int64 tensor, got torch.float32"),
    ([(X, Y[:3])], ValueError, "y must have shape [8], got [3]"),
    ([(X, Y - 2)], ValueError, "y holds label -1; labels are at least 0"),
    ([(X, Y * 0)], ValueError, "class 0 was learnt, in task 0"),
    (
        [(X, torch.arange(1, 9))],
        ValueError,
        "with [1, 2, 3, 4, 5, 6, 7, 8] there are 9 classes; max_classes is 5",
    ),
]


@pytest.fixture(scope="module")
def learnt() -> DGMw:
    dgm = DGMw(**SMALL)
    dgm.fit_task(task(0))
    return dgm


@pytest.mark.parametrize(("loader", "kind", "message"), WRONG_TASKS)
def test_tasks(learnt: DGMw, loader: Any, kind: type[Exception], message: str) -> None:
    before = learnt.state_dict()
    with pytest.raises(kind, match="^" + re.escape(f"DGMw.fit_task: {message}")):
        learnt.fit_task(loader)
    assert same(learnt.state_dict(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, [0, 3]), "DGMw.generate: classes holds 3, which was not learnt; there are 0"),
        ((2, []), "DGMw.generate: classes is empty"),
        ((0, [0]), "DGMw.generate: n must be at least 1, got 0"),
    ],
)
def test_generate(learnt: DGMw, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        learnt.generate(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "classes must be a sequence of integers, got int"),
        ({"classes": [0.0]}, "a class must be an integer, got float"),
        ({"classes": [False]}, "a class must be an integer, got bool"),
        ({"generator": 3}, "generator must be a torch.Generator, got int"),
    ],
)
def test_generate_of_other_kinds(learnt: DGMw, arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^DGMw.generate: {message}"):
        learnt.generate(2, **arguments)


def test_in_inference_mode() -> None:
    """Whatever is done there, the learner can be trained after it."""

    def stop(at: Progress) -> None:
        raise KeyboardInterrupt

    with torch.inference_mode():
        dgm = DGMw(**{**SMALL, "epochs": 1})
        dgm.load_state_dict(dgm.state_dict())
        with pytest.raises(KeyboardInterrupt):
            dgm.fit_task(task(0), after_batch=stop)
    dgm.fit_task(task(0))
    with torch.inference_mode():
        dgm.load_state_dict(dgm.state_dict())
        with pytest.raises(KeyboardInterrupt):
            dgm.fit_task(task(1), after_batch=stop)
    tensors = [*dgm.generator.parameters(), *dgm.generator.buffers()]
    assert dgm.critic is not None
    tensors += [*dgm.critic.parameters(), *dgm.critic.buffers()]
    assert not any(tensor.is_inference() for tensor in tensors)
    dgm.fit_task(task(1))


def test_before_the_first_task() -> None:
    dgm = DGMw(**SMALL)
    with pytest.raises(RuntimeError, match=r"^DGMw\.predict: nothing was learnt yet"):
        dgm.predict(X)
    with pytest.raises(ValueError, match=r"holds 0, which was not learnt; there are none yet"):
        dgm.generate(2, [0])
    with pytest.raises(ValueError, match=r"^DGMw\.generate: classes is empty"):
        dgm.generate(2)


def test_the_class_that_is_being_learnt_has_no_images_yet(learnt: DGMw) -> None:
    def ask(at: Progress) -> None:
        learnt.generate(1, [1])

    before = learnt.state_dict()
    with pytest.raises(ValueError, match=r"holds 1, which was not learnt; there are 0"):
        learnt.fit_task(task(1), after_batch=ask)
    assert same(learnt.state_dict(), before)


@pytest.mark.parametrize("check_every", [1, 3, 100])
def test_a_loss_that_becomes_nan(check_every: int) -> None:
    dgm = DGMw(**SMALL, check_every=check_every)
    dgm.fit_task(task(0))
    before = dgm.state_dict()

    def spoil(at: Progress) -> None:
        if at.step == 1:
            with torch.no_grad():
                dgm.generator.weights[1][0, 0, 0, 0] = float("nan")

    message = r"^DGMw\.fit_task: the critic loss is nan at step 2 of task 1; try a smaller lr"
    with pytest.raises(RuntimeError, match=message):
        dgm.fit_task(task(1), after_batch=spoil)
    assert same(dgm.state_dict(), before)
    dgm.fit_task(task(1))
    assert dgm.classes == [0, 1]


def test_no_state_is_taken_of_nan() -> None:
    dgm = DGMw(**SMALL)

    def spoil(at: Progress) -> None:
        with torch.no_grad():
            dgm.generator.weights[1][0, 0, 0, 0] = float("nan")
        dgm.state_dict()

    message = r"^DGMw\.state_dict: a parameter is NaN or infinite after step 0 of task 0"
    with pytest.raises(RuntimeError, match=message):
        dgm.fit_task(task(1), after_batch=spoil)
    assert dgm.classes == []


def test_an_interrupted_task_leaves_nothing(learnt: DGMw) -> None:
    def stop(at: Progress) -> None:
        if at.step == 2:
            raise KeyboardInterrupt

    before = learnt.state_dict()
    with pytest.raises(KeyboardInterrupt):
        learnt.fit_task(task(1), after_batch=stop)
    assert same(learnt.state_dict(), before)


def spoiled(parts: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name, value in parts.items() if value.is_floating_point())
    return {**parts, name: parts[name] * float("nan")}


def test_states_that_do_not_fit(learnt: DGMw) -> None:
    dgm, state = DGMw(**SMALL), learnt.state_dict()
    before = dgm.state_dict()
    wrong: list[tuple[Any, type[Exception], str]] = [
        (3, TypeError, "state_dict must be a mapping, got int"),
        ({}, ValueError, "state must have the parts"),
        ({**state, "widths": [[8, 4, 2]]}, ValueError, "nothing was loaded"),
        ({**state, "critic": {}}, ValueError, "nothing was loaded"),
        ({**state, "task_of": [0, 0]}, ValueError, "task_of must be a task for each of"),
        ({**state, "task_of": [3]}, ValueError, "history must have a mapping for each task"),
        ({**state, "classes": [0, 0], "task_of": [0, 0]}, ValueError, "classes must be different"),
        ({**state, "history": []}, ValueError, "history must have a mapping for each task"),
        ({**state, "mask_ways": [3]}, ValueError, "mask_ways must have"),
        (
            {**state, "critic": spoiled(state["critic"])},
            ValueError,
            "the critic holds NaN or Inf in",
        ),
        (
            {**state, "generator": spoiled(state["generator"])},
            ValueError,
            "the generator holds NaN or Inf in",
        ),
        ({**state, "real": {}}, ValueError, "one learner stores real samples, the other does not"),
    ]
    for given, kind, message in wrong:
        with pytest.raises(kind, match=re.escape(message)):
            dgm.load_state_dict(given)
        assert same(dgm.state_dict(), before)
    other = DGMa(**SMALL)
    with pytest.raises(ValueError, match=r"(?s)^DGMa\.load_state_dict: .*nothing was loaded"):
        other.load_state_dict(state)


def test_other_samples_in_the_middle_of_a_task() -> None:
    dgm, states = DGMw(**SMALL), []
    dgm.fit_task(task(0), after_batch=lambda at: states.append(dgm.state_dict()))
    dgm = DGMw(**SMALL)
    dgm.load_state_dict(states[1])
    message = r"^DGMw\.fit_task: task 0 was begun with 16 samples of classes \[0\]; got 16 of \[1\]"
    with pytest.raises(ValueError, match=message):
        dgm.fit_task(task(1))
    turned = [(x.flip(0), y.flip(0)) for x, y in task(0)]
    with pytest.raises(
        ValueError, match=r"^DGMw\.fit_task: task 0 was begun with other samples, or"
    ):
        dgm.fit_task(turned)
    dgm.fit_task(task(0))
