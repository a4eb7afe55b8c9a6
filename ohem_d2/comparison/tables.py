"""Arms of a comparison as a Markdown table: the mean and its interval over seeds, of equal tests only."""

import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .intervals import half_width
from .pairs import Pairs, describe_interval, pair

# Column: the figure of a run that it shows, and its decimals.
COLUMNS = {
    "AP": ("bbox/AP", 1),
    "AP50": ("bbox/AP50", 1),
    "AP75": ("bbox/AP75", 1),
    "mean loss over all RoIs": ("ohem/all_roi_loss", 3),
    "trained fg : bg": ("fg_per_bg", 2),
    "s / iteration": ("seconds_per_iteration", 2),
}
# What may make a difference instead of the way of sampling: the figure of a run, and its form.
_CONFOUNDS = {
    "RoIs trained an image": ("rois_per_image", "{:.1f}"),
    "foreground of them": ("fg_per_image", "{:.1f}"),
    "learning rate": ("learning_rate", "{:g}"),
}
_LEGEND = "Mean ± 95% interval of the mean over seeds (Student's t); one seed has no interval."


def render_table(runs: Sequence[dict[str, Any]], left_out: Sequence[str] = ()) -> str:
    """One row per arm, with mean and 95% interval over its seeds; no column without any figure.

    Args:
        runs: of ``results.json``.
        left_out: columns to leave out.

    Raises:
        ValueError: no runs, runs of the same test whose test settings differ, or no such column to leave out.
        ImportError: several seeds, and no scipy.
    """
    if not runs:
        raise ValueError("no table: there are no runs")
    test_of = {run["arm"]: run.get("test") for run in runs}
    check_equal_tests(((run["arm"], run["test_settings"]) for run in runs), lambda arm, key: test_of[arm])
    if unknown := set(left_out) - set(COLUMNS):
        raise ValueError(f"there is no column {unknown.pop()!r}; valid: {', '.join(COLUMNS)}")
    columns = {
        name: (key, n)
        for name, (key, n) in COLUMNS.items()
        if name not in left_out and any(key in run["figures"] for run in runs)
    }
    lines = ["| arm | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for arm in dict.fromkeys(run["arm"] for run in runs):
        of_arm = [run["figures"] for run in runs if run["arm"] == arm]
        cells = [_cell([figures.get(key) for figures in of_arm], n) for key, n in columns.values()]
        lines.append(f"| {arm} | {len(of_arm)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _LEGEND, "", describe_environment(runs[0]["environment"])])


def render_confounds(runs: Sequence[dict[str, Any]], gflop: Mapping[str, float]) -> str:
    """One row per arm: what differs beside the way of sampling, as means over runs and iterations.

    Args:
        runs: of ``results.json``, of one data set.
        gflop: arm -> 10^9 operations of an iteration.

    Returns:
        the table, without columns that have no figure; "" if none has.
    """
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    columns = {
        name: [_mean([run["figures"].get(key) for run in runs if run["arm"] == arm], form) for arm in arms]
        for name, (key, form) in _CONFOUNDS.items()
    }
    columns["GFLOP / iteration"] = [f"{gflop[arm]:.1f}" if arm in gflop else "" for arm in arms]
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    return markdown_table(["arm", *columns], zip(arms, *columns.values())) if columns else ""


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(statistics.mean(known)) if known else ""


def render_pairs(compared: Sequence[Sequence[Pairs]]) -> str:
    """One row per arm: its paired differences to another, with both intervals of the first figure.

    Args:
        compared: for each arm the pairs of one figure or more, the same figures for all.
    """
    names = [pairs.figure.rpartition("/")[2] for pairs in compared[0]]
    header = ["arm", "against", "seeds", *names, f"{names[0]}, bootstrap", f"{names[0]}, each seed"]
    rows = []
    for of_arm in compared:
        first = of_arm[0]
        each = ", ".join(f"{value:+.1f}" for value in first.values)
        cells = [describe_interval(pairs.t) for pairs in of_arm]
        row = [first.arm, first.reference, str(len(first.values)), *cells]
        rows.append([*row, describe_interval(first.bootstrap), each])
    legend = "Mean difference [95% interval of the mean], paired by seed: Student's t, and BCa bootstrap."
    if len(compared) > 1:
        legend += "\nEach interval is of one comparison: the best of several arms looks better than it is."
    return f"{markdown_table(header, rows)}\n\n{legend}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "|" + "|".join(line) + "|" if "---" in line else f"| {' | '.join(line)} |" for line in lines
    )


def render_changes(runs: Mapping[str, Sequence[dict[str, Any]]], pairs: Sequence[tuple[str, str]]) -> str:
    """One row per data set and pair of arms: by how much the second has more AP, with its 95% interval.

    Args:
        runs: name of a data set -> runs of its ``results.json``; of one data set the name is not shown.
        pairs: names of arms.

    Raises:
        ValueError: no such arm, two arms of different seeds, or of different test settings.
        ImportError: several seeds, and no scipy.
    """
    columns = {name: key for name, (key, _) in COLUMNS.items() if key.startswith("bbox/")}
    header = ["data", "change", "seeds", *columns]
    rows = [
        [name, f"{before} -> {after}", *_changes(of_data, before, after, columns.values())]
        for name, of_data in runs.items()
        for before, after in pairs
    ]
    shown = slice(0 if len(runs) > 1 else 1, None)
    table = markdown_table(header[shown], [row[shown] for row in rows])
    return f"{table}\n\nMean change [95% interval of the mean over seeds] (Student's t, paired)."


def _changes(runs: Sequence[dict[str, Any]], before: str, after: str, figures: Iterable[str]) -> list[str]:
    check_equal_tests((run["arm"], run["test_settings"]) for run in runs)
    seeds = {arm: sorted(run["seed"] for run in runs if run["arm"] == arm) for arm in (before, after)}
    if unknown := [arm for arm in seeds if not seeds[arm]]:
        known = ", ".join(dict.fromkeys(run["arm"] for run in runs))
        raise ValueError(f"there is no arm {unknown[0]!r}; valid: {known}")
    if seeds[before] != seeds[after]:
        raise ValueError(f"no pairs: {before} has seeds {seeds[before]}, {after} {seeds[after]}")
    compared = [pair(runs, after, before, figure) for figure in figures]
    one = len(seeds[before]) == 1
    cells = [f"{pairs.values[0]:+.1f}" if one else describe_interval(pairs.t) for pairs in compared]
    return [str(len(seeds[before])), *cells]


def describe_environment(environment: dict[str, str]) -> str:
    """A sentence with the hardware and the versions of a run, in lines of at most 120 columns."""
    parts = ", ".join(f"{name} {value}" for name, value in environment.items())
    return textwrap.fill(f"Hardware and versions: {parts}.", 120, break_on_hyphens=False)


def _cell(values: Sequence[Any], decimals: int) -> str:
    if any(value is None for value in values):
        return ""
    mean = f"{statistics.mean(values):.{decimals}f}"
    if len(values) == 1:
        return mean
    half = half_width(statistics.stdev(values), len(values))
    return f"{mean} ± {half:.{decimals}f}"


def check_equal_tests(
    tested: Iterable[tuple[str, dict[str, Any]]],
    declared: Callable[[str, str], Any] = lambda label, key: None,
) -> None:
    """Raise ValueError unless all were tested alike.

    Args:
        tested: label and test settings of each row.
        declared: of label and key; the setting must be equal in the rows for which this is equal.
    """
    tested = list(tested)
    first: dict[tuple, tuple[str, Any]] = {}
    for label, settings in tested:
        for key in dict.fromkeys(key for _, others in tested for key in others):
            value = settings.get(key, "not recorded")
            other, before = first.setdefault((key, declared(label, key)), (label, value))
            if value != before:
                differ = f"{key} is {before!r} for {other} and {value!r} for {label}"
                raise ValueError(f"no table: {differ}; arms must be tested alike")
