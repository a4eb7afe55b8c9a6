"""What defines a third-party proposal format: how it is recognised, its box convention and its reader."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Entry", "Format", "RawProposals", "equal_scores", "require_extra"]

Entry = tuple[Any, Any, Any]  # image id, (n, 4) boxes as the file has them, (n,) scores


@dataclass(frozen=True)
class RawProposals:
    """An opened third-party file: its images one by one, the name of its box convention, and its format."""

    entries: Iterator[Entry]
    convention: str
    kind: str


@dataclass(frozen=True)
class Format:
    """A third-party proposal format.

    Attributes:
        name: value of ``--format``.
        title: description for the help.
        matches: whether a path, and the first bytes of its file (empty for a folder), are of this format.
        read: opens a path; if `needs_ids`, its second argument is the ids of the data set, in order.
        needs_ids: whether the format has no image ids of its own.
    """

    name: str
    title: str
    matches: Callable[[Path, bytes], bool]
    read: Callable[..., RawProposals]
    needs_ids: bool = False


def equal_scores(boxes: Any) -> NDArray[Any]:
    """(n,) zeros for (n, 4) boxes of a format without scores; empty for boxes of another shape."""
    shape = np.shape(boxes)
    return np.zeros(shape[0] if len(shape) == 2 and shape[1] == 4 else 0)


def require_extra(module: str, what: str) -> ImportError:
    """The error for a library of the extra ``proposals`` that is not installed."""
    return ImportError(f'{what} needs {module}: pip install "ohem_d2[proposals]"')
