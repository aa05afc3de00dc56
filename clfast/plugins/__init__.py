"""Continual learning for loops of other people: a few calls around their own steps.

    loss = criterion(model(x), y)
    loss.backward()
    plugin.after_backward()
    optimizer.step()
    plugin.after_step()

and `plugin.on_task_end(loader)` between tasks.
"""

from .base import Plugin
from .ewc import EWC, OnlineEWC
from .mas import MAS
from .quadratic import QuadraticPlugin
from .rwalk import RWalk
from .si import SI

__all__ = ["EWC", "MAS", "SI", "OnlineEWC", "Plugin", "QuadraticPlugin", "RWalk"]
