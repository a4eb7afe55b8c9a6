"""``metrics.json``, to which Detectron2 adds a line of JSON for each iteration that it records."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["drop_rows", "read_metrics"]


def read_metrics(file: str | Path) -> list[dict[str, Any]]:
    """The rows of a file; a line that was cut, as by a kill, is skipped. No file: no rows."""
    return [row for _, _, row in _rows(Path(file)) if row is not None]


def drop_rows(file: str | Path, first: int) -> None:
    """Drop the rows at the end of a file that are of iteration `first` or later, or were cut.

    Args:
        file: not there: nothing is done.
        first: iteration.
    """
    end = None
    for begin, line, row in reversed(list(_rows(Path(file)))):
        is_whole = row is not None and line.endswith(b"\n")
        if is_whole and row.get("iteration", -1) < first:
            break
        end = begin
    if end is not None:
        os.truncate(file, end)


def _rows(file: Path) -> Iterator[tuple[int, bytes, dict[str, Any] | None]]:
    """Of each line the byte at which it begins, its bytes, and its row; None if it was cut."""
    begin = 0
    for line in file.read_bytes().splitlines(keepends=True) if file.exists() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        is_row = isinstance(row, dict) and isinstance(row.get("iteration", 0), int)
        yield begin, line, row if is_row else None
        begin += len(line)
