#!/usr/bin/env python
"""Render the tables of results in Markdown files from results.json files; nobody types a number.

    python benchmarks/render_tables.py README.md MODEL_ZOO.md [--check]

A table stands between ``<!-- table: FILE -->`` and ``<!-- end of table -->``; FILE, relative to the Markdown
file, is what tools/compare.py wrote. ``<!-- table: FILE NAME -->`` is the table NAME that FILE describes for
benchmarks/reproduce.py, with the figures of results.json beside it; ``<!-- table: FILE without COLUMN -->``
leaves out a column that compares nothing; ``<!-- table: FILE changes A:B C:D -->`` has the change of AP from
arm A to B and from C to D, paired by seed. There a ``*`` in FILE, as in ``confirmation-*/results.json``,
stands for several data sets, which are named by what is in its place. Rows that are compared but were tested
with different settings are refused.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from paper_tables import load_results, load_tables, render_rows

from ohem_d2.comparison import render_changes, render_table

_TABLE = re.compile(
    r"(<!-- table: (\S+)(?: without ([^>]+)| changes ([^>]+)| (\S+))? -->\n).*?(<!-- end of table -->)",
    re.DOTALL,
)


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
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"render_tables.py: {error}")
    stale = [file for file, text in rendered.items() if text != file.read_text()]
    if args.check and stale:
        sys.exit(f"render_tables.py: not up to date: {', '.join(map(str, stale))}")
    for file in stale:
        file.write_text(rendered[file])


def render_file(file: Path) -> str:
    """The text of a Markdown file with its tables rendered anew."""

    def table(match: "re.Match[str]") -> str:
        marker, source, left_out, pairs, name, end = match.groups()
        if pairs is not None:
            return f"{marker}{_render_changes(file.parent, source, pairs.split())}\n{end}"
        return f"{marker}{_render(file.parent / source, name, left_out)}\n{end}"

    return _TABLE.sub(table, file.read_text())


def _render_changes(folder: Path, source: str, pairs: Sequence[str]) -> str:
    files = sorted(folder.glob(source)) if "*" in source else [folder / source]
    if not files:
        raise ValueError(f"no file is {folder / source}")
    before, _, after = source.partition("*")
    names = [str(file.relative_to(folder)).removeprefix(before).removesuffix(after) for file in files]
    runs = {name: json.loads(file.read_text()) for name, file in zip(names, files)}
    return render_changes(runs, [pair.split(":") for pair in pairs])


def _render(source: Path, name: str | None, left_out: str | None) -> str:
    if name is None:
        return render_table(json.loads(source.read_text()), left_out=[left_out] if left_out else [])
    return render_rows(load_tables(source), name, load_results(source.with_name("results.json")))


if __name__ == "__main__":
    main()
