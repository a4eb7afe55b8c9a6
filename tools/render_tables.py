#!/usr/bin/env python
"""Render the tables of results in Markdown files from results.json files; nobody types a number.

    python tools/render_tables.py README.md MODEL_ZOO.md [--check]

A table stands between ``<!-- table: FILE -->`` and ``<!-- end of table -->``; FILE, relative to the Markdown
file, is what tools/run_arms.py wrote. ``<!-- table: FILE NAME -->`` is the table NAME that FILE describes for
tools/reproduce.py, with the figures of results.json beside it. Rows that are compared but were tested with
different settings are refused.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paper_tables import check_equal_tests, load_results, load_tables, render_rows
from scipy.stats import t as student_t

# Column: the figure of a run that it shows, and its decimals.
COLUMNS = {
    "AP": ("bbox/AP", 1),
    "AP50": ("bbox/AP50", 1),
    "AP75": ("bbox/AP75", 1),
    "mean loss over all RoIs": ("ohem/all_roi_loss", 3),
    "trained fg : bg": ("fg_per_bg", 2),
    "s / iteration": ("seconds_per_iteration", 2),
}
_TABLE = re.compile(r"(<!-- table: (\S+)(?: (\S+))? -->\n).*?(<!-- end of table -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.md")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a table is not up to date"
    )
    args = parser.parse_args()
    try:
        rendered = {file: render_file(file) for file in args.files}
    except (ValueError, OSError) as error:
        sys.exit(f"render_tables.py: {error}")
    stale = [file for file, text in rendered.items() if text != file.read_text()]
    if args.check and stale:
        sys.exit(f"render_tables.py: not up to date: {', '.join(map(str, stale))}")
    for file in stale:
        file.write_text(rendered[file])


def render_file(file: Path) -> str:
    """The text of a Markdown file with its tables rendered anew."""

    def table(match: "re.Match[str]") -> str:
        marker, source, name, end = match.groups()
        return f"{marker}{_render(file.parent / source, name)}\n{end}"

    return _TABLE.sub(table, file.read_text())


def _render(source: Path, name: str | None) -> str:
    if name is None:
        return render_table(json.loads(source.read_text()))
    return render_rows(load_tables(source), name, load_results(source.with_name("results.json")))


def render_table(runs: Sequence[dict[str, Any]]) -> str:
    """One row per arm, with mean and 95% interval over its seeds; no column without any figure.

    Args:
        runs: of ``results.json``.

    Raises:
        ValueError: no runs, or runs of the same test whose test settings differ.
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
        of_arm = [run for run in runs if run["arm"] == arm]
        cells = [
            _cell([run["figures"].get(key) for run in of_arm], decimals) for key, decimals in columns.values()
        ]
        lines.append(f"| {arm} | {len(of_arm)} | " + " | ".join(cells) + " |")
    environment = ", ".join(f"{name} {value}" for name, value in runs[0]["environment"].items())
    return "\n".join([*lines, "", "Mean ± 95% interval of the mean over seeds (Student's t); one seed has no interval.",
                      "", f"Hardware and versions: {environment}."])  # fmt: skip


def _cell(values: Sequence[Any], decimals: int) -> str:
    if any(value is None for value in values):
        return ""
    mean = f"{statistics.mean(values):.{decimals}f}"
    if len(values) == 1:
        return mean
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {half:.{decimals}f}"


if __name__ == "__main__":
    main()
