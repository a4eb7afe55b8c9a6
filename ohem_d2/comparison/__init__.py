"""Runs of train_net.py, several configs and seeds side by side, and their figures as tables."""

from .arms import run_arms
from .progress import describe_progress, read_progress, show_progress
from .runs import arguments, read_roi_losses, run_once, write_json
from .tables import check_equal_tests, check_scipy, describe_environment, render_changes, render_table

__all__ = [
    "arguments",
    "check_equal_tests",
    "check_scipy",
    "describe_environment",
    "describe_progress",
    "read_progress",
    "read_roi_losses",
    "render_changes",
    "render_table",
    "run_arms",
    "run_once",
    "show_progress",
    "write_json",
]
