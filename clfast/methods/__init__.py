"""Continual-learning methods, one module a family; every learner follows `Learner`."""

from __future__ import annotations

from .arm import ARM, Recalled
from .attachment import Attachment, attach, attached
from .distillation import Finetune, LwF
from .hebb import Hebb, MbPA, Mixture, MixtureTerm
from .parametric import Parametric
from .protocol import Learner

__all__ = [
    "ARM",
    "Attachment",
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
