"""Wording shared by the errors and warnings of the data room."""

from typing import Collection


def name_some(items: Collection[object], limit: int = 5) -> str:
    """The first ``limit`` items joined by commas, and how many more there are: "a, b and 3 more"."""
    shown = ", ".join(str(item) for item, _ in zip(items, range(limit)))
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
