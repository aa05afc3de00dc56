"""Batch normalisation with statistics of every task."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from clfast.nn import TaskBatchNorm2d, at_task


def images(channels: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(5, channels, 4, 4, generator=generator)


def trained(sizes: tuple[int, ...] = (3, 5, 4)) -> TaskBatchNorm2d:
    """Some steps in each task."""
    norm = TaskBatchNorm2d(sizes[0])
    for task, channels in enumerate(sizes):
        if task:
            norm.add_task(channels)
        optimizer = torch.optim.SGD(norm.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        for step in range(3):
            optimizer.zero_grad()
            norm(images(channels, step), task).square().sum().backward()
            optimizer.step()
    return norm


def test_the_newest_task_is_plain_batch_norm() -> None:
    norm, plain = TaskBatchNorm2d(3), nn.BatchNorm2d(3)
    for mode in (True, False):
        norm.train(mode)
        plain.train(mode)
        assert torch.equal(norm(images(3, 1), 0), plain(images(3, 1)))
    assert torch.equal(norm.state_dict()["parts.0.running_var"], plain.running_var)


def test_past_tasks_stay_as_they_were_to_the_bit() -> None:
    norm = TaskBatchNorm2d(3)
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for step in range(3):
        optimizer.zero_grad()
        norm(images(3, step)).square().sum().backward()
        optimizer.step()
    wanted = norm.eval()(images(3, 9), 0)
    norm.train()
    norm.add_task(5)
    # The old optimizer still holds the parameters of task 0, with momentum and weight decay.
    optimizer.add_param_group({"params": norm.parts[1].parameters()})
    before = copy.deepcopy(norm.parts[0].state_dict())
    for step in range(3):
        optimizer.zero_grad()
        x = images(3, step).requires_grad_()
        (norm(images(5, step)).square().sum() + norm(x, 0).square().sum()).backward()
        assert x.grad is not None
        optimizer.step()
    after = norm.parts[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(norm(images(3, 9), 0), wanted)  # in train mode
    assert torch.equal(norm.eval()(images(3, 9), 0), wanted)


def test_a_gradient_from_before_the_new_task_is_not_taken() -> None:
    norm = TaskBatchNorm2d(2)
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.1)
    norm(images(2)).square().sum().backward()
    before = norm.parts[0].weight.clone()
    norm.add_task()
    optimizer.step()
    assert torch.equal(norm.parts[0].weight, before)
    assert norm.parts[1].num_features == 2


def test_which_task_is_meant() -> None:
    norm = trained().eval()
    network = nn.Sequential(norm)
    with at_task(network, 0):
        assert torch.equal(network(images(3)), norm(images(3), 0))
        with at_task(network, 1):
            assert torch.equal(network(images(5)), norm(images(5), 1))
            assert torch.equal(norm(images(3), 0), norm.parts[0](images(3)))
        assert torch.equal(network(images(3)), norm(images(3), 0))
    assert torch.equal(network(images(4)), norm(images(4), 2))
    with pytest.raises(KeyError), at_task(network, 0):
        raise KeyError
    assert norm.task is None


def test_copies_and_states() -> None:
    norm = trained()
    for twin in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm)), TaskBatchNorm2d(3)):
        twin.load_state_dict(norm.state_dict())
        assert twin.tasks == 3
        assert [p.requires_grad for p in twin.parameters()] == 4 * [False] + 2 * [True]
        for task, channels in enumerate((3, 5, 4)):
            assert torch.equal(
                twin.eval()(images(channels), task), norm.eval()(images(channels), task)
            )
    norm.load_state_dict(TaskBatchNorm2d(3).state_dict())
    assert norm.tasks == 1
    assert all(p.requires_grad for p in norm.parameters())
    whole = nn.Sequential(trained(), nn.Flatten())
    other = nn.Sequential(TaskBatchNorm2d(3), nn.Flatten())
    other.load_state_dict(whole.state_dict())
    assert other[0].tasks == 3


def test_dtype_device_and_mode_of_a_new_task() -> None:
    norm = TaskBatchNorm2d(2, eps=0.5, momentum=0.3).double().eval()
    norm.add_task(3)
    assert norm.parts[1].weight.dtype == torch.float64
    assert not norm.parts[1].training
    assert (norm.parts[1].eps, norm.parts[1].momentum) == (0.5, 0.3)


def test_wrong_use() -> None:
    norm = trained()
    before = copy.deepcopy(norm.state_dict())
    for error, text, wrong in (
        (ValueError, "task must be in 0..2, got 3", lambda: norm(images(3), 3)),
        (ValueError, "task must be at least 0", lambda: norm(images(3), -1)),
        (TypeError, "task must be an integer", lambda: norm(images(3), "a")),
        (ValueError, r"x must be \[B, 5, H, W\] for task 1, got", lambda: norm(images(3), 1)),
        (ValueError, r"x must be \[B, 4, H, W\]", lambda: norm(images(4)[0])),
        (ValueError, "add_task: channels must be at least 1", lambda: norm.add_task(0)),
        (TypeError, "add_task: channels must be an integer", lambda: norm.add_task(2.5)),
        (ValueError, "channels must be at least 1", lambda: TaskBatchNorm2d(0)),
        (ValueError, "momentum must be finite", lambda: TaskBatchNorm2d(2, momentum=1.5)),
        (ValueError, "eps must be finite", lambda: TaskBatchNorm2d(2, eps=-1)),
    ):
        with pytest.raises(error, match=text):
            wrong()
    with pytest.raises(ValueError, match=r"at_task: task must be at least 0"), at_task(norm, -1):
        pass
    after = norm.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert norm.parts[2].weight.requires_grad
