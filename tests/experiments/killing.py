"""Forks that run until they are killed, and whether two of them ended alike."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Kill(NamedTuple):
    """SIGKILL at a call of a function: of that number, from 1, before or after it is done."""

    owner: Any
    name: str
    call: int
    after: bool


def killed(run: Callable[[], Any], kill: Kill) -> bool:
    """A fork that runs until it dies; whether it was killed."""
    pid = os.fork()
    if not pid:
        _arm(kill)
        run()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def _arm(kill: Kill) -> None:
    whole: Callable[..., Any] = getattr(kill.owner, kill.name)
    calls = 0

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == kill.call and not kill.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = whole(*arguments, **options)
        if calls == kill.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(kill.owner, kill.name, dying)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
