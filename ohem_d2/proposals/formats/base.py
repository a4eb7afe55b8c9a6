"""What a proposal format of others is: how it is recognized, its box convention and its reader."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Budget", "Entry", "Format", "RawProposals", "equal_scores", "require_extra"]

Entry = tuple[Any, Any, Any]  # image id, (n, 4) boxes as the file has them, (n,) scores

# Integers widen to float32 up to fourfold and deflate halves boxes; what unpacks to more than this many times
# its file is made to exhaust the memory.
MAX_EXPANSION = 32
SMALL = 2**24


@dataclass(frozen=True)
class RawProposals:
    """A file of others, opened: its images one by one, its box convention by name, what it was taken for."""

    entries: Iterator[Entry]
    convention: str
    kind: str


@dataclass(frozen=True)
class Format:
    """Attributes:
    name: as ``--format`` takes it.
    title: what it is, for the help.
    matches: whether a path, whose file begins with the bytes given (none of a folder), is in this format.
    read: opens a path; ids of the data set, in order, are given where the format itself has none.
    needs_ids: whether it has none.
    """

    name: str
    title: str
    matches: Callable[[Path, bytes], bool]
    read: Callable[..., RawProposals]
    needs_ids: bool = False


class Budget:
    """Bounds what a file may unpack to, so that a small one cannot exhaust the memory."""

    def __init__(self, path: Path, size: int | None = None) -> None:
        self._path, self._size = path, path.stat().st_size if size is None else size
        self._left = max(SMALL, MAX_EXPANSION * self._size)

    def spend(self, num_bytes: int, what: str) -> None:
        """Call it before ``num_bytes`` more are put into memory.

        Raises:
            ValueError: all that was spent is more than 32 times the file (and than 16 MiB).
        """
        self._left -= num_bytes
        if num_bytes < 0 or self._left < 0:
            raise ValueError(
                f"{self._path}: {what} would unpack to {num_bytes} bytes or more, "
                f"from a file of {self._size}: refused"
            )


def equal_scores(boxes: Any) -> NDArray[Any]:
    """Zeros for each of (n, 4) boxes, from a format without scores; none for what has another shape."""
    shape = np.shape(boxes)
    return np.zeros(shape[0] if len(shape) == 2 and shape[1] == 4 else 0)


def require_extra(module: str, what: str) -> ImportError:
    """The error for a missing library of the extra ``proposals``."""
    return ImportError(f'{what} needs {module}: pip install "ohem_d2[proposals]"')
