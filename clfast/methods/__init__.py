"""Continual-learning methods, one module a family; every learner follows `Learner`."""

from __future__ import annotations

from .attachment import Attachment, attach, attached
from .hebb import Hebb, MbPA, Mixture, MixtureTerm
from .parametric import Parametric
from .protocol import Learner

__all__ = [
    "Attachment",
    "Hebb",
    "Learner",
    "MbPA",
    "Mixture",
    "MixtureTerm",
    "Parametric",
    "attach",
    "attached",
]
