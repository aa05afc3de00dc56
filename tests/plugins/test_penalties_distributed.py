"""Penalty plugins under DistributedDataParallel: two processes with gloo learn what one learns."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.multiprocessing as mp
from penalty_cases import PLUGINS, network, tasks, train
from two_processes import NAMES, fail_in_one, train_on_a_share


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    mp.spawn(train_on_a_share, (str(tmp_path),), nprocs=2)
    shares = [torch.load(tmp_path / f"state{rank}", weights_only=True) for rank in range(2)]
    for name in NAMES:
        model = network()
        plugin = PLUGINS[name](model)
        for batches in tasks(2):
            train(plugin, model, batches[:2], 0.05)
            plugin.on_task_end(batches)
        wanted = (dict(model.state_dict()), plugin.state_dict())
        for parameters, state in (share[name] for share in shares):
            torch.testing.assert_close((dict(parameters), state), wanted)
        torch.testing.assert_close(shares[0][name][1], shares[1][name][1], rtol=0, atol=0)


def test_what_fails_in_one_process_fails_in_both(tmp_path: Path) -> None:
    mp.spawn(fail_in_one, (str(tmp_path),), nprocs=2)
    waiting, failing = (torch.load(tmp_path / f"failed{rank}") for rank in range(2))
    assert list(waiting) == list(failing) == ["EWC", "MAS", "LwF"]
    for name in waiting:
        kind, message = waiting[name]
        assert kind == "RuntimeError"
        assert message.startswith(f"{name}.on_task_end: another process failed")
        kind, message = failing[name]
        assert kind == "TypeError"
        assert message.startswith(f"{name}.on_task_end: loader must give batches")
