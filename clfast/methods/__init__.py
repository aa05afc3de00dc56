"""Continual-learning methods, one module a family.

Learners follow `Learner`, which sees a stream batch by batch, but for the generative classifiers
(DGM and what it is compared to): they are `TaskLearner`s, which see a task at once.
"""

from __future__ import annotations

from .adi import ADI
from .arm import ARM
from .attachment import Attachment, attach, attached
from .bic import BiC
from .deep_inversion import DeepInversion
from .dgm import DGMa, DGMw
from .distillation import Finetune, LwF
from .ewc_memory import EWCM
from .exemplar_selection import Exemplars, ExemplarSelection, Herding, RandomSelection
from .generative import GenerativeClassifier
from .generative_replay import DGR, MeRGAN
from .hat import HAT
from .hebb import Hebb, MbPA, Mixture, MixtureTerm
from .icarl import ICaRL
from .image_replay import Recalled
from .images import Generated
from .joint_training import JointTraining
from .lucir import LUCIR
from .mnemonics import Mnemonics
from .no_replay import NoReplay
from .parametric import Parametric
from .phase_options import Phase, PhaseProgress
from .protocol import Learner, TaskLearner
from .rehearsal import AGEM, ER, ERMIR, GEM

__all__ = [
    "ADI",
    "AGEM",
    "ARM",
    "DGR",
    "ER",
    "ERMIR",
    "EWCM",
    "GEM",
    "HAT",
    "LUCIR",
    "Attachment",
    "BiC",
    "DGMa",
    "DGMw",
    "DeepInversion",
    "ExemplarSelection",
    "Exemplars",
    "Finetune",
    "Generated",
    "GenerativeClassifier",
    "Hebb",
    "Herding",
    "ICaRL",
    "JointTraining",
    "Learner",
    "LwF",
    "MbPA",
    "MeRGAN",
    "Mixture",
    "MixtureTerm",
    "Mnemonics",
    "NoReplay",
    "Parametric",
    "Phase",
    "PhaseProgress",
    "RandomSelection",
    "Recalled",
    "TaskLearner",
    "attach",
    "attached",
]
