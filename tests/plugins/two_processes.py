"""What each of two processes does in the tests of plugins under DistributedDataParallel."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import rehearsal_cases as rehearsal
import torch
import torch.distributed as dist
import torch.nn.functional as F
from penalty_cases import PLUGINS, network, tasks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from clfast import ops
from clfast.plugins import ER, GEM, LwF

NAMES = {"EWC": "before", "OnlineEWC": "after", "SI": "after", "MAS": "after", "RWalk": "before"}


def _join(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)


def train_on_a_share(rank: int, folder: str) -> None:
    """Half of every batch of 8, and all samples of the last of 3, which is for one process."""
    _join(rank, folder)
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


def rehearse_on_a_share(rank: int, folder: str) -> None:
    """Two tasks, and a step of a third; of that its gradients before and after the plugin, and what
    past samples say in this process alone. At "some" the second process has no past samples, with
    GEM none of the first task."""
    _join(rank, folder)
    found: dict[str, Any] = {}
    for name in rehearsal.PLUGINS:
        for stored in ("all", "some"):
            model = DistributedDataParallel(rehearsal.network())
            plugin = rehearsal.PLUGINS[name](model)
            for batches in rehearsal.tasks(2):
                share = [(x[rank::2], y[rank::2]) for x, y in batches[:2]]
                rehearsal.train(plugin, model, share)
                plugin.on_task_end(share)
                if rank and stored == "some":
                    _forget(plugin)
            x, y = (part[rank::2] for part in rehearsal.tasks(3)[2][0])
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            before = rehearsal.gradients(model)
            alone = _alone(plugin, model.module)
            statistics = {n: b.clone() for n, b in model.module.named_buffers()}
            plugin.after_backward()
            found[f"{name} {stored}"] = {
                "before": before,
                "alone": alone,
                "after": rehearsal.gradients(model),
                "parameters": [p.detach() for p in model.parameters()],
                "moved": not rehearsal.equal(statistics, dict(model.module.named_buffers())),
            }
            if isinstance(plugin, ER):
                twin = copy.deepcopy(model.module)
                found[f"{name} {stored}"]["in the loss"] = _in_the_loss(twin, plugin, x, y)
    found["LwF"] = _distil_on_a_share(rank)
    torch.save(found, Path(folder, f"state{rank}"))
    dist.destroy_process_group()


def _forget(plugin: Any) -> None:
    if isinstance(plugin, GEM):
        plugin.memories.pop(0, None)
    else:
        plugin.memory.clear()


def _alone(plugin: Any, network: nn.Module) -> list[list[Tensor]]:
    """Gradients of this process's past samples: one list, or one for each task."""
    twin = copy.deepcopy(network)
    weights = list(twin.parameters())
    nothing = [torch.zeros_like(p) for p in weights]

    def slopes(x: Tensor, y: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(F.cross_entropy(twin(x), y), weights))

    if isinstance(plugin, GEM):
        rows = [plugin.memories[t].rows if t in plugin.memories else None for t in range(2)]
        return [nothing if each is None else slopes(each["x"], each["y"]) for each in rows]
    if not len(plugin.memory):
        return [nothing]
    draws = torch.Generator()
    draws.set_state(plugin.generator.get_state())
    mir = hasattr(plugin, "candidates")
    drawn = plugin.memory.sample(plugin.candidates if mir else plugin.replay, draws)
    x, y = drawn["x"], drawn["y"]
    if mir:
        grads = [p.grad for p in network.parameters()]
        worst = ops.mir_scores(twin, x, y, grads, plugin.lr).topk(min(5, len(y))).indices
        x, y = x[worst], y[worst]
    return [slopes(x, y)]


def _in_the_loss(network: nn.Module, plugin: ER, x: Tensor, y: Tensor) -> list[list[Tensor]]:
    """Gradients by the two ways, from the same draws and two accumulated losses."""
    grads = []
    state = plugin.generator.get_state()
    for way in ("loss", "after"):
        model = DistributedDataParallel(copy.deepcopy(network))
        plugin.model = model
        plugin.generator.set_state(state)
        model.zero_grad()
        with model.no_sync():
            loss = F.cross_entropy(model(x), y)
            (plugin.before_backward(loss) if way == "loss" else loss).backward()
        F.cross_entropy(model(x), y).backward()
        plugin.after_backward()
        grads.append(rehearsal.gradients(model))
    return grads


def _distil_on_a_share(rank: int) -> Any:
    """LwF; the last batches and their classes are for one process alone."""
    model = DistributedDataParallel(network())
    plugin = LwF(model)
    for batches in tasks(3):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for x, y in batches[:2]:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[rank::2]), y[rank::2])
            plugin.before_backward(loss).backward()
            plugin.after_backward()
            optimizer.step()
        plugin.on_task_end([] if rank else batches)
    return dict(model.module.state_dict()), plugin.state_dict()


def fail_in_one(rank: int, folder: str) -> None:
    """The loader of the second process gives what is no batch; then both end the task."""
    _join(rank, folder)
    batches = tasks(1)[0]
    found: dict[str, tuple[str, str]] = {}
    makers = {"EWC": PLUGINS["EWC"], "MAS": PLUGINS["MAS"], "LwF": lambda model: LwF(model)}
    for name, make in makers.items():
        plugin = make(DistributedDataParallel(network()))
        before = copy.deepcopy(plugin.state_dict())
        try:
            plugin.on_task_end([*batches, "nothing"] if rank else batches)
        except (RuntimeError, TypeError) as error:
            found[name] = type(error).__name__, str(error)
        assert str(plugin.state_dict()) == str(before)
        plugin.on_task_end(batches)
    torch.save(found, Path(folder, f"failed{rank}"))
    dist.destroy_process_group()
