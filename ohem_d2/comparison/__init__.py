"""Runs of train_net.py, several configs, seeds and data sets side by side, and their figures as tables."""

from .arms import Run, Variant, arms_of_files, make_runs, parse_variant
from .children import EXIT_CODE, Stopped, end_with_children
from .intervals import check_scipy
from .jobs import JobLauncher, parse_parameters
from .pairs import best_arm, describe_margin, describe_pairs, pair
from .planning import (
    KNOWN_SPREAD,
    describe_plan,
    keep_plan,
    make_plan,
    measured_spread,
    parse_duration,
    shorten,
)
from .progress import describe_progress, read_progress, show_progress
from .report import check_arms, compare_records, write_report
from .runs import arguments, read_curve, read_roi_losses, run_once, write_json
from .sweep import Record, Sweep, check_records, keep_settings, read_records
from .tables import check_equal_tests, describe_environment, render_changes, render_table
from .trials import check_trials, describe_unequal_starts, try_all

__all__ = [
    "EXIT_CODE",
    "KNOWN_SPREAD",
    "JobLauncher",
    "Record",
    "Run",
    "Stopped",
    "Sweep",
    "Variant",
    "arguments",
    "arms_of_files",
    "best_arm",
    "check_arms",
    "check_equal_tests",
    "check_records",
    "check_scipy",
    "check_trials",
    "compare_records",
    "describe_environment",
    "describe_margin",
    "describe_pairs",
    "describe_plan",
    "describe_progress",
    "describe_unequal_starts",
    "end_with_children",
    "keep_plan",
    "keep_settings",
    "make_plan",
    "make_runs",
    "measured_spread",
    "pair",
    "parse_duration",
    "parse_parameters",
    "parse_variant",
    "read_curve",
    "read_progress",
    "read_records",
    "read_roi_losses",
    "render_changes",
    "render_table",
    "run_once",
    "shorten",
    "show_progress",
    "try_all",
    "write_json",
    "write_report",
]
