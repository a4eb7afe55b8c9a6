"""``metrics.json``, to which Detectron2 adds a line of JSON for each iteration that it records."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["drop_rows", "read_metrics"]


def read_metrics(file: str | Path) -> list[dict[str, Any]]:
    """The rows of a file by iteration; a line that was cut, as by a kill, is skipped. No file: no rows.

    In the file a test stands after the iterations that are written with it.
    """
    rows = [row for _, row in _rows(Path(file)) if row is not None]
    return sorted(rows, key=lambda row: row.get("iteration", -1))


def drop_rows(file: str | Path, first: int) -> None:
    """Drop the rows of a file that are of iteration `first` or later, or were cut.

    It is written over, not replaced, since a writer may have opened it.

    Args:
        file: not there: nothing is done.
        first: iteration.
    """
    lines = list(_rows(Path(file)))
    kept = [line for line, row in lines if _is_whole(line, row) and row.get("iteration", -1) < first]
    if len(kept) < len(lines):
        with open(file, "r+b") as stream:
            stream.writelines(kept)
            stream.truncate()


def _is_whole(line: bytes, row: dict[str, Any] | None) -> bool:
    return row is not None and line.endswith(b"\n")


def _rows(file: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Of each line its bytes, and its row; None if it was cut."""
    for line in file.read_bytes().splitlines(keepends=True) if file.exists() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        is_row = isinstance(row, dict) and isinstance(row.get("iteration", 0), int)
        yield line, row if is_row else None
