"""What each of two processes does in test_penalties_distributed.py."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from penalty_cases import PLUGINS, network, tasks
from torch.nn.parallel import DistributedDataParallel

NAMES = {"EWC": "before", "OnlineEWC": "after", "SI": "after", "MAS": "after", "RWalk": "before"}


def train_on_a_share(rank: int, folder: str) -> None:
    """Half of every batch of 8, and all samples of the last of 3, which is for one process."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    states = {}
    for name, how in NAMES.items():
        model = DistributedDataParallel(network())
        plugin = PLUGINS[name](model)
        for batches in tasks(2):
            shares = [(x[rank::2], y[rank::2]) for x, y in batches[:2]]
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            for x, y in shares:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                if how == "before":
                    loss = plugin.before_backward(loss)
                loss.backward()
                plugin.after_backward()
                optimizer.step()
                plugin.after_step()
            plugin.on_task_end(shares + (batches[2:] if rank else []))
        states[name] = (model.module.state_dict(), plugin.state_dict())
    torch.save(states, Path(folder, f"state{rank}"))
    dist.destroy_process_group()
