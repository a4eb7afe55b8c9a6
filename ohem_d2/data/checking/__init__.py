"""Checks of data sets on disk that list every problem with its file, not only the first."""

from .dataset import Problem, Report, check_dataset

__all__ = ["Problem", "Report", "check_dataset"]
