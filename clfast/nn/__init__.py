"""Networks, and contexts around modules, that continual-learning methods need."""

from .multiplicity import batch_moments, copies_stay_equal, row_multiplicity, statistics_kept
from .resnet import resnet18

__all__ = [
    "batch_moments",
    "copies_stay_equal",
    "resnet18",
    "row_multiplicity",
    "statistics_kept",
]
