"""Continual-learning methods, one module a family; every learner follows `Learner`."""

from __future__ import annotations

from .adi import ADI
from .arm import ARM
from .attachment import Attachment, attach, attached
from .deep_inversion import DeepInversion
from .dgm import DGMa, DGMw
from .distillation import Finetune, LwF
from .generative import GenerativeClassifier
from .generative_replay import DGR, MeRGAN
from .hat import HAT
from .hebb import Hebb, MbPA, Mixture, MixtureTerm
from .image_replay import Recalled
from .images import Generated
from .parametric import Parametric
from .protocol import Learner, TaskLearner
from .rehearsal import AGEM, ER, ERMIR, GEM

__all__ = [
    "ADI",
    "AGEM",
    "ARM",
    "DGR",
    "ER",
    "ERMIR",
    "GEM",
    "HAT",
    "Attachment",
    "DGMa",
    "DGMw",
    "DeepInversion",
    "Finetune",
    "Generated",
    "GenerativeClassifier",
    "Hebb",
    "Learner",
    "LwF",
    "MbPA",
    "MeRGAN",
    "Mixture",
    "MixtureTerm",
    "Parametric",
    "Recalled",
    "TaskLearner",
    "attach",
    "attached",
]
