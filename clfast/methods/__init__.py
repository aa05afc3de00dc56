"""Continual-learning methods, one module a family; every learner follows `Learner`."""

from __future__ import annotations

from .hebb import Hebb, MbPA, Mixture
from .parametric import Parametric
from .protocol import Learner

__all__ = ["Hebb", "Learner", "MbPA", "Mixture", "Parametric"]
