"""Continual learning for loops of other people: a few calls around their own steps.

    loss = criterion(model(x), y)
    loss.backward()
    plugin.after_backward()
    optimizer.step()
    plugin.after_step()

and `plugin.on_task_end(loader)` between tasks.
"""

from .agem import AGEM
from .base import Plugin
from .er import ER, ERMIR
from .ewc import EWC, OnlineEWC
from .gem import GEM
from .lwf import LwF
from .mas import MAS
from .quadratic import QuadraticPlugin
from .rehearsal import BufferPlugin, RehearsalPlugin
from .rwalk import RWalk
from .si import SI

__all__ = [
    "AGEM",
    "ER",
    "ERMIR",
    "EWC",
    "GEM",
    "MAS",
    "SI",
    "BufferPlugin",
    "LwF",
    "OnlineEWC",
    "Plugin",
    "QuadraticPlugin",
    "RWalk",
    "RehearsalPlugin",
]
