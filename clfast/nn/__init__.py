"""Modules and contexts around modules that continual-learning methods need."""

from .multiplicity import copies_stay_equal, row_multiplicity, statistics_kept

__all__ = ["copies_stay_equal", "row_multiplicity", "statistics_kept"]
