"""Networks, and contexts around modules, that continual-learning methods need."""

from .conditional_generator import ConditionalGenerator
from .critic import Critic
from .hat import HATConv2d, HATLinear, TaskHeads, end_hat_task, hat_layers, hat_mlp
from .masked import MaskedConvTranspose2d, MaskedLinear, TaskMask, masks_at
from .masked_generator import MaskedGenerator
from .multiplicity import batch_moments, copies_stay_equal, row_multiplicity, statistics_kept
from .resnet import resnet18
from .task_norm import TaskBatchNorm2d
from .tasks import TaskModule, at_task

__all__ = [
    "ConditionalGenerator",
    "Critic",
    "HATConv2d",
    "HATLinear",
    "MaskedConvTranspose2d",
    "MaskedGenerator",
    "MaskedLinear",
    "TaskBatchNorm2d",
    "TaskHeads",
    "TaskMask",
    "TaskModule",
    "at_task",
    "batch_moments",
    "copies_stay_equal",
    "end_hat_task",
    "hat_layers",
    "hat_mlp",
    "masks_at",
    "resnet18",
    "row_multiplicity",
    "statistics_kept",
]
