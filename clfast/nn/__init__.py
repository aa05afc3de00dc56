"""Modules and contexts around modules that continual-learning methods need."""

from .multiplicity import batch_moments, copies_stay_equal, row_multiplicity, statistics_kept

__all__ = ["batch_moments", "copies_stay_equal", "row_multiplicity", "statistics_kept"]
