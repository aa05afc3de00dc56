"""Networks, and contexts around modules, that continual-learning methods need."""

from .conditional_generator import ConditionalGenerator
from .convolutional_critic import dcgan_critic
from .cosine import CosineLinear
from .critic import Critic, resnet_critic
from .dcgan_generator import DCGANGenerator
from .hat import HATConv2d, HATLinear, TaskHeads, end_hat_task, hat_layers, hat_mlp
from .masked import MaskedConvTranspose2d, MaskedLinear, TaskMask, masks_at
from .masked_generator import MaskedGenerator
from .multiplicity import batch_moments, copies_stay_equal, row_multiplicity, statistics_kept
from .resnet import resnet18, resnet32
from .resnet_generator import ResNetGenerator
from .task_norm import TaskBatchNorm2d
from .tasks import TaskModule, at_task

__all__ = [
    "ConditionalGenerator",
    "CosineLinear",
    "Critic",
    "DCGANGenerator",
    "HATConv2d",
    "HATLinear",
    "MaskedConvTranspose2d",
    "MaskedGenerator",
    "MaskedLinear",
    "ResNetGenerator",
    "TaskBatchNorm2d",
    "TaskHeads",
    "TaskMask",
    "TaskModule",
    "at_task",
    "batch_moments",
    "copies_stay_equal",
    "dcgan_critic",
    "end_hat_task",
    "hat_layers",
    "hat_mlp",
    "masks_at",
    "resnet18",
    "resnet32",
    "resnet_critic",
    "row_multiplicity",
    "statistics_kept",
]
