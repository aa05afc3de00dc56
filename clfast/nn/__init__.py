"""Networks, and contexts around modules, that continual-learning methods need."""

from .critic import Critic
from .masked_generator import MaskedGenerator
from .multiplicity import batch_moments, copies_stay_equal, row_multiplicity, statistics_kept
from .resnet import resnet18
from .task_norm import TaskBatchNorm2d
from .tasks import TaskModule, at_task

__all__ = [
    "Critic",
    "MaskedGenerator",
    "TaskBatchNorm2d",
    "TaskModule",
    "at_task",
    "batch_moments",
    "copies_stay_equal",
    "resnet18",
    "row_multiplicity",
    "statistics_kept",
]
