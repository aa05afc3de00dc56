"""Masks that tasks learn, and layers whose weights they mask."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clfast.nn import MaskedConvTranspose2d, MaskedLinear, TaskMask, at_task, masks_at
from clfast.nn.masked import Keep
from clfast.ops.masks import block_gradients_, unpack_mask


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mask(keep: Keep = "binary", tasks: int = 2) -> tuple[TaskMask, list[Tensor]]:
    """A mask after some tasks, and the embeddings that they had."""
    made = TaskMask(3, 5, std=1.0, keep=keep, generator=generator())
    embeddings = []
    for task in range(tasks):
        embeddings.append(made.embedding.detach().clone())
        made.end_task(4.0, generator(task + 1))
    return made, embeddings


def test_the_mask_that_is_learnt_is_a_sigmoid() -> None:
    live = TaskMask(3, 5, std=1.0).double()
    values = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    with masks_at(live, 2.5):
        found = live(values)
    wanted = values * (2.5 * live.embedding).sigmoid()
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(y.sin().sum(), [values, live.embedding]) for y in (found, wanted)]
    torch.testing.assert_close(grads[0], grads[1])
    # HAT: the gradient as if the scale in it were s_max, at s_max sigmoid'(e).
    with masks_at(live, 2.5, 400.0):
        (slope,) = torch.autograd.grad(live(values).sum(), live.embedding)
    e = live.embedding.detach()
    torch.testing.assert_close(slope, values.detach() * 400 * e.sigmoid() * (-e).sigmoid())
    assert (live.scale, live.max_scale) == (1.0, None)


@pytest.mark.parametrize("keep", ["binary", "soft"])
def test_masks_of_past_tasks_are_kept(keep: Keep) -> None:
    made, embeddings = mask(keep)
    assert made.tasks == 3
    values = torch.randn(3, 5)
    for task, e in enumerate(embeddings):
        wanted = (4.0 * e).sigmoid() if keep == "soft" else e >= 0
        assert torch.equal(made.of(task), wanted)
        with at_task(made, task), masks_at(made, 77.0):
            assert torch.equal(made(values), values * wanted)
    union = (embeddings[0] >= 0) | (embeddings[1] >= 0)
    assert torch.equal(made.reserved_mask(), union)
    assert made.stored.dtype == (torch.float32 if keep == "soft" else torch.uint8)
    assert made.stored.shape == ((2, 3, 5) if keep == "soft" else (2, 2))


def test_what_is_newly_reserved_is_counted() -> None:
    made, embeddings = mask(tasks=1)
    before = made.reserved_mask()
    assert int(before.sum()) == int((embeddings[0] >= 0).sum())
    now = made.embedding.detach().clone()
    assert made.end_task(4.0) == int(((now >= 0) & ~before).sum())


def test_a_binary_mask_leaves_out_whatever_is_there() -> None:
    made, embeddings = mask()
    values = torch.where(embeddings[0] >= 0, 1.5, float("nan"))
    with at_task(made, 0):
        assert torch.equal(made(values), torch.where(embeddings[0] >= 0, 1.5, 0.0))


def test_masks_begin_as_they_are_told() -> None:
    half = TaskMask(4)
    assert torch.equal(half(torch.ones(4)), torch.full((4,), 0.5))
    drawn, same = (TaskMask(50, std=2.0, generator=generator(3)) for _ in range(2))
    assert torch.equal(drawn.embedding, same.embedding)
    assert 1 < float(drawn.embedding.detach().std()) < 3
    drawn.embedding.grad = torch.ones(50)
    drawn.end_task(1.0, generator(4))
    assert drawn.embedding.grad is None
    assert not torch.equal(drawn.embedding, same.embedding)


def test_a_mask_of_units_goes_along_any_dimension() -> None:
    units = TaskMask(3, std=1.0)
    wide = units.embedding.sigmoid()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(units(x, -3), x * wide[:, None, None])
    torch.testing.assert_close(units(x[..., 0, 0], -1), x[..., 0, 0] * wide)
    units.end_task(1.0)
    with at_task(units, 0):
        torch.testing.assert_close(units(x, 1), x * units.of(0)[:, None, None])


@pytest.mark.parametrize("keep", ["binary", "soft"])
def test_copies_and_states(keep: Keep) -> None:
    made, _ = mask(keep)
    fresh = TaskMask(3, 5, keep=keep)
    fresh.load_state_dict(made.state_dict())
    for twin in (fresh, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert twin.tasks == 3
        for name, value in made.state_dict().items():
            assert torch.equal(twin.state_dict()[name], value)
    made.load_state_dict(TaskMask(3, 5, keep=keep).state_dict())
    assert made.tasks == 1
    with pytest.raises(RuntimeError, match="size mismatch"):
        made.load_state_dict(TaskMask(4, 5, keep=keep).state_dict())


def layer(name: str) -> tuple[MaskedLinear | MaskedConvTranspose2d, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "linear":
            return MaskedLinear(6, 4), torch.randn(5, 6)
        return MaskedConvTranspose2d(3, 4, 4, 2, 1), torch.randn(2, 3, 5, 5)


def unmasked(name: str, x: Tensor, weight: Tensor) -> Tensor:
    if name == "linear":
        return F.linear(x, weight)
    return F.conv_transpose2d(x, weight, stride=2, padding=1)


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_weights_are_masked_for_every_task(name: str) -> None:
    made, x = layer(name)
    assert set(dict(made.named_parameters())) == {"weight", "mask.embedding"}
    e = torch.randn(made.weight.shape, generator=generator())
    with torch.no_grad():
        assert torch.equal(made(x), unmasked(name, x, 0.5 * made.weight))
        made.mask.embedding.copy_(e)
    with masks_at(made, 3.0):
        torch.testing.assert_close(made(x), unmasked(name, x, made.weight * (3 * e).sigmoid()))
    made.mask.end_task(3.0)
    with at_task(made, 0):
        assert torch.equal(made(x), unmasked(name, x, made.weight * (e >= 0)))


@pytest.mark.parametrize("name", ["linear", "convolution"])
def test_past_tasks_say_the_same_to_the_bit(name: str) -> None:
    """Over three tasks that train with momentum, where reserved weights take no gradient."""
    made, x = layer(name)
    said: list[Tensor] = []
    for task in range(3):
        optimizer = torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9)
        start = made.weight.detach().clone()
        for step in range(4):
            optimizer.zero_grad()
            with masks_at(made, 5.0 * (step + 1), 20.0):
                made(x + task).sub(1).square().mean().backward()
            assert made.weight.grad is not None
            block_gradients_([made.weight.grad], [made.mask.reserved])
            optimizer.step()
        assert not torch.equal(made.weight, start)
        with torch.no_grad():  # part of it, so that something stays free
            made.mask.embedding.copy_(torch.randn(start.shape, generator=generator(task)) - 0.5)
        made.mask.end_task(20.0)
        with at_task(made, task), torch.no_grad():
            said.append(made(x))
        for past, wanted in enumerate(said):
            with at_task(made, past), torch.no_grad():
                assert torch.equal(made(x), wanted)
    assert 0 < int(unpack_mask(made.mask.reserved, start.shape).sum()) < start.numel()


def test_double_precision_and_whole_networks() -> None:
    network = nn.Sequential(MaskedLinear(3, 4), nn.ReLU(), MaskedLinear(4, 2)).double()
    with masks_at(network, 2.0):
        assert network(torch.randn(3, 3, dtype=torch.float64)).dtype == torch.float64
    for module in network:
        if isinstance(module, MaskedLinear):
            module.mask.end_task(2.0)
    with at_task(network, 0):
        assert network(torch.randn(3, 3, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("keep", ["binary", "soft"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_stay_halves(keep: Keep, dtype: torch.dtype) -> None:
    made, _ = mask(keep)
    made.to(dtype)
    values = torch.ones(3, 5, dtype=dtype)
    for task in range(3):
        with at_task(made, task):
            assert made(values).dtype == dtype


def test_wrong_use() -> None:
    made, _ = mask()
    before = copy.deepcopy(made.state_dict())
    values = torch.ones(3, 5)

    def at(task: Any) -> Tensor:
        with at_task(made, task):
            out: Tensor = made(values)
        return out

    def scaled(*scales: Any) -> None:
        with masks_at(made, *scales):
            pass

    for error, text, wrong in (
        (ValueError, "TaskMask: shape must be at least 1", lambda: TaskMask(0)),
        (TypeError, "TaskMask: shape must be an integer", lambda: TaskMask(2.5)),
        (ValueError, "TaskMask: std must be finite", lambda: TaskMask(2, std=-1)),
        (ValueError, "TaskMask: keep must be one of", lambda: TaskMask(2, keep="hard")),
        (ValueError, "TaskMask: task must be in 0..2, got 3", lambda: at(3)),
        (TypeError, "at_task: task must be an integer", lambda: at("first")),
        (ValueError, "TaskMask.of: 2 tasks have ended, got task 2", lambda: made.of(2)),
        (ValueError, "TaskMask.end_task: scale must be finite", lambda: made.end_task(0.0)),
        (ValueError, "masks_at: scale must be finite", lambda: scaled(-1.0)),
        (ValueError, "masks_at: max_scale must be finite", lambda: scaled(1.0, 0.0)),
        (TypeError, "masks_at: scale must be a number", lambda: scaled("big")),
        (ValueError, "MaskedLinear: in_features must be at least", lambda: MaskedLinear(0, 2)),
        (ValueError, "keep must be one of", lambda: MaskedLinear(2, 2, keep="x")),
        (
            ValueError,
            "MaskedConvTranspose2d: kernel_size must be",
            lambda: MaskedConvTranspose2d(2, 2, 0),
        ),
        (
            TypeError,
            "output_size is not supported",
            lambda: MaskedConvTranspose2d(2, 2, 3)(torch.ones(1, 2, 4, 4), [6, 6]),
        ),
    ):
        with pytest.raises(error, match=text):
            wrong()
    assert (made.task, made.scale) == (None, 1.0)
    after = made.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
