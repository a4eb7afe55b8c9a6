"""What defines a third-party proposal format: how it is recognised, its box convention and its reader."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Budget", "Entry", "Format", "RawProposals", "equal_scores", "require_extra"]

Entry = tuple[Any, Any, Any]  # image id, (n, 4) boxes as the file has them, (n,) scores

# A file may unpack to this many times its size, and to SMALL bytes in any case. Compression and the widening
# of integers (at most eightfold) stay below; files made to exhaust the memory do not.
MAX_EXPANSION = 32
SMALL = 2**24


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


class Budget:
    """Bounds what a file may unpack to, so that a small file cannot exhaust the memory."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        self._path, self._size = path, path.stat().st_size if size is None else size
        self._left = max(SMALL, MAX_EXPANSION * self._size)

    def spend(self, num_bytes: int, what: str) -> None:
        """Account for `num_bytes` before they are allocated for `what`.

        Raises:
            ValueError: the total exceeds both `MAX_EXPANSION` times the file and `SMALL`.
        """
        self._left -= num_bytes
        if num_bytes < 0 or self._left < 0:
            raise ValueError(
                f"{self._path}: {what} would unpack to {num_bytes} bytes or more, "
                f"from a file of {self._size}: refused"
            )


def equal_scores(boxes: Any) -> NDArray[Any]:
    """(n,) zeros for (n, 4) boxes of a format without scores; empty for boxes of another shape."""
    shape = np.shape(boxes)
    return np.zeros(shape[0] if len(shape) == 2 and shape[1] == 4 else 0)


def require_extra(module: str, what: str) -> ImportError:
    """The error for a library of the extra ``proposals`` that is not installed."""
    return ImportError(f'{what} needs {module}: pip install "ohem_d2[proposals]"')
