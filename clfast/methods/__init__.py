"""Continual-learning methods, one module a family; every learner follows `Learner`."""

from __future__ import annotations

from .adi import ADI
from .arm import ARM
from .attachment import Attachment, attach, attached
from .deep_inversion import DeepInversion
from .distillation import Finetune, LwF
from .hat import HAT
from .hebb import Hebb, MbPA, Mixture, MixtureTerm
from .image_replay import Recalled
from .parametric import Parametric
from .protocol import Learner
from .rehearsal import AGEM, ER, ERMIR, GEM

__all__ = [
    "ADI",
    "AGEM",
    "ARM",
    "ER",
    "ERMIR",
    "GEM",
    "HAT",
    "Attachment",
    "DeepInversion",
    "Finetune",
    "Hebb",
    "Learner",
    "LwF",
    "MbPA",
    "Mixture",
    "MixtureTerm",
    "Parametric",
    "Recalled",
    "attach",
    "attached",
]
