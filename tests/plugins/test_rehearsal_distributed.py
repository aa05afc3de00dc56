"""Plugins with stored samples, and LwF, under DistributedDataParallel: two processes with gloo,
each with samples of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from penalty_cases import network, tasks
from rehearsal_cases import equal, every_plugin
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from two_processes import rehearse_on_a_share

from clfast import reference
from clfast._wrapped import distributed
from clfast.plugins import LwF


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    folder = tmp_path_factory.mktemp("shares")
    mp.spawn(rehearse_on_a_share, (str(folder),), nprocs=2)
    return [torch.load(Path(folder, f"state{rank}"), weights_only=True) for rank in range(2)]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


@every_plugin
@pytest.mark.parametrize("stored", ["all", "some"])
def test_gradients_of_past_samples_are_the_mean_over_processes(
    shares: list[Any], name: str, stored: str
) -> None:
    """As DistributedDataParallel forms it, one without samples counting as zeros."""
    first, second = (share[f"{name} {stored}"] for share in shares)
    for key in ("before", "after", "parameters"):
        assert equal(first[key], second[key])
    own = flat(first["before"])
    past = torch.stack([flat(slopes) for slopes in first["alone"]])
    past = (past + torch.stack([flat(slopes) for slopes in second["alone"]])) / 2
    assert bool(flat(second["alone"][0]).any()) == (stored == "all")
    if name in ("ER", "ERMIR"):
        wanted = own + past[0]
    elif name == "AGEM":
        inner = own @ past[0]
        wanted = own - inner.clamp(max=0) / (past[0] @ past[0]) * past[0]
    else:
        wanted = reference.consolidation.gem_project(own, past, 0.5)
    assert not torch.equal(wanted, own) or (name, stored) == ("AGEM", "some")
    torch.testing.assert_close(flat(first["after"]), wanted, rtol=1e-8, atol=1e-10)
    assert first["moved"]


@pytest.mark.parametrize("stored", ["all", "some"])
def test_er_in_the_loss_is_er_after_it(shares: list[Any], stored: str) -> None:
    """The loss is the first of two that are accumulated, under no_sync."""
    (loss, after), others = (share[f"ER {stored}"]["in the loss"] for share in shares)
    torch.testing.assert_close(loss, after, rtol=1e-8, atol=1e-10)
    for mine, other in zip((loss, after), others, strict=True):
        assert equal(mine, other)


def test_the_wrapper_is_found() -> None:
    """Also where it is compiled."""
    wrapper, compiled = object.__new__(DistributedDataParallel), nn.Module()
    nn.Module.__init__(wrapper)
    compiled._orig_mod = wrapper
    assert distributed(wrapper) is distributed(compiled) is wrapper
    assert distributed(nn.Linear(2, 2)) is None


def test_lwf_learns_what_one_process_learns(shares: list[Any]) -> None:
    model = network()
    plugin = LwF(model)
    for batches in tasks(3):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for x, y in batches[:2]:
            optimizer.zero_grad()
            plugin.before_backward(F.cross_entropy(model(x), y)).backward()
            optimizer.step()
        plugin.on_task_end(batches)
    wanted = dict(model.state_dict()), plugin.state_dict()
    for share in shares:
        torch.testing.assert_close(share["LwF"], wanted)
    assert equal(list(shares[0]["LwF"]), list(shares[1]["LwF"]))
