"""Learners that recall, with the networks in 16 bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import Residual, batches, same
from torch import Tensor, nn

from clfast.methods import ADI, ARM, DeepInversion

OPTIONS: dict[Any, dict[str, Any]] = {
    ARM: {"lr": 0.5},
    ADI: {"lr": 0.5},
    DeepInversion: {"lr": 0.02, "warm_up": 2},
}


def _learner(kind: Any, model: nn.Module | None = None, **options: Any) -> Any:
    if model is None:
        torch.manual_seed(1)
        model = Residual(width=16)
    given = {"snapshot": "task", "images": 20, "steps": 3, **OPTIONS[kind], **options}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return kind(model, optimizer, generator=torch.Generator().manual_seed(7), **given)


def _taught(learner: Any, dtype: torch.dtype = torch.float32) -> tuple[dict[str, float], Tensor]:
    """Losses of the last batch of two tasks, and recalled images."""
    for i, (x, y) in enumerate(batches(6, 2, 4, 6)):
        if i == 3:
            learner.on_task_end()
        losses = learner.observe(x.to(dtype), y)
    return losses, learner.recall(x.to(dtype), y).images


def _moved(learner: Any) -> tuple[Tensor, Tensor]:
    """How far parameters and running statistics are from where they began."""
    moved = []
    for name in ("weight", "bias"), ("running_mean", "running_var"):
        now, first = (
            torch.cat([v.flatten() for k, v in model.state_dict().items() if k.endswith(name)])
            for model in (learner.model, _learner(type(learner)).model)
        )
        moved.append(now - first)
    return moved[0], moved[1]


def _apart(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def _check_near(first: Any, second: Any, *, parameters: float) -> None:
    """Two learners after the same batches; the bounds are two to three times what is seen."""
    (losses, images), (wanted, wanted_images) = map(_taught, (first, second))
    assert losses.keys() == wanted.keys()
    assert losses == pytest.approx(wanted, abs=0.005)
    assert _apart(images, wanted_images) < 0.005
    (of_parameters, of_statistics), (other_parameters, other_statistics) = map(
        _moved, (first, second)
    )
    assert _apart(of_parameters, other_parameters) < parameters
    assert _apart(of_statistics, other_statistics) < 0.004


@pytest.mark.parametrize(("dtype", "apart"), [(torch.bfloat16, 0.25), (torch.float16, 0.1)])
@pytest.mark.parametrize("kind", OPTIONS)
def test_near_to_float32(kind: Any, dtype: torch.dtype, apart: float) -> None:
    learner, exact = _learner(kind, autocast=dtype), _learner(kind)
    _check_near(learner, exact, parameters=apart)
    assert _apart(_moved(learner)[0], _moved(exact)[0]) > 1e-3  # the option does something
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("dtype", "apart"), [(torch.bfloat16, 0.15), (torch.float16, 0.015)])
@pytest.mark.parametrize("kind", [ARM, ADI])
def test_distinct_images_alone_are_near_to_all(kind: Any, dtype: torch.dtype, apart: float) -> None:
    learners = [_learner(kind, autocast=dtype, dedup=dedup) for dedup in (True, False)]
    _check_near(*learners, parameters=apart)


class _Watched(Residual):
    """Notes in what arithmetic each pass and each gradient is."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[tuple[bool, bool, torch.dtype, torch.dtype]] = []
        self.backward: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        enabled = torch.is_autocast_enabled("cpu")
        self.passes.append((self.training, enabled, x.dtype, logits.dtype))
        if logits.requires_grad:
            note = torch.is_autocast_enabled
            logits.register_hook(lambda grad: self.backward.append(note("cpu")))
        return logits


@pytest.mark.parametrize("kind", OPTIONS)
def test_passes_alone_are_in_16_bits(kind: Any) -> None:
    learner = _learner(kind, _Watched(), images=3, autocast=torch.bfloat16)
    losses, images = _taught(learner)
    assert images.dtype == torch.float32
    assert losses.keys() == {"loss", "recall", "replay", "distill"}
    for network in (learner.model, learner.old):
        assert {seen[1:] for seen in network.passes} == {(True, torch.float32, torch.bfloat16)}
        assert not any(network.backward)
        network.passes.clear()
    x = batches(1, 2, 4, 6)[0][0].float()
    assert learner.predict_log_proba(x).dtype == torch.float32
    assert learner.model.passes == [(False, False, torch.float32, torch.float32)]


def test_float64_stays_float64() -> None:
    learners = []
    for autocast in (None, torch.bfloat16):
        torch.manual_seed(1)
        learners.append(_learner(ARM, Residual().double(), autocast=autocast))
    first, second = (_taught(learner, torch.float64) for learner in learners)
    assert first[0] == second[0]
    assert torch.equal(first[1], second[1])


def test_states_know_nothing_of_it() -> None:
    learner, plain = _learner(ARM, autocast=torch.bfloat16), _learner(ARM)
    _taught(learner)
    state = learner.state_dict()
    plain.load_state_dict(state)
    assert same(state, plain.state_dict())


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("autocast", [torch.float32, torch.int8, "bfloat16", True])
def test_other_types_are_refused(kind: Any, autocast: Any) -> None:
    message = f"{kind.__name__}: autocast must be one of None, torch.bfloat16, torch.float16, got"
    with pytest.raises(ValueError, match=message):
        _learner(kind, autocast=autocast)
