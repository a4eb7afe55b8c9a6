"""Arms of a comparison as a Markdown table: the mean and its interval over seeds, of equal tests only."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from typing import Any

# Column: the figure of a run that it shows, and its decimals.
COLUMNS = {
    "AP": ("bbox/AP", 1),
    "AP50": ("bbox/AP50", 1),
    "AP75": ("bbox/AP75", 1),
    "mean loss over all RoIs": ("ohem/all_roi_loss", 3),
    "trained fg : bg": ("fg_per_bg", 2),
    "s / iteration": ("seconds_per_iteration", 2),
}
_LEGEND = "Mean ± 95% interval of the mean over seeds (Student's t); one seed has no interval."


def render_table(runs: Sequence[dict[str, Any]]) -> str:
    """One row per arm, with mean and 95% interval over its seeds; no column without any figure.

    Args:
        runs: of ``results.json``.

    Raises:
        ValueError: no runs, or runs of the same test whose test settings differ.
        ImportError: several seeds, and no scipy.
    """
    if not runs:
        raise ValueError("no table: there are no runs")
    test_of = {run["arm"]: run.get("test") for run in runs}
    check_equal_tests(((run["arm"], run["test_settings"]) for run in runs), lambda arm, key: test_of[arm])
    columns = {
        name: (key, n) for name, (key, n) in COLUMNS.items() if any(key in run["figures"] for run in runs)
    }
    lines = ["| arm | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for arm in dict.fromkeys(run["arm"] for run in runs):
        of_arm = [run["figures"] for run in runs if run["arm"] == arm]
        cells = [_cell([figures.get(key) for figures in of_arm], n) for key, n in columns.values()]
        lines.append(f"| {arm} | {len(of_arm)} | " + " | ".join(cells) + " |")
    environment = ", ".join(f"{name} {value}" for name, value in runs[0]["environment"].items())
    return "\n".join([*lines, "", _LEGEND, "", f"Hardware and versions: {environment}."])


def _cell(values: Sequence[Any], decimals: int) -> str:
    if any(value is None for value in values):
        return ""
    mean = f"{statistics.mean(values):.{decimals}f}"
    if len(values) == 1:
        return mean
    check_scipy()
    from scipy.stats import t as student_t  # slow to import, and one seed needs none

    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {half:.{decimals}f}"


def check_scipy() -> None:
    """Raise ImportError, saying what to install, unless there is scipy: without it there are no intervals."""
    if find_spec("scipy") is None:
        raise ImportError('the interval over seeds needs scipy: pip install "ohem_d2[compare]"')


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
