"""HAT on a GPU; named after its ops, so that `make gpu-check` finds it."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import same
from torch import Tensor, nn

from clfast.methods import HAT
from clfast.nn import HATConv2d, HATLinear, TaskBatchNorm2d, TaskHeads, at_task

pytestmark = pytest.mark.cuda


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            HATConv2d(2, 16, 3, activation=nn.Sequential(TaskBatchNorm2d(16), nn.ReLU())),
            nn.Flatten(),
            HATLinear(64, 32),
            TaskHeads(32, 2),
        )


def batches(task: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(task)
    x = torch.randn(6, 16, 2, 4, 4, generator=generator)
    y = (x[:, :, 0, 0, task] > 0).long()
    return list(zip(x.cuda(), y.cuda(), strict=True))


def logits(method: HAT, task: int) -> Tensor:
    method.model.eval()
    with at_task(method.model, task), torch.no_grad():
        found: Tensor = method.model(batches(9)[0][0])
    return found


def test_past_tasks_say_the_same_to_the_bit() -> None:
    method = HAT(network().cuda(), lr=0.2, sparsity=0.02, max_scale=50.0, epochs=2)
    said: list[Tensor] = []
    for task in range(3):
        method.fit_task(batches(task))
        method.on_task_end()
        assert all(p.is_cuda for p in method.model.state_dict().values())
        said.append(logits(method, task))
        assert said[task].std() > 0
        for past, wanted in enumerate(said):
            assert torch.equal(logits(method, past), wanted)
    twin = copy.deepcopy(method)
    other = HAT(network().cuda(), lr=0.2, sparsity=0.02, max_scale=50.0, epochs=2)
    other.load_state_dict(method.state_dict())
    for each in (twin, other):
        assert same(each.state_dict(), method.state_dict())
        assert torch.equal(logits(each, 1), said[1])


def test_a_model_may_move_between_tasks() -> None:
    method = HAT(network(), lr=0.2, sparsity=0.02, max_scale=50.0)
    for x, y in batches(0):
        method.observe(x.cpu(), y.cpu())
    method.on_task_end()
    method.model.cuda()
    method.fit_task(batches(1))
    method.on_task_end()
    assert method.predict(batches(0)[0][0], 0).is_cuda
