"""Formatting of values in errors and warnings."""

import os
import reprlib
from collections.abc import Collection, Iterable


def name_some(items: Collection[object], limit: int = 5) -> str:
    """The first `limit` items, joined by commas, and how many more there are: "a, b and 3 more"."""
    shown = ", ".join(str(item) for item, _ in zip(items, range(limit)))
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def other_form(image_id: str, known_ids: Iterable[str]) -> str:
    """A hint, if a known id differs from an unknown one only in folder, suffix or leading zeros; else ""."""
    other = next((known for known in known_ids if _bare(known) == _bare(image_id)), None)
    return f" (the file has {other!r}; ids are compared as strings)" if other is not None else ""


def _bare(text: str) -> str:
    return os.path.splitext(os.path.basename(text))[0].lstrip("0")


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 2, 60, 60


def brief(value: object) -> str:
    """A short ``repr``, truncated while it is made: nested lists of an untrusted file could fill memory."""
    return " ".join(_REPR.repr(value).split())[:100]


def one_line(error: object) -> str:
    """What an error of another library says, on one line of 300 characters at most."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def describe_error(error: BaseException) -> str:
    """The class and the message of an error on one line; of one in a worker of a loader, the original."""
    lines = str(error).splitlines()
    if "Original Traceback (most recent call last):" in lines:
        return lines[-1]
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f"{type(error).__name__}: {' '.join(str(text).split())}"
