"""Plugins and policies for strategies of Avalanche 0.6 (avalanche-lib).

    strategy = Naive(model=model, optimizer=optimizer, plugins=[EWC(strength=100.0)], ...)

They are called by name, so that Avalanche is never imported here; `accelerate_avalanche` imports it
when it is called.
"""

from .adapter import AGEM, ER, ERMIR, EWC, GEM, MAS, SI, Adapter, LwF, OnlineEWC, Rehearsal, RWalk
from .exemplars import ExemplarBuffer, HerdingBuffer, MnemonicsBuffer
from .generative import Generator, GeneratorStrategy
from .head import Hebb, MbPA, Mixture, PredictionHead
from .patches import Accelerated, accelerate_avalanche
from .protection import Protect
from .recall import ARM
from .replay import Replay

__all__ = [
    "AGEM",
    "ARM",
    "ER",
    "ERMIR",
    "EWC",
    "GEM",
    "MAS",
    "SI",
    "Accelerated",
    "Adapter",
    "ExemplarBuffer",
    "Generator",
    "GeneratorStrategy",
    "Hebb",
    "HerdingBuffer",
    "LwF",
    "MbPA",
    "Mixture",
    "MnemonicsBuffer",
    "OnlineEWC",
    "PredictionHead",
    "Protect",
    "RWalk",
    "Rehearsal",
    "Replay",
    "accelerate_avalanche",
]
